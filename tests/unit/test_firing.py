"""Which due times are fired, by the policy for those that were missed."""

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.firing import Firing, firings
from jobs.gate import Gate
from jobs.schedules import Missed, Outcome, Schedule
from jobs.spec import Component, TrainSpec
from jobs.timetable import Timetable

HOUR = 3_600_000
SPEC = TrainSpec(model=Component("m"), data=Component("d")).to_dict()


def schedule(missed: str = "once", **options: object) -> Schedule:
    given_ = {"timetable": Timetable(every=3600), "grace": 60, **options}
    if missed == "all":
        given_["overlap"] = "queue"
    return Schedule(
        name="s",
        model="m",
        spec=SPEC,
        gate=Gate(metric="bleu"),
        missed=missed,  # type: ignore[arg-type]
        **given_,  # type: ignore[arg-type]
    )


def fired(plan: Schedule, seen: int, now: int) -> list[Firing]:
    return list(firings(plan, seen, now))


@pytest.mark.parametrize("missed", get_args(Missed))
def test_what_is_on_time_is_fired_whatever_the_policy(missed: str) -> None:
    (only,) = fired(schedule(missed), 5 * HOUR, 5 * HOUR + 1000)
    assert (only.moment, only.outcome, only.missed) == (5 * HOUR, None, 0)
    assert (only.seen, only.following) == (str(5 * HOUR), str(6 * HOUR))


@pytest.mark.parametrize("missed", get_args(Missed))
def test_what_lies_ahead_is_left_alone(missed: str) -> None:
    assert fired(schedule(missed), 5 * HOUR, 5 * HOUR - 1) == []


def test_once_fires_the_last_and_counts_the_others() -> None:
    (only,) = fired(schedule("once"), 5 * HOUR, 8 * HOUR + 10)
    assert (only.moment, only.missed, only.following) == (8 * HOUR, 3, str(9 * HOUR))


def test_all_fires_each_and_leads_on_from_one_to_the_next() -> None:
    found = fired(schedule("all"), 5 * HOUR, 8 * HOUR + 10)
    assert [each.moment for each in found] == [5 * HOUR, 6 * HOUR, 7 * HOUR, 8 * HOUR]
    assert [each.seen for each in found] == [str(each.moment) for each in found]
    assert [each.following for each in found] == [
        *(each.seen for each in found[1:]),
        str(9 * HOUR),
    ]


def test_skip_says_what_was_missed_and_fires_what_is_on_time() -> None:
    late, on_time = fired(schedule("skip"), 5 * HOUR, 8 * HOUR + 10)
    assert (late.outcome, late.missed) == (Outcome.MISSED, 2)
    assert late.reason.startswith("no worker ran: 1970-01-01 05:00:00 +0000 to 1970-01-01 07:00")
    assert (on_time.moment, on_time.outcome) == (8 * HOUR, None)
    (only,) = fired(schedule("skip"), 5 * HOUR, 5 * HOUR + 61_000)
    assert only.outcome is Outcome.MISSED


def test_what_is_too_far_back_is_passed_over_and_said() -> None:
    plan = schedule("once", timetable=Timetable(every=3600, end=6 * HOUR), catch_up=2 * 3600)
    (only,) = fired(plan, 5 * HOUR, 9 * HOUR)
    assert (only.outcome, only.following) == (Outcome.MISSED, "")
    assert only.reason.startswith("more than 2h 00m ago: ")


def test_only_what_is_not_too_far_back_is_made_up_for() -> None:
    plan = schedule("all", catch_up=2 * 3600)
    found = fired(plan, HOUR, 9 * HOUR + 10)
    assert [each.moment for each in found] == [8 * HOUR, 9 * HOUR]
    assert found[0].seen == str(HOUR)


@pytest.mark.parametrize("missed", get_args(Missed))
def test_without_catching_up_what_is_on_time_is_fired_all_the_same(missed: str) -> None:
    plan = schedule(missed, catch_up=0, grace=10)
    for late in (0, 400, 10_000):
        (only,) = fired(plan, 5 * HOUR, 5 * HOUR + late)
        assert (only.moment, only.outcome) == (5 * HOUR, None)
    (only,) = fired(plan, 5 * HOUR, 5 * HOUR + 10_001)
    assert only.outcome is Outcome.MISSED
    assert only.reason.startswith("more than 10s ago: ")


@given(
    st.sampled_from(get_args(Missed)),
    st.integers(0, 50),
    st.integers(0, 60 * HOUR),
    st.integers(0, 40 * 3600),
)
def test_firings_lead_from_what_is_seen_to_what_lies_ahead(
    missed: str, first: int, later: int, catch_up: int
) -> None:
    seen, now = first * HOUR, first * HOUR + later
    found = fired(schedule(missed, catch_up=catch_up), seen, now)
    assert found
    assert found[0].seen == str(seen)
    for before, after in pairwise(found):
        assert before.following == after.seen
    assert int(found[-1].following) > now
    moments = [each.moment for each in found]
    assert moments == sorted(set(moments))
    assert all(seen <= each <= now for each in moments)
    back = now - max(60, catch_up) * 1000
    due = [each for each in range(seen, now + 1, HOUR) if each >= back]
    if missed == "once":
        assert sum(1 + each.missed for each in found if each.outcome is None) == len(due)
    if missed == "all":
        assert [each.moment for each in found if each.outcome is None] == due
    if missed == "skip":
        assert [each.moment for each in found if each.outcome is None] == [
            each for each in due if now - each <= 60_000
        ]
