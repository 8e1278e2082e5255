"""When schedules are due, daylight saving and impossible lines among it."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.timetable import Timetable

HOUR = 3_600_000


def moment(text: str) -> int:
    """Return the milliseconds of a time that says its distance to UTC."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def times(table: Timetable, first: str, last: str) -> list[str]:
    return [table.shown(each)[:16] for each in table.until(moment(first) - 1, moment(last))]


@pytest.mark.parametrize(
    ("zone", "cron", "day", "due"),
    [
        # what does not exist is due when the clock jumps
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["2026-03-29 03:00"]),
        ("Europe/Berlin", "*/20 2 * * *", "2026-03-29", ["2026-03-29 03:00"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-03-22", ["2026-03-22 03:00"]),
        ("Australia/Lord_Howe", "10 2 * * *", "2026-10-04", ["2026-10-04 02:30"]),
        # what comes twice is due once, at its first coming
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["2026-10-25 02:30"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-02-15", ["2026-02-15 02:30"]),
        # what is before and behind the change stays
        ("Europe/Berlin", "0 1,3 * * *", "2026-03-29", ["2026-03-29 01:00", "2026-03-29 03:00"]),
        ("Europe/Berlin", "0 3 * * *", "2026-10-25", ["2026-10-25 03:00"]),
    ],
)
def test_a_line_that_names_its_hours_is_due_once_whatever_the_clock_does(
    zone: str, cron: str, day: str, due: list[str]
) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    table = Timetable(cron=cron, zone=zone)
    end = (begin + timedelta(days=1)).isoformat()
    assert times(table, begin.isoformat(), end)[: len(due)] == due
    assert sum(each.startswith(day) for each in times(table, begin.isoformat(), end)) == len(due)


def test_the_first_coming_is_the_one_before_the_clock_is_set_back() -> None:
    (due,) = Timetable(cron="30 2 * * *", zone="Europe/Berlin").until(
        moment("2026-10-25T00:00+02:00"), moment("2026-10-25T12:00+01:00")
    )
    assert due == moment("2026-10-25T02:30+02:00")


def test_a_star_for_the_hour_goes_by_what_the_clock_shows() -> None:
    table = Timetable(cron="0 * * * *", zone="Europe/Berlin")
    spring = times(table, "2026-03-29T00:00+01:00", "2026-03-29T05:00+02:00")
    assert [each[-5:] for each in spring] == ["00:00", "01:00", "03:00", "04:00", "05:00"]
    autumn = times(table, "2026-10-25T01:00+02:00", "2026-10-25T03:00+01:00")
    assert [each[-5:] for each in autumn] == ["01:00", "02:00", "02:00", "03:00"]


@given(
    st.sampled_from(["Europe/Berlin", "Africa/Casablanca", "America/St_Johns", "Asia/Kathmandu"]),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 364),
)
def test_a_daily_line_is_due_once_a_day_the_year_round(
    zone: str, hour: int, minute: int, day: int
) -> None:
    begin = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)) + timedelta(days=day)
    table = Timetable(cron=f"{minute} {hour} * * *", zone=zone)
    first, last = begin.timestamp(), (begin + timedelta(days=14)).timestamp()
    found = list(table.until(round(first * 1000) - 1, round(last * 1000) - 1))
    days = [datetime.fromtimestamp(each / 1000, begin.tzinfo).date() for each in found]
    assert days == [begin.date() + timedelta(days=number) for number in range(14)]


@given(st.integers(0, 10**13), st.integers(60, 10**6), st.none() | st.integers(0, 10**13))
def test_an_interval_is_due_at_its_start_and_every_so_often_after(
    after: int, every: int, start: int | None
) -> None:
    due = Timetable(every=every, start=start).next(after)
    assert due is not None
    assert due > after
    assert (due - (start or 0)) % (every * 1000) == 0
    assert due == start or due - after <= every * 1000


def test_nothing_is_due_before_the_start_or_from_the_end_on() -> None:
    start, end = moment("2026-05-04T03:00+00:00"), moment("2026-05-06T03:00+00:00")
    table = Timetable(cron="0 3 * * *", start=start, end=end)
    assert list(table.until(0, end + 1000)) == [start, start + 24 * HOUR]
    assert Timetable().next(0) is None


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"cron": "0 3 31 2 *"}, "'0 3 31 2 \\*' cannot be: look at its day-of-month"),
        ({"cron": "61 3 * * *"}, "look at its minute"),
        ({"cron": "0 25 * * *"}, "look at its hour"),
        ({"cron": "0 3 * * MOO"}, "look at its day-of-week"),
        ({"cron": "0 3 * *"}, "has 4 fields; it needs five"),
        ({"cron": "@daily"}, "has 1 fields; it needs five"),
        ({"cron": "0 0 3 * * *"}, "has 6 fields; it needs five"),
        ({"zone": "Europe/Berln"}, "no time zone is called 'Europe/Berln'.*; did you mean"),
        ({"zone": "../etc/passwd"}, "no time zone is called"),
        ({"zone": ""}, "no time zone is called ''"),
        ({"every": 5}, "an interval has at least 60 seconds, not 5"),
        ({"every": 60, "cron": "0 3 * * *"}, "not both"),
        ({"every": "6h"}, "a timetable: 'every' must be int, or none, not '6h'"),
        ({"every": 60, "start": 5, "end": 5}, "the end of a schedule must be after its start"),
    ],
)
def test_what_cannot_be_is_one_line(given_: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said) as error:
        Timetable(**given_)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_moment_is_shown_as_the_zone_has_it() -> None:
    now = round(datetime(2026, 7, 1, tzinfo=UTC).timestamp() * 1000)
    assert Timetable(zone="Asia/Tokyo").shown(now) == "2026-07-01 09:00:00 +0900"
