"""An attempt of two ranks: as exact as one, told by one, ended for one reason."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Reason
from tests.doubles.ranks import Ranks
from tests.doubles.stopping import FailAfter, SignalAfter, StopAfter
from tests.integration.test_runner_resume import (
    CHANCE,
    assert_equal,
    assert_same_training,
    end_of,
    newest_of,
    points_of,
)
from worker.events import EventReader, first_bad_end
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.resume import Saved

Lay = Callable[..., AttemptFolder]

#: Dropout of each rank's own, three steps to a point and several epochs.
SPEC: dict[str, Any] = {
    "model": CHANCE,
    "trainer": {"max_epochs": 3, "log_every": 3, "patience": 3},
}
OFF = {"embedding_dropout": 0.0, "dropout": 0.0}
STREAMS: dict[str, Any] = {
    "model": {"name": "language_model", "hidden_size": 10, "dropout": 0.3},
    "data": {"name": "char_text", "root": ".", "bptt": 8},
    "trainer": {"max_epochs": 2, "batch_tokens": 40, "log_every": 3, "precision": "fp32"},
}


@pytest.fixture
def lay_two(lay: Lay) -> Lay:
    """Return `lay` for attempts of two ranks."""
    return lambda name, spec=None, **attempt: lay(name, spec, world_size=2, **attempt)


@pytest.fixture
def lay_text(lay_plain: Lay, tmp_path: Path) -> Lay:
    """Return a function that lays attempts on running text."""
    text = "".join(random.Random(2).choices("abcd \n", k=700))
    (tmp_path / "data" / "input.txt").write_text(text)
    return lay_plain


@pytest.fixture
def whole(lay_two: Lay, pair: Ranks) -> AttemptFolder:
    folder = lay_two("whole", SPEC)
    assert pair.run(folder).reason == Reason.SUCCEEDED
    return folder


def assert_close(found: AttemptFolder, expected: AttemptFolder) -> None:
    """Compare the points of two trainings."""
    points, wanted = points_of(found), points_of(expected)
    assert points.keys() == wanted.keys()
    for key, (value, epoch) in points.items():
        assert (key, value, epoch) == (key, pytest.approx(wanted[key][0], rel=1e-5), epoch)


def test_two_ranks_tell_what_one_process_tells(lay: Lay, lay_two: Lay, pair: Ranks) -> None:
    spec = {"model": OFF, "trainer": {"max_epochs": 3, "log_every": 2}}
    one, two = lay("one", spec), lay_two("two", spec)
    run(one, Commands())
    end = pair.run(two)
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert_close(two, one)
    assert end.result["val/bleu"] == end_of(one).result["val/bleu"]
    kept = [sorted(file.name for file in each.checkpoints.iterdir()) for each in (one, two)]
    assert kept[0] == kept[1]
    weights, expected = (Saved.read(newest_of(each)).weights for each in (two, one))
    for name, weight in weights.items():
        assert (weight - expected[name]).abs().max() < 1e-4, name


def test_streams_stay_on_their_ranks(lay_text: Lay, pair: Ranks) -> None:
    off = {**STREAMS, "model": {**STREAMS["model"], **OFF}}
    one, two = lay_text("one", off), lay_text("two", off, world_size=2)
    run(one, Commands())
    end = pair.run(two)
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert_close(two, one)


def test_an_evaluation_by_two_ranks_is_that_of_one(
    lay: Lay, lay_two: Lay, pair: Ranks, whole: AttemptFolder
) -> None:
    used = {"checkpoint": str(newest_of(whole)), "trained": whole.read_spec().to_dict()}
    spec = {"kind": "evaluate", "job": "job-1", "search": {"beam": 3}}
    one, two = lay("one", spec, **used), lay_two("two", spec, **used)
    expected = run(one, Commands())
    assert expected.reason == Reason.SUCCEEDED, expected.traceback
    assert pair.run(two).result == expected.result
    for name in ("hypotheses", "sources", "references"):
        assert (two.files / f"{name}.txt").read_text() == (one.files / f"{name}.txt").read_text()


def test_lines_are_answered_once(lay: Lay, lay_two: Lay, pair: Ranks, whole: AttemptFolder) -> None:
    used = {"checkpoint": str(newest_of(whole)), "trained": whole.read_spec().to_dict()}
    spec = {"kind": "predict", "job": "job-1", "lines": ["abc", "de"]}
    one, two = lay("one", spec, **used), lay_two("two", spec, **used)
    run(one, Commands())
    assert pair.run(two).reason == Reason.SUCCEEDED
    answers = [json.loads((each.files / "predictions.json").read_text()) for each in (one, two)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("batches", [1, 5, 7])
def test_two_ranks_go_on_as_if_they_had_not_been_stopped(
    lay_two: Lay, pair: Ranks, whole: AttemptFolder, batches: int
) -> None:
    first = lay_two("first", SPEC)
    assert pair.run(first, StopAfter, batches, at=[0]).reason == Reason.PREEMPTED
    states = Saved.read(newest_of(first)).random
    assert len(states) == 2
    with pytest.raises(AssertionError):
        assert_equal(*states)  # each rank draws its own masks
    second = lay_two("second", SPEC, checkpoint=str(newest_of(first)))
    assert pair.run(second).reason == Reason.SUCCEEDED
    assert_same_training(whole, [first, second])


@pytest.mark.parametrize("batches", [1, 9, 19])
def test_two_ranks_go_on_in_the_middle_of_streams(lay_text: Lay, pair: Ranks, batches: int) -> None:
    whole = lay_text("whole", STREAMS, world_size=2)
    assert pair.run(whole).reason == Reason.SUCCEEDED
    first = lay_text("first", STREAMS, world_size=2)
    assert pair.run(first, StopAfter, batches, at=[0]).reason == Reason.PREEMPTED
    assert Saved.read(newest_of(first)).memory["Carry"]["states"].abs().sum() > 0
    second = lay_text("second", STREAMS, world_size=2, checkpoint=str(newest_of(first)))
    assert pair.run(second).reason == Reason.SUCCEEDED
    assert_same_training(whole, [first, second])


def test_one_process_can_go_on_from_two(lay: Lay, lay_two: Lay, pair: Ranks) -> None:
    spec = {"model": OFF, "trainer": SPEC["trainer"]}
    whole, first = lay("whole", spec), lay_two("first", spec)
    run(whole, Commands())
    assert pair.run(first, StopAfter, 5, at=[0]).reason == Reason.PREEMPTED
    second = lay("second", spec, checkpoint=str(newest_of(first)))
    assert run(second, Commands()).reason == Reason.SUCCEEDED
    together = points_of(first) | points_of(second)
    for key, (value, _) in points_of(whole).items():
        assert together[key][0] == pytest.approx(value, rel=1e-5), key


@pytest.mark.parametrize("at", [0, 1])
def test_a_signal_to_any_rank_stops_all_at_one_step(lay_two: Lay, pair: Ranks, at: int) -> None:
    folder = lay_two("attempt", SPEC)
    assert pair.run(folder, SignalAfter, 4, at=[at]).reason == Reason.PREEMPTED
    assert Saved.read(newest_of(folder)).position.step == 4


@pytest.mark.parametrize("at", [0, 1])
def test_the_error_of_any_rank_is_the_reason(lay_two: Lay, pair: Ranks, at: int) -> None:
    folder = lay_two("attempt", SPEC)
    end = pair.run(folder, FailAfter, 3, KeyError("a mistake"), at=[at])
    assert (end.reason, end.message) == (Reason.USER_ERROR, "KeyError: 'a mistake'")
    assert "in act" in end.traceback
    assert end_of(folder) == end
    assert (first_bad_end(folder.events_of_others) is not None) == (at == 1)


def test_a_gradient_that_is_no_number_ends_all(lay_two: Lay, pair: Ranks) -> None:
    end = pair.run(lay_two("attempt", {"trainer": {"lr": 1e30, "warmup_steps": 0}}))
    assert end.reason == Reason.NAN


def start(folder: AttemptFolder, rank: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "worker.runner", str(folder.path)],
        env={**os.environ, "LOCAL_RANK": str(rank)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_rank_that_is_killed_takes_the_others_down(lay_two: Lay) -> None:
    folder = lay_two("attempt", {"trainer": {"max_epochs": 500}})
    first, second = (start(folder, rank) for rank in range(2))
    reader = EventReader(folder.events_file)
    while not any("metric" in each.to_json() for each in reader.read()):
        assert first.poll() is None
    second.kill()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 0, said
    end = end_of(folder)
    assert end.reason == Reason.INFRASTRUCTURE
    second.communicate()


@pytest.mark.parametrize("told", ["", "2", "first"])
def test_ranks_must_be_told_their_number(
    lay_two: Lay, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", told)
    end = run(lay_two("attempt"), Commands())
    assert end.reason == Reason.USER_ERROR
    assert "LOCAL_RANK = 0 to 1" in end.message
