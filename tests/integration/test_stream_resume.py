"""A model whose hidden state goes over from batch to batch goes on exactly, in mid-epoch too."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.job import Reason
from jobs.spec import spec_from_dict
from tests.doubles.stopping import StopAfter
from worker.events import CheckpointEvent, EndEvent, EventReader, MetricEvent
from worker.folder import Attempt, AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.resume import Saved

SPEC: dict[str, Any] = {
    "model": {"name": "language_model", "hidden_size": 10, "dropout": 0.3},
    "data": {"name": "char_text", "root": ".", "bptt": 8},
    "trainer": {"max_epochs": 2, "batch_tokens": 64, "log_every": 3, "warmup_steps": 4},
}
Lay = Callable[..., AttemptFolder]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    root = tmp_path / "data"
    root.mkdir()
    chance = random.Random(2)
    (root / "input.txt").write_text("".join(chance.choices("abcd \n", k=900)))

    def make(name: str, spec: dict[str, Any] | None = None, **attempt: Any) -> AttemptFolder:
        folder = AttemptFolder(tmp_path / name)
        fixed = {"roots": (str(root),), "cache": str(tmp_path / "cache")}
        task = Attempt(job="job-1", attempt=1, **{**fixed, **attempt})
        folder.lay(spec_from_dict(spec or SPEC), task)
        return folder

    return make


def events_of(folder: AttemptFolder) -> list[Any]:
    return list(EventReader(folder.events_file).read())


def points_of(folder: AttemptFolder) -> dict[tuple[str, int], float]:
    return {
        (each.name, each.step): each.value
        for each in events_of(folder)
        if isinstance(each, MetricEvent) and each.name != "train/tokens_per_second"
    }


def newest_of(folder: AttemptFolder) -> Path:
    told = [each for each in events_of(folder) if isinstance(each, CheckpointEvent)]
    return folder.checkpoints / told[-1].file


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_stopped_anywhere_goes_on_as_if_it_had_not(lay: Lay, precision: str) -> None:
    spec = {**SPEC, "trainer": {**SPEC["trainer"], "precision": precision}}
    whole = lay("whole", spec)
    end = run(whole, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    last = Saved.read(newest_of(whole))
    for batches in (1, 6, 13, 17):
        first = lay(f"first-{batches}", spec)
        assert run(first, StopAfter(batches)).reason == Reason.PREEMPTED
        stopped = Saved.read(newest_of(first))
        assert bool(stopped.position.batch) == (batches != 13)
        assert stopped.memory["Carry"]["states"].abs().sum() > 0
        second = lay(f"second-{batches}", spec, checkpoint=str(newest_of(first)))
        assert run(second, Commands()).result == end.result
        assert points_of(first) | points_of(second) == points_of(whole)
        resumed = Saved.read(newest_of(second))
        for name, weight in last.weights.items():
            assert torch.equal(weight, resumed.weights[name]), name
        assert torch.equal(last.memory["Carry"]["states"], resumed.memory["Carry"]["states"])


def test_another_job_that_goes_on_in_mid_epoch_has_the_state_too(lay: Lay) -> None:
    spec = {**SPEC, "trainer": {**SPEC["trainer"], "log_every": 1}}
    whole, first = lay("whole", spec), lay("first", spec)
    run(whole, Commands())
    run(first, StopAfter(6))
    assert Saved.read(newest_of(first)).position.batch == 6
    second = lay("second", {**spec, "resume_from": "job-0"}, checkpoint=str(newest_of(first)))
    assert run(second, Commands()).reason == Reason.SUCCEEDED
    assert points_of(first) | points_of(second) == points_of(whole)


def test_without_the_state_it_would_be_another_training(lay: Lay) -> None:
    whole, first = lay("whole"), lay("first")
    run(whole, Commands())
    run(first, StopAfter(6))
    content = Saved.read(newest_of(first)).to_dict()
    del content["memory"]["Carry"]
    torch.save(content, newest_of(first))
    second = lay("second", checkpoint=str(newest_of(first)))
    run(second, Commands())
    assert points_of(first) | points_of(second) != points_of(whole)


def test_an_evaluation_reads_the_split_in_one_go(lay: Lay) -> None:
    whole = lay("whole")
    run(whole, Commands())
    used = {"checkpoint": str(newest_of(whole)), "trained": spec_from_dict(SPEC).to_dict()}
    end = run(lay("e", {"kind": "evaluate", "job": "job-1"}, **used), Commands())
    assert isinstance(end, EndEvent)
    assert end.reason == Reason.SUCCEEDED, end.traceback
    result = end.result
    assert result["symbols"] == 45
    assert result["test/perplexity"] == pytest.approx(2 ** result["test/bits"], rel=1e-5)
    bits, perplexity = (result["intervals"][f"test/{name}"] for name in ("bits", "perplexity"))
    assert bits == pytest.approx([result["test/bits"]] * 2), "there is one window to draw from"
    assert perplexity == pytest.approx([result["test/perplexity"]] * 2)


def test_what_is_generated_follows_from_the_seed_and_begins_with_the_prompt(lay: Lay) -> None:
    whole = lay("whole")
    run(whole, Commands())
    used = {"checkpoint": str(newest_of(whole)), "trained": spec_from_dict(SPEC).to_dict()}
    spec = {"kind": "generate", "job": "job-1", "prompt": "ab\nc", "length": 40, "top_k": 4}
    texts = []
    for number, seed in enumerate((5, 5, 6)):
        folder = lay(f"g{number}", {**spec, "seed": seed}, **used)
        end = run(folder, Commands())
        assert end.reason == Reason.SUCCEEDED, end.traceback
        found = json.loads((folder.files / "predictions.json").read_text())
        ((answer,),) = found["lines"]
        assert answer["score"] == end.result["score"] < 0
        texts.append(answer["text"])
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text) == 44 and text.startswith("ab\nc") for text in texts)


def test_predictions_are_the_likeliest_symbols(lay: Lay) -> None:
    whole = lay("whole")
    run(whole, Commands())
    used = {"checkpoint": str(newest_of(whole)), "trained": spec_from_dict(SPEC).to_dict()}
    search = {"beam": 3, "n_best": 3}
    spec = {"kind": "predict", "job": "job-1", "lines": ["ab", ""], "search": search}
    folder = lay("p", spec, **used)
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    for answers in json.loads((folder.files / "predictions.json").read_text())["lines"]:
        scores = [answer["score"] for answer in answers]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1
