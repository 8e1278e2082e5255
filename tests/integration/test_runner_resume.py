"""Going on from a checkpoint changes nothing: the same losses step for step, the same weights."""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from jobs.job import Reason
from tests.doubles.stopping import StopAfter
from worker.events import CheckpointEvent, EndEvent, EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.resume import Position, Saved, set_counters

Lay = Callable[..., AttemptFolder]
Points = dict[tuple[str, int], tuple[float, int]]

#: All that draws numbers in training: masks of recurrent layers, coins and symbols of its own.
CHANCE = {"layers": 2, "variational": True, "recurrent_dropout": 0.3, "scheduled_sampling": 1.0}
#: Dropout, three steps to a point and several epochs, so that every kind of state matters.
SPEC: dict[str, Any] = {"trainer": {"max_epochs": 3, "log_every": 3, "patience": 3}}


def points_of(folder: AttemptFolder) -> Points:
    return {
        (each.name, each.step): (each.value, each.epoch)
        for each in EventReader(folder.events_file).read()
        if isinstance(each, MetricEvent) and each.name != "train/tokens_per_second"
    }


def newest_of(folder: AttemptFolder) -> Path:
    told = [e for e in EventReader(folder.events_file).read() if isinstance(e, CheckpointEvent)]
    return folder.checkpoints / told[-1].file


def end_of(folder: AttemptFolder) -> EndEvent:
    *_, last = EventReader(folder.events_file).read()
    assert isinstance(last, EndEvent)
    return last


def assert_equal(left: Any, right: Any, where: str = "") -> None:
    """Compare what a checkpoint holds, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, Mapping):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for place, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{where}/{place}")
    else:
        assert left == right, where


def assert_same_training(whole: AttemptFolder, parts: list[AttemptFolder]) -> None:
    """Compare points, the last checkpoint, and the result of a training in one go and in parts."""
    together: Points = {}
    for part in parts:
        points = points_of(part)
        assert not points.keys() & together.keys(), "a point was reported twice"
        together |= points
    expected = points_of(whole)
    # A part that ends reports nothing of a window that the next one fills.
    assert together == expected
    left, right = (Saved.read(newest_of(each)).to_dict() for each in (whole, parts[-1]))
    assert_equal(left, right)
    assert end_of(whole).result == end_of(parts[-1]).result


@pytest.fixture
def lay_changing(lay: Lay, data_root: Path, tmp_path: Path) -> Lay:
    """Return a function that lays an attempt folder over so many rows to train on."""
    root = tmp_path / "changing"
    shutil.copytree(data_root / "corpus", root / "corpus")

    def make(name: str, spec: dict[str, Any], rows: int, **attempt: Any) -> AttemptFolder:
        for path in (data_root / "corpus").glob("train.*"):
            lines = path.read_text().splitlines(keepends=True)
            (root / "corpus" / path.name).write_text("".join(lines[:rows]))
        return lay(name, spec, roots=(str(root),), **attempt)

    return make


@pytest.fixture
def whole(lay: Lay) -> AttemptFolder:
    folder = lay("whole", SPEC)
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    return folder


@pytest.mark.parametrize("batches", [1, 2, 5, 7, 11])
def test_a_training_stopped_anywhere_goes_on_as_if_it_had_not(
    lay: Lay, whole: AttemptFolder, batches: int
) -> None:
    first = lay("first", SPEC)
    assert run(first, StopAfter(batches)).reason == Reason.PREEMPTED
    second = lay("second", SPEC, checkpoint=str(newest_of(first)))
    assert run(second, Commands()).reason == Reason.SUCCEEDED
    assert_same_training(whole, [first, second])


@pytest.mark.parametrize(
    "model", [{"cell": "lstm", "layers": 2}, {"cell": "rnn", "tie_embeddings": False}, CHANCE]
)
def test_every_cell_goes_on_exactly_in_half_precision_too(lay: Lay, model: dict[str, Any]) -> None:
    spec = {"model": model, "trainer": {**SPEC["trainer"], "precision": "bf16"}}
    whole, first = lay("whole", spec), lay("first", spec)
    run(whole, Commands())
    assert run(first, StopAfter(4)).reason == Reason.PREEMPTED
    second = lay("second", spec, checkpoint=str(newest_of(first)))
    run(second, Commands())
    assert_same_training(whole, [first, second])


def test_a_training_stopped_again_and_again_is_still_the_same(
    lay: Lay, whole: AttemptFolder
) -> None:
    chance, parts, checkpoint = random.Random(5), [], None
    while not parts or end_of(parts[-1]).reason == Reason.PREEMPTED:
        parts.append(lay(f"part-{len(parts)}", SPEC, checkpoint=checkpoint))
        run(parts[-1], StopAfter(chance.randint(1, 5)))
        checkpoint = str(newest_of(parts[-1]))
    assert len(parts) > 3
    assert_same_training(whole, parts)


def test_a_killed_training_goes_on_from_its_newest_checkpoint(
    lay: Lay, whole: AttemptFolder, tmp_path: Path
) -> None:
    spec = {**SPEC, "policy": {"checkpoint_steps": 2}}
    first = lay("first", spec)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.runner", str(first.path)], stdout=subprocess.DEVNULL
    )
    reader = EventReader(first.events_file)
    while not any(isinstance(each, CheckpointEvent) for each in reader.read()):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    kept = tmp_path / "kept.ckpt"
    shutil.copy(max(first.checkpoints.glob("step-*.ckpt")), kept)
    second = lay("second", spec, checkpoint=str(kept))
    assert run(second, Commands()).reason == Reason.SUCCEEDED
    repeated = points_of(first).items() & points_of(second).items()
    assert points_of(first).keys() & points_of(second).keys() == {key for key, _ in repeated}
    assert points_of(first) | points_of(second) == points_of(whole)


def test_a_training_that_had_ended_gives_its_result_again(lay: Lay, whole: AttemptFolder) -> None:
    again = lay("again", SPEC, checkpoint=str(newest_of(whole)))
    end = run(again, Commands())
    assert end.result == end_of(whole).result
    assert points_of(again) == {}


def test_another_job_goes_on_with_its_own_schedule(lay: Lay, whole: AttemptFolder) -> None:
    position = Saved.read(newest_of(whole)).position
    longer = {"trainer": {"max_epochs": 5, "log_every": 1, "lr": 1e-3}, "resume_from": "job-0"}
    folder = lay("longer", longer, checkpoint=str(newest_of(whole)))
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    points = points_of(folder)
    steps = [step for name, step in points if name == "train/loss"]
    assert steps[0] == position.step + 1
    rates = [value for (name, _), (value, _) in points.items() if name == "train/lr"]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > points_of(whole)["train/lr", position.step][0]
    assert end.result["best_step"] > position.step


def test_another_job_with_nothing_left_to_train_is_told_the_mend(
    lay: Lay, whole: AttemptFolder
) -> None:
    spec = {"trainer": {"max_epochs": 2}, "resume_from": "job-0"}
    end = run(lay("less", spec, checkpoint=str(newest_of(whole))), Commands())
    assert end.reason == Reason.USER_ERROR
    assert "trainer.max_epochs above" in end.message


def test_a_checkpoint_of_another_model_is_refused_in_one_line(
    lay: Lay, whole: AttemptFolder
) -> None:
    spec = {"model": {"hidden_size": 16}, "trainer": {"max_epochs": 9}, "resume_from": "job-0"}
    end = run(lay("other", spec, checkpoint=str(newest_of(whole))), Commands())
    assert end.reason == Reason.USER_ERROR
    assert "other parameters" in end.message


def test_lightning_still_counts_where_it_did() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, max_epochs=9, accelerator="cpu")
    set_counters(trainer, Position(epoch=4, batch=2, step=123))
    trainer.strategy._lightning_module = None
    assert trainer.current_epoch == 4
    assert trainer.global_step == 123


def test_another_job_with_other_batches_begins_the_epoch_anew(lay: Lay) -> None:
    first = lay("first", SPEC)
    run(first, StopAfter(3))
    spec = {"trainer": {"max_epochs": 2, "batch_tokens": 400}, "resume_from": "job-0"}
    second = lay("second", spec, checkpoint=str(newest_of(first)))
    end = run(second, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    steps = [step for name, step in points_of(second) if name == "train/loss"]
    fresh = lay("fresh", {"trainer": {"max_epochs": 2, "batch_tokens": 400}})
    run(fresh, Commands())
    assert steps[0] == 4
    assert len(steps) == len([1 for name, _ in points_of(fresh) if name == "train/loss"])


@pytest.mark.parametrize("rows", [10, 70])
def test_a_job_whose_data_has_changed_does_not_go_on(lay_changing: Lay, rows: int) -> None:
    first = lay_changing("first", SPEC, 80)
    run(first, StopAfter(5))
    second = lay_changing("second", SPEC, rows, checkpoint=str(newest_of(first)))
    end = run(second, Commands())
    assert (end.reason, end.traceback) == (Reason.BAD_DATA, "")
    assert end.message.startswith("the data has changed since the checkpoint of step 5: bring back")


@pytest.mark.parametrize("rows", [10, 70])
def test_another_job_on_data_that_has_changed_begins_the_epoch_anew(
    lay_changing: Lay, rows: int
) -> None:
    first = lay_changing("first", SPEC, 80)
    run(first, StopAfter(5))
    assert Saved.read(newest_of(first)).position.batch == 5
    spec = {"trainer": {"max_epochs": 1, "log_every": 1}, "resume_from": "job-0"}
    second = lay_changing("second", spec, rows, checkpoint=str(newest_of(first)))
    end = run(second, Commands())
    assert end.reason == Reason.SUCCEEDED, end.message
    fresh = lay_changing("fresh", {"trainer": spec["trainer"]}, rows)
    run(fresh, Commands())
    steps, from_anew = (
        [step for name, step in points_of(each) if name == "train/loss"] for each in (second, fresh)
    )
    assert steps == [5 + step for step in from_anew]


def test_a_checkpoint_of_before_its_data_was_known_is_gone_on_from(lay: Lay) -> None:
    first = lay("first", SPEC)
    run(first, StopAfter(5))
    content = Saved.read(newest_of(first)).to_dict()
    del content["data_digest"]
    torch.save(content, newest_of(first))
    second = lay("second", SPEC, checkpoint=str(newest_of(first)))
    assert run(second, Commands()).reason == Reason.SUCCEEDED


def test_a_warm_start_takes_weights_and_symbols_and_begins_anew(
    lay: Lay, whole: AttemptFolder
) -> None:
    spec = {"trainer": {"max_epochs": 1, "log_every": 1, "lr": 1e-9}, "warm_from": "job-0"}
    folder = lay("warm", spec, checkpoint=str(newest_of(whole)))
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    steps = [step for name, step in points_of(folder) if name == "train/loss"]
    assert steps[0] == 1
    begun, ended = Saved.read(newest_of(whole)), Saved.read(newest_of(folder))
    assert_equal(ended.data, begun.data)
    assert ended.position.epoch == 1
    for name, weights in begun.weights.items():
        torch.testing.assert_close(ended.weights[name], weights, rtol=1e-4, atol=1e-6)


def test_a_warm_training_that_was_cut_off_goes_on_as_if_it_were_not(
    lay: Lay, whole: AttemptFolder
) -> None:
    spec = {**SPEC, "seed": 2, "warm_from": "job-0"}
    together = lay("together", spec, checkpoint=str(newest_of(whole)))
    run(together, Commands())
    first = lay("first part", spec, checkpoint=str(newest_of(whole)))
    run(first, StopAfter(5))
    second = lay("second part", spec, checkpoint=str(newest_of(first)))
    run(second, Commands())
    assert_same_training(together, [first, second])
