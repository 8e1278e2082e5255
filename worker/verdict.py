"""How an attempt ended, and why: decided from what was said, not from an exit status."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from jobs.job import Reason
from worker.events import EndEvent
from worker.folder import is_full
from worker.process import Exit

_NO_ROOM: Final = os.strerror(errno.ENOSPC)


class Order(Enum):
    """Why a supervisor ended its runner."""

    #: A person wished it.
    CANCEL = auto()
    #: The job has run for as long as it may.
    TIMEOUT = auto()
    #: The worker stops, or a person set the job aside.
    HAND_BACK = auto()
    #: It gave no sign of life for far too long.
    HUNG = auto()


@dataclass(frozen=True)
class Ending:
    """What the record is told of an attempt's end."""

    reason: Reason
    message: str = ""
    traceback: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the job goes back to its place in the queue as if it had not been taken.
    handed_back: bool = False


CANCELLED: Final = Ending(Reason.CANCELLED)
#: The job goes back to its old place.
HANDED_BACK: Final = Ending(Reason.PREEMPTED, handed_back=True)


def conclude(
    order: Order | None, end: EndEvent | None, exited: Exit, log_tail: str, why: str = ""
) -> Ending:
    """Return how an attempt ended: by what was ordered, else in the runner's own word.

    A success that was written before an order could take effect is one. Where nothing was said, the
    process died of something outside its program, and the tail of its log is all that is known. A
    rank that only misses another knows less than the kernel, which says how that one ended. `why`
    says what led to the order where that is not plain.
    """
    if end and end.reason is Reason.SUCCEEDED:
        return Ending(end.reason, end.message, result=end.result)
    if order is Order.CANCEL:
        return CANCELLED
    if order is Order.TIMEOUT:
        return Ending(Reason.TIMED_OUT, "the job ran for as long as its timeout allows")
    if order is Order.HAND_BACK and (end is None or end.reason is Reason.PREEMPTED):
        return HANDED_BACK
    if end and not (end.reason is Reason.INFRASTRUCTURE and _knows_more(exited)):
        return Ending(end.reason, end.message, end.traceback, end.result)
    hung = why if order is Order.HUNG and exited.cause != "exited" else ""
    return Ending(Reason.HUNG, hung, log_tail) if hung else _unsaid(exited, log_tail)


def name_the_disk(ending: Ending, exited: Exit, folder: Path) -> Ending:
    """Return the ending of an attempt in a folder; for want of room it says where, and the mend."""
    full = is_full(folder)
    if ending.reason is not Reason.INFRASTRUCTURE or not (full or _NO_ROOM in ending.message):
        return ending
    # Who cannot write can say nothing of its end, and its guard neither.
    said = "" if exited.cause == "unseen" else f": {ending.message}"
    where = f"the disk of {folder} is" if full else f"the disk of {folder}, or of TMPDIR, was"
    return replace(ending, message=f"{where} full; free some of it{said}")


def _knows_more(exited: Exit) -> bool:
    missed = exited.cause == "exited" and exited.rank > 0 and exited.signal is not None
    return missed or _killed_for_memory(exited)


def _killed_for_memory(exited: Exit) -> bool:
    return exited.cause == "exited" and exited.signal == "SIGKILL" and exited.oom_kills > 0


def _unsaid(exited: Exit, log_tail: str) -> Ending:
    if exited.cause == "deadline":
        message = "the service had not answered for so long that the runner was stopped"
        return Ending(Reason.INFRASTRUCTURE, message, log_tail)
    if _killed_for_memory(exited):
        message = "the machine ran out of memory, and its kernel killed the runner"
        return Ending(Reason.OUT_OF_MEMORY, message, log_tail)
    return Ending(Reason.INFRASTRUCTURE, exited.describe(), log_tail)
