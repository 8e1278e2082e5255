"""Which due times are fired when a worker looks, by the schedule's policy for those it missed."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jobs.schedules import Outcome, Schedule, Trigger
from jobs.wording import duration

#: A line that is due each minute may have been missed for a week: no more than this is counted.
_MOST: Final = 20_000
_MS: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Firing:
    """One step of a schedule: a generation, and where its trigger stands afterwards."""

    trigger: Trigger
    #: The trigger as it was seen: a due time, a time of asking, or a digest.
    seen: str
    #: What stands in its place: the next due time, a digest, or nothing.
    following: str = ""
    #: Names the generation: its due time, or now. Milliseconds.
    moment: int
    #: Due times that it stands for, besides its own.
    missed: int = 0
    #: What it comes to without a training; None where it is trained.
    outcome: Outcome | None = None
    reason: str = ""


def firings(schedule: Schedule, seen: int, now: int) -> Iterator[Firing]:
    """Yield what is to be fired at `now`, where `seen` is the due time that stands in the store.

    Each leads on to the next; what stands in the store after the last one lies ahead of now.
    """
    if seen > now:
        return
    ahead = schedule.timetable.next(now)
    times = _times(schedule, seen, now)
    if not times:
        yield _passed(schedule, seen, [seen], ahead, f"more than {duration(_back(schedule))} ago")
    elif schedule.missed == "once":
        yield Firing(
            trigger="time",
            seen=str(seen),
            following=_written(ahead),
            moment=times[-1],
            missed=len(times) - 1,
        )
    elif schedule.missed == "all":
        yield from _each(times, seen, ahead)
    else:
        on_time = [each for each in times if now - each <= schedule.grace * _MS]
        if late := times[: len(times) - len(on_time)]:
            following = on_time[0] if on_time else ahead
            yield _passed(schedule, seen, late, following, "no worker ran")
            seen = following or 0
        yield from _each(on_time, seen, ahead)


def _times(schedule: Schedule, seen: int, now: int) -> list[int]:
    """Return the due times up to now that are not too far back; of very many, the newest."""
    horizon = now - _back(schedule) * _MS
    times = deque([seen] if seen >= horizon else [], maxlen=_MOST)
    times.extend(schedule.timetable.until(max(seen, horizon - 1), now))
    return list(times)


def _back(schedule: Schedule) -> int:
    """Return how many seconds ago a due time may lie: what is on time is never too far back."""
    return max(schedule.catch_up, schedule.grace)


def _each(times: Sequence[int], seen: int, ahead: int | None) -> Iterator[Firing]:
    for due, following in zip(times, [*times[1:], ahead], strict=False):
        yield Firing(trigger="time", seen=str(seen), following=_written(following), moment=due)
        seen = following or 0


def _passed(
    schedule: Schedule, seen: int, times: Sequence[int], following: int | None, why: str
) -> Firing:
    shown = [schedule.timetable.shown(each) for each in (times[0], times[-1])]
    return Firing(
        trigger="time",
        seen=str(seen),
        following=_written(following),
        moment=times[-1],
        missed=len(times) - 1,
        outcome=Outcome.MISSED,
        reason=f"{why}: " + " to ".join(dict.fromkeys(shown)),
    )


def _written(moment: int | None) -> str:
    return "" if moment is None else str(moment)
