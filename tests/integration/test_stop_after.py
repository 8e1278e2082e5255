"""A training that stops early and is gone on from is the training that did not stop."""

import json
from collections.abc import Callable
from typing import Any

from jobs.job import Reason
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]


def points(folder: AttemptFolder) -> dict[tuple[str, int], float]:
    assert run(folder, Commands()).reason == Reason.SUCCEEDED, folder.events_file.read_text()
    events = [json.loads(line) for line in folder.events_file.read_text().splitlines()]
    return {
        (each["name"], each["step"]): each["value"]
        for each in events
        if each["event"] == "metric" and "per_second" not in each["name"]
    }


def test_two_halves_are_the_whole(lay: Lay) -> None:
    trainer: dict[str, Any] = {"max_epochs": 2}
    whole = points(lay("whole", {"trainer": trainer}))
    early = lay("early", {"trainer": trainer | {"stop_after": 1}})
    first = points(early)
    newest = max(early.checkpoints.iterdir())
    spec = {"trainer": trainer | {"stop_after": 2}, "resume_from": "job-0"}
    rest = points(lay("rest", spec, checkpoint=str(newest)))
    assert max(step for _, step in first) < min(step for _, step in rest)
    assert first | rest == whole


def test_nothing_is_left_after_the_early_end(lay: Lay) -> None:
    early = lay("early", {"trainer": {"stop_after": 1}})
    points(early)
    spec = {"trainer": {"stop_after": 1}, "resume_from": "job-0", "seed": 2}
    again = lay("again", spec, checkpoint=str(next(early.checkpoints.iterdir())))
    end = run(again, Commands())
    assert end.reason == Reason.USER_ERROR
    assert "has 1 epochs behind it" in end.message
