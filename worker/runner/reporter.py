"""What a run says: events for the supervisor, lines for people."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TextIO

from worker.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
)
from worker.folder import AttemptFolder

#: Seconds between two progress events, which only people look at.
_PROGRESS_EVERY: Final = 0.5


def _say(line: str, stream: TextIO | None = None) -> None:
    # The log is for people: that its disk is full ends no training.
    with contextlib.suppress(OSError):
        stream = stream or sys.stdout
        stream.write(f"{line}\n")
        stream.flush()


def _nothing(_line: str) -> None:
    pass


class Reporter:
    """Append events to the folder, each whole and at once; what must survive is fsynced."""

    def __init__(
        self, folder: AttemptFolder, say: Callable[[str], None] = _say, rank: int = 0
    ) -> None:
        self._say = _nothing if rank else say  # people are told once
        events = folder.events_of(rank)
        _move_aside(events)
        self._file = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._progress_due = 0.0
        self._torn = False
        #: Whether the end must outlive a power loss; what can be asked again in a second need not.
        self.durable = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def say(self, line: str) -> None:
        """Print a line for people."""
        self._say(line)

    def phase(self, phase: str) -> None:
        """Tell that the runner turned to something else."""
        self._write(PhaseEvent(phase))

    def metrics(self, values: Mapping[str, float], *, step: int, epoch: int) -> None:
        """Tell the values of metrics, by name, after this step."""
        now = time.time()
        events = [MetricEvent(name, value, step, epoch, now) for name, value in values.items()]
        self._write(*events)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.say(f"epoch {epoch}  step {step}  {shown}")

    def progress(self, event: ProgressEvent, *, now: bool = False) -> None:
        """Tell how far the run has come; between two tellings passes half a second."""
        clock = time.monotonic()
        if now or clock >= self._progress_due:
            self._progress_due = clock + _PROGRESS_EVERY
            self._write(event)

    def checkpoint(self, event: CheckpointEvent) -> None:
        """Tell that a complete checkpoint lies in the folder."""
        self._write(event)
        os.fsync(self._file)
        best = f", the best so far ({event.score:.4g})" if event.score is not None else ""
        self.say(f"checkpoint {event.file}{best}")

    def end(self, event: EndEvent) -> None:
        """Tell how the run ended: the last event."""
        self._write(event)
        if self.durable:
            os.fsync(self._file)
        if event.traceback:
            _say(event.traceback, sys.stderr)
        self.say(f"ended: {event.reason}{': ' if event.message else ''}{event.message}")

    def _write(self, *events: Event) -> None:
        lines = "".join(event.to_json() + "\n" for event in events)
        text = memoryview(("\n" + lines if self._torn else lines).encode())
        self._torn = True  # until all of it is there: what comes next must not hang on half a line
        while text:
            text = text[os.write(self._file, text) :]
        self._torn = False


def _move_aside(events: Path) -> None:
    """Keep the events of an earlier run by hand under a number of their own."""
    if not events.exists():
        return
    taken = len(list(events.parent.glob(f"{events.stem}-*{events.suffix}")))
    events.rename(events.with_name(f"{events.stem}-{taken + 1:04d}{events.suffix}"))
