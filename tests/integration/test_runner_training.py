"""Whole trainings from a folder alone: what they report, when they stop, how they end."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.parallel_text import ParallelText
from jobs.job import Reason
from worker.events import CheckpointEvent, EndEvent, EventReader, MetricEvent, ProgressEvent
from worker.folder import AttemptFolder
from worker.guard import COMMANDS_VARIABLE
from worker.runner import selection
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.resume import Saved

Lay = Callable[..., AttemptFolder]


def events_of(folder: AttemptFolder, kind: type) -> list[Any]:
    return [each for each in EventReader(folder.events_file).read() if isinstance(each, kind)]


def steps_of(folder: AttemptFolder, metric: str) -> list[int]:
    return [each.step for each in events_of(folder, MetricEvent) if each.name == metric]


def start(folder: AttemptFolder, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "worker.runner", str(folder.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_steps(folder: AttemptFolder, process: "subprocess.Popen[str]", steps: int) -> None:
    reader, seen = EventReader(folder.events_file), 0
    while seen < steps:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        seen += sum(
            isinstance(each, MetricEvent) and each.name == "train/loss" for each in reader.read()
        )


def test_a_run_by_hand_needs_no_service_and_says_how_it_goes(lay: Lay) -> None:
    folder = lay()
    process = start(folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert err == ""
    assert "val/bleu" in out
    assert "ended: succeeded" in out
    *_, last = EventReader(folder.events_file).read()
    assert isinstance(last, EndEvent)
    assert last.reason == Reason.SUCCEEDED


def test_a_training_reports_each_metric_and_keeps_its_best_model(lay: Lay) -> None:
    folder = lay()
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    steps = steps_of(folder, "train/loss")
    assert steps == list(range(1, len(steps) + 1))
    validated = steps_of(folder, "val/bleu")
    assert len(validated) == 2
    assert validated[-1] == steps[-1]
    checkpoints = events_of(folder, CheckpointEvent)
    assert [each.step for each in checkpoints] == validated
    assert checkpoints[0].best
    best = max(each.score for each in checkpoints if each.best)
    assert end.result["val/bleu"] == best
    assert end.result["best_step"] in validated
    assert end.result["bleu_signature"].startswith("nrefs:1|")
    assert end.result["parameters"] > 1000
    assert {each.epoch for each in events_of(folder, MetricEvent)} == {1, 2}


def test_points_of_training_stand_before_those_of_the_validation_at_their_step(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"log_every": 4}})
    run(folder, Commands())
    points = [(p.step, p.name) for p in events_of(folder, MetricEvent)]
    assert [step for step, _ in points] == sorted(step for step, _ in points)
    for step in steps_of(folder, "val/bleu"):
        assert points.index((step, "train/loss")) < points.index((step, "val/loss"))
    assert len(set(points)) == len(points)


def test_progress_knows_where_max_steps_ends_the_fit(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_steps": 3, "max_epochs": 50}})
    run(folder, Commands())
    last = events_of(folder, ProgressEvent)[-1]
    assert last == ProgressEvent(step=3, steps=3, epoch=1, epochs=1)


def test_pairs_that_were_left_out_are_told_in_the_log_and_counted_in_the_result(lay: Lay) -> None:
    folder = lay(spec={"data": {"max_length": 8}})
    _, err = start(folder).communicate(timeout=120)
    (end,) = events_of(folder, EndEvent)
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert end.result["left_out_too_long"] > 0
    assert err == f"training pairs left out: 0 empty, {end.result['left_out_too_long']} too long\n"
    assert "left_out_empty" not in end.result


def test_the_training_loss_is_the_mean_over_the_symbols_since_the_last_point(lay: Lay) -> None:
    every_step, seldom = lay("a"), lay("b", {"trainer": {"log_every": 4}})
    for folder in (every_step, seldom):
        run(folder, Commands())
    assert steps_of(seldom, "train/loss")[:3] == [4, 6, 8]  # 6: the epoch's validation
    points = [p for p in events_of(every_step, MetricEvent) if p.name == "train/loss"]
    first = next(p for p in events_of(seldom, MetricEvent) if p.name == "train/loss")
    # Batches differ a little in their symbols, so that the mean of means is only near.
    assert first.value == pytest.approx(math.fsum(p.value for p in points[:4]) / 4, rel=0.02)


def test_only_the_newest_and_the_best_checkpoint_are_kept_and_load_without_code(
    lay: Lay,
) -> None:
    folder = lay(spec={"policy": {"checkpoint_steps": 1}})
    run(folder, Commands())
    told = events_of(folder, CheckpointEvent)
    best = [each.file for each in told if each.best][-1]
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == sorted({told[-1].file, best})
    content = torch.load(folder.checkpoints / best, weights_only=True)
    assert content["spec"]["model"]["name"] == "attention_encoder_decoder"
    assert content["hyper_parameters"]["source_vocabulary_size"] > 4


def test_max_steps_ends_in_the_middle_of_an_epoch_with_a_validation(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_steps": 3}})
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    assert steps_of(folder, "train/loss") == [1, 2, 3]
    assert steps_of(folder, "val/bleu") == [3]
    assert [each.step for each in events_of(folder, CheckpointEvent)] == [3]


def test_the_last_epoch_is_validated_whatever_val_every_says(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_epochs": 3, "val_every": 2}})
    run(folder, Commands())
    epochs = [p.epoch for p in events_of(folder, MetricEvent) if p.name == "val/bleu"]
    assert epochs == [2, 3]


def test_patience_stops_a_training_that_gets_no_better(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_epochs": 9, "patience": 2, "lr": 1e-12}})
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED
    assert len(steps_of(folder, "val/bleu")) == 3
    assert end.result["best_step"] == steps_of(folder, "val/bleu")[0]


def test_a_finished_folder_can_be_run_again(lay: Lay) -> None:
    folder = lay()
    first, second = run(folder, Commands()), run(folder, Commands())
    assert first.result == second.result
    assert (folder.path / "events-0001.jsonl").exists()
    assert len(events_of(folder, EndEvent)) == 1


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"model": {"hiden_size": 3}}, Reason.USER_ERROR, "did you mean 'hidden_size'?"),
        ({"model": {"name": "atention_encoder_decoder"}}, Reason.USER_ERROR, "did you mean"),
        ({"model": {"source_vocabulary_size": 9}}, Reason.USER_ERROR, "the data sets"),
        ({"model": {"name": "_base"}}, Reason.USER_ERROR, "no topology is called '_base'"),
        ({"data": {"name": "os"}}, Reason.USER_ERROR, "no kind of data is called 'os'"),
        ({"data": {"root": "nowhere"}}, Reason.BAD_DATA, "nowhere"),
        ({"data": {"source": "xx"}}, Reason.BAD_DATA, "xx"),
        ({"trainer": {"lr": 1e38}}, Reason.NAN, "not a number"),
    ],
)
def test_a_job_that_cannot_be_trained_says_why_in_one_line(
    lay: Lay, spec: dict[str, Any], reason: Reason, message: str
) -> None:
    folder = lay(spec=spec)
    end = run(folder, Commands())
    assert end.reason == reason, end.traceback
    assert message in end.message
    assert "\n" not in end.message
    assert end.traceback == ""
    *_, last = EventReader(folder.events_file).read()
    assert last == end


@pytest.mark.parametrize(
    ("method", "split", "message"),
    [
        ("sizes", "train", "the split 'train' holds no row"),
        ("sizes", "val", "the split 'val' holds no row"),
        ("plan", "train", "an epoch of this data has no batch: there is nothing to train on"),
    ],
)
def test_a_training_without_a_row_or_a_batch_is_refused(
    lay: Lay, monkeypatch: pytest.MonkeyPatch, method: str, split: str, message: str
) -> None:
    usual = getattr(ParallelText, method)

    def nothing(data: ParallelText, asked: str, *others: int) -> Any:
        return usual(data, asked, *others)[: 0 if asked == split else None]

    monkeypatch.setattr(ParallelText, method, nothing)
    end = run(lay(), Commands())
    assert (end.reason, end.message, end.traceback) == (Reason.BAD_DATA, message, "")


def test_a_training_that_no_validation_could_score_is_no_success(
    lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "validation_metrics", lambda _: {"val/bleu": math.nan})
    end = run(lay(), Commands())
    assert end.reason == Reason.NAN
    assert end.message == "no validation gave a val/bleu that is a number: no model can be chosen"


def test_no_checkpoint_holds_weights_that_are_no_numbers(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"lr": 1e38}, "policy": {"checkpoint_steps": 1}})
    assert run(folder, Commands()).reason == Reason.NAN
    for path in folder.checkpoints.iterdir():
        weights = Saved.read(path).weights
        assert all(bool(each.isfinite().all()) for each in weights.values())


def test_a_signal_stops_a_training_with_a_checkpoint(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_epochs": 10_000}})
    process = start(folder)
    wait_for_steps(folder, process, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    *events, last = EventReader(folder.events_file).read()
    assert isinstance(last, EndEvent)
    assert last.reason == Reason.PREEMPTED
    *_, newest = (each for each in events if isinstance(each, CheckpointEvent))
    saved = Saved.read(folder.checkpoints / newest.file)
    assert saved.position.step == steps_of(folder, "train/loss")[-1]


def test_commands_over_a_socket_are_acted_on_and_answered(lay: Lay) -> None:
    folder = lay(spec={"trainer": {"max_epochs": 10_000}})
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, theirs, ours.makefile("r") as replies:
        number = theirs.fileno()
        environment = {**os.environ, COMMANDS_VARIABLE: str(number)}
        process = start(folder, pass_fds=(number,), env=environment)
        theirs.close()
        wait_for_steps(folder, process, 2)
        ours.sendall(b'{"command": "checkpoint"}\n')
        reply = json.loads(replies.readline())
        assert reply["reply"] == "checkpoint"
        assert re.fullmatch(r"step-\d{8}\.ckpt", reply["file"])
        ours.sendall(b'{"command": "jump"}\n')
        assert json.loads(replies.readline())["reply"] == "refused"
        ours.sendall(b'{"command": "stop"}\n')
        assert json.loads(replies.readline()) == {"reply": "stop"}
        process.communicate(timeout=60)
    (end,) = events_of(folder, EndEvent)
    assert end.reason == Reason.PREEMPTED


def test_the_torch_side_loads_neither_redis_nor_celery() -> None:
    code = (
        "import sys, worker.runner.__main__; "
        "print([name for name in ('redis', 'celery', 'kombu') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_matplotlib_is_loaded_only_for_a_picture() -> None:
    code = (
        "import sys, worker.runner.__main__; "
        "from worker.runner.picture import draw_attention; "
        "print('matplotlib' in sys.modules, draw_attention(['a'], ['b'], [[1.0]])[1:4])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False b'PNG'"


def test_a_folder_without_a_spec_is_refused(tmp_path: Path) -> None:
    process = start(AttemptFolder(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "holds no spec.json" in err
