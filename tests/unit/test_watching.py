"""The live display: its numbers, and what it shows on a terminal."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.comparing import LESS_IS_BETTER
from jobs.handle import Update
from jobs.job import Job, JobState, MetricPoint, Progress
from jobs.watching import Pace, Series, _live, _plain_lines, in_order, sparkline

values = st.floats(-1e6, 1e6)


def point(name: str, value: float, step: int, cursor: int = 1) -> MetricPoint:
    return MetricPoint(name, value, step, 1, 1, 0.0, cursor)


@given(st.lists(values, min_size=1, max_size=60))
def test_a_sparkline_shows_the_newest_between_their_extremes(series: list[float]) -> None:
    line, newest = sparkline(series), series[-32:]
    assert len(line) == len(newest)
    if max(newest) > min(newest):
        assert line[newest.index(max(newest))] == "█"
        assert line[newest.index(min(newest))] == "▁"
    else:
        assert set(line) == {"▁"}


def test_a_sparkline_leaves_out_what_is_no_number() -> None:
    assert sparkline([0.0, math.nan, math.inf, 1.0]) == "▁█"
    assert sparkline([math.nan]) == ""


@pytest.mark.parametrize(
    ("name", "best"),
    [("val/bleu", 3.0), *((f"val/{metric}", 1.0) for metric in sorted(LESS_IS_BETTER))],
)
def test_best_is_least_or_most_by_name(name: str, best: float) -> None:
    series = Series(name)
    for step, value in enumerate([2.0, 3.0, 1.0, math.nan]):
        series.add(point(name, value, step))
    assert series.best == best
    assert series.step == 3


def test_validation_comes_first() -> None:
    names = ["train/loss", "other", "val/loss", "test/bleu", "unseen/bleu", "val/bleu"]
    assert [each.name for each in in_order({name: Series(name) for name in names})] == [
        *("val/bleu", "val/loss", "unseen/bleu", "test/bleu", "train/loss", "other")
    ]


def test_the_pace_of_late_tells_what_is_left() -> None:
    pace = Pace()
    assert pace.left(0, 100, now=0.0) is None
    assert pace.left(10, 100, now=1.0) == pytest.approx(9.0)
    assert pace.left(20, 100, now=11.0) == pytest.approx(44.0)
    assert pace.left(30, 0, now=12.0) is None
    assert pace.left(40, 100, now=100.0) is None, "what is long past tells nothing"


def updates() -> Iterator[Update]:
    plain: dict[str, Any] = {"id": "1abc", "kind": "train", "spec": {}}
    yield Update(Job(**plain, state=JobState.QUEUED), ())
    running = Job(
        **plain, state=JobState.RUNNING, attempt=2, progress=Progress(50, 100, 1, 2, "training")
    )
    yield Update(running, [point("train/loss", 2.5, 50), point("val/bleu", 31.25, 50)])
    yield Update(Job(**plain, state=JobState.SUCCEEDED), ())


def test_a_terminal_shows_progress_and_metrics() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    assert _live(updates(), console).state is JobState.SUCCEEDED
    shown = written.getvalue()
    for words in ("val/bleu", "31.25", "train/loss", "2.5"):
        assert words in shown


def test_lines_say_a_state_once_and_all_values_of_a_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _plain_lines(updates()).state is JobState.SUCCEEDED
    assert capsys.readouterr().out.splitlines() == [
        "1abc  queued",
        "1abc  running, training, attempt 2",
        "step 50      epoch 1    train/loss 2.5  val/bleu 31.25",
        "1abc  succeeded",
    ]
