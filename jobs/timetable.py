"""When a schedule is due: cron lines and intervals, in a time zone, from a start to an end.

A cron line has the five fields of cron (minute, hour, day of the month, month, day of the week) and
goes by the clock on the wall of its zone. Where daylight saving moves that clock,

- a line that names its hours (`30 2 * * *`) is due once for each date and time that it names: a
  time that comes twice counts at its first coming, and one that does not exist at the moment at
  which the clock jumps over it (03:00 instead of 02:30);
- a line with a star for its hour (`0 * * * *`, `0 */6 * * *`) goes by what the clock shows, so that
  an hour that comes twice is due twice, and one that does not exist is not due.

An interval goes by elapsed time. All times here are whole milliseconds since 1970, UTC.
"""

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count, takewhile
from typing import Final

from cronsim import CronSim, CronSimError

from jobs.errors import SpecError, did_you_mean
from jobs.schema import check_fields

#: Shortest interval, in seconds: a generation takes far longer, and each leaves a record.
MIN_INTERVAL: Final = 60
#: Longest interval and other length of time, in seconds: ten years.
MAX_SPAN: Final = 10 * 366 * 86_400
#: The years that a start and an end may lie in: calendars reckon safely with what comes of them.
_YEARS: Final = (1970, 2300)
_FIELDS: Final = 5
_HOUR: Final = 1


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """Say when something is due. Raise SpecError for a line, a zone or a range that cannot be.

    Neither `cron` nor `every` is a timetable on which nothing is ever due.
    """

    #: Five fields of cron, or empty.
    cron: str = ""
    #: Seconds between two due times, or None.
    every: int | None = None
    #: Name of a time zone, as in "Europe/Berlin".
    zone: str = "UTC"
    #: Nothing is due before (intervals count from here), or from then on. Milliseconds.
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a timetable", ("cron", "every", "zone", "start", "end"))
        time_zone(self.zone)
        if self.cron and self.every is not None:
            raise SpecError("a schedule has a cron line or an interval, not both")
        if self.every is not None and self.every < MIN_INTERVAL:
            raise SpecError(f"an interval has at least {MIN_INTERVAL} seconds, not {self.every}")
        if self.every is not None and self.every > MAX_SPAN:
            raise SpecError(f"an interval has at most ten years, not {self.every} seconds")
        for what, moment in (("start", self.start), ("end", self.end)):
            _check_year(what, moment)
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise SpecError("the end of a schedule must be after its start")
        if self.cron:
            _check_cron(self.cron)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is ever due."""
        return not self.cron and self.every is None

    def next(self, after: int) -> int | None:
        """Return the first due time later than `after`, or None if there is none."""
        return next(self._times(after), None)

    def until(self, after: int, last: int) -> Iterator[int]:
        """Yield the due times later than `after`, up to and with `last`."""
        return takewhile(lambda due: due <= last, self._times(after))

    def _times(self, after: int) -> Iterator[int]:
        times: Iterator[int] = iter(())
        if self.cron:
            floor = after if self.start is None else max(after, self.start - 1)
            times = _cron_times(self.cron, time_zone(self.zone), floor)
        elif self.every is not None:
            times = _interval_times(self.start or 0, self.every * 1000, after)
        if (end := self.end) is None:
            return times
        return takewhile(lambda due: due < end, times)

    def shown(self, moment: int) -> str:
        """Return a moment as the clock of the zone shows it, with its distance to UTC."""
        return _local(moment, time_zone(self.zone)).strftime("%Y-%m-%d %H:%M:%S %z")


def time_zone(name: str) -> tzinfo:
    """Return the time zone of this name. Raise SpecError where there is none."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        raise SpecError(
            f"no time zone is called {name[:60]!r} (they are written as in 'Europe/Rome')"
            f"{did_you_mean(name, known)}"
        ) from None


def _check_year(what: str, moment: int | None) -> None:
    first, last = (round(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000) for year in _YEARS)
    if moment is not None and not first <= moment < last:
        raise SpecError(f"the {what} of a schedule lies from {_YEARS[0]} to {_YEARS[1] - 1}")


def _check_cron(line: str) -> None:
    fields = line.split()
    if len(fields) != _FIELDS:
        raise SpecError(
            f"the cron line {line!r} has {len(fields)} fields; it needs five: minute, hour, day of "
            "the month, month, day of the week, as in '0 3 * * *'"
        )
    try:
        next(CronSim(line, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        what = str(error).removeprefix("Bad ")
        raise SpecError(f"the cron line {line!r} cannot be: look at its {what}") from None
    except StopIteration:
        raise SpecError(f"the cron line {line!r} names no day that ever comes") from None


def _interval_times(start: int, step: int, after: int) -> Iterator[int]:
    return count(start if after < start else start + ((after - start) // step + 1) * step, step)


def _cron_times(line: str, zone: tzinfo, after: int) -> Iterator[int]:
    by_the_wall = not line.split()[_HOUR].startswith("*")
    # Where a clock was set back, a later moment may show an earlier time: a day covers any change.
    begin = _local(after, zone) - timedelta(days=1 if by_the_wall else 0)
    times = CronSim(line, begin.replace(tzinfo=None) if by_the_wall else begin)
    for shown in times:
        due = _moment(shown, zone) if by_the_wall else _milliseconds(shown)
        if due > after:  # of several that the clock jumps over, one
            yield due
            after = due


def _moment(shown: datetime, zone: tzinfo) -> int:
    """Return when a clock first shows a time, or else the moment at which it jumps over it."""
    moment = shown.replace(tzinfo=zone, fold=0)
    there = moment.astimezone(UTC)
    if there.astimezone(zone).replace(tzinfo=None) == shown:
        return _milliseconds(there)
    # In a gap: fold 0 counts with the offset before it, fold 1 with that after it.
    ahead = moment.replace(fold=1).astimezone(UTC)
    return _milliseconds(_jump(ahead, there, zone))


def _jump(before: datetime, behind: datetime, zone: tzinfo) -> datetime:
    """Return the moment between two at which the zone's distance to UTC changes."""
    old = before.astimezone(zone).utcoffset()
    low, high = int(before.timestamp()), int(behind.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        same = datetime.fromtimestamp(middle, zone).utcoffset() == old
        low, high = (middle, high) if same else (low, middle)
    return datetime.fromtimestamp(high, UTC)


def _local(moment: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(moment / 1000, zone)


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
