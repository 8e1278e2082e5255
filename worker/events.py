"""What a runner reports: one JSON object a line, appended to the attempt folder's events file.

Event
├── PhaseEvent        the runner turned to something else (preparing, training, validating, ...)
├── ProgressEvent     how far it has come
├── MetricEvent       one value of one metric
├── CheckpointEvent   a complete checkpoint lies in the folder
└── EndEvent          the last line: how it ended, and with what result
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from jobs.job import Reason


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    event: ClassVar[str]

    def to_json(self) -> str:
        """Return the event as one line of JSON; NaN and infinities stay readable by Python."""
        return json.dumps({"event": self.event, **dataclasses.asdict(self)})


@dataclass(frozen=True)
class PhaseEvent(Event):
    """The runner turned to something else."""

    event: ClassVar[str] = "phase"

    phase: str


@dataclass(frozen=True)
class ProgressEvent(Event):
    """How far the runner has come; `steps` and `epochs` are where it will end."""

    event: ClassVar[str] = "progress"

    step: int
    steps: int
    epoch: int
    epochs: int


@dataclass(frozen=True)
class MetricEvent(Event):
    """One value of one metric."""

    event: ClassVar[str] = "metric"

    name: str
    value: float
    step: int
    epoch: int
    #: Seconds since 1970.
    time: float


@dataclass(frozen=True)
class CheckpointEvent(Event):
    """A complete checkpoint lies in the folder."""

    event: ClassVar[str] = "checkpoint"

    #: File name inside the folder's `checkpoints`.
    file: str
    #: SHA-256 of the file, in hex.
    digest: str
    step: int
    epoch: int
    #: The monitored metric, where this checkpoint is the best so far.
    score: float | None = None
    #: Whether this is the best so far.
    best: bool = False


@dataclass(frozen=True)
class EndEvent(Event):
    """How the runner ended."""

    event: ClassVar[str] = "end"

    #: A value of `jobs.job.Reason`.
    reason: Reason
    #: One line for people.
    message: str = ""
    traceback: str = ""
    #: Final metrics by name, and further plain values.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: The most memory that the rank had on its GPU at once, in bytes.
    peak_gpu_memory: int = 0


_EVENTS: Final[dict[str, type[Event]]] = {
    each.event: each for each in (PhaseEvent, ProgressEvent, MetricEvent, CheckpointEvent, EndEvent)
}


def decode(line: str) -> Event:
    """Return the event of one line. Raise ValueError for a line that is none."""
    try:
        plain = json.loads(line)
        cls = _EVENTS[plain.pop("event")]
        if cls is EndEvent:
            plain["reason"] = Reason(plain["reason"])
        return cls(**plain)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no event: {line[:200]!r}") from error


def first_bad_end(paths: Iterable[Path]) -> EndEvent | None:
    """Return the first end, in the order of these files of events, that is no success.

    A torn line, as a full disk leaves it, is passed over.
    """
    for path in paths:
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                event = decode(line.decode("utf-8"))
                if isinstance(event, EndEvent) and event.reason is not Reason.SUCCEEDED:
                    return event
    return None


class EventReader:
    """Read the events that were appended since the last look; half a line is left for the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Event]:
        """Yield each complete event once."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield decode(line.decode("utf-8"))
