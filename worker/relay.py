"""Carry what a runner says into the record: metrics, progress, log lines, checkpoints.

While the service is away everything waits where it is, in the folder's files: only so much is read
ahead, and nothing is let go before the service has answered.
"""

from collections import deque
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Final

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError
from jobs.job import Checkpoint, Job, Lease, Progress
from jobs.store import JobStore, new_nonce
from worker.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    EventReader,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
)
from worker.folder import AttemptFolder

#: Events that are read ahead, and so carried at most by each look of the supervisor: at four looks
#: a second, more than a runner says that reports four metrics of each of its shortest steps.
_AT_ONCE: Final = 2_000
#: Log that is left to the artifact store when a runner writes faster than the service takes it.
_LOG_BACKLOG: Final = 1_000_000
_LOG_BLOCK: Final = 100_000


class Relay:
    """Relay one attempt. Every method raises ServiceUnreachable and StaleToken."""

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        job: Job,
        lease: Lease,
        folder: AttemptFolder,
    ) -> None:
        self._store = store
        self._lease = lease
        self._events = EventReader(folder.events_file)
        self._log = LogReader(folder.log_file)
        self._shelf = Shelf(store, artifacts, job, lease, folder)
        self._waiting: deque[Event] = deque()
        self._lines: list[str] = []
        #: Names a report until it is answered: what is said again must not stand there twice.
        self._nonce = new_nonce()
        self._progress = replace(job.progress, phase="starting")
        #: The runner's own word on its end.
        self.end: EndEvent | None = None

    def note(self, line: str) -> None:
        """Add a line to the job's log."""
        self._lines.append(line)

    def pump(self) -> bool:
        """Carry on what is new; return whether there may be more."""
        self._read_ahead()
        if not self._waiting and not self._lines:
            return False
        simple = list(takewhile(_is_simple, self._waiting))
        self._report(simple)
        for _ in simple:
            self._waiting.popleft()
        if self._waiting:
            self._turn(self._waiting[0])
            self._waiting.popleft()
        return True

    def drain(self) -> None:
        """Carry on everything that there is; for after the runner's end."""
        self._log.ended = True
        while self.pump() or not self._log.exhausted:
            pass

    def settle(self) -> str:
        """Return why the best model is not kept whole, or an empty string: it is."""
        return self._shelf.settle() or self._shelf.look_at_the_best()

    def _read_ahead(self) -> None:
        if not self._lines:
            self._lines.extend(self._log.read())
        try:
            self._waiting.extend(islice(self._events.read(), _AT_ONCE - len(self._waiting)))
        except ValueError as error:
            self.note(f"an event that cannot be read was passed over: {error}")

    def _report(self, events: list[Event]) -> None:
        points = [event for event in events if isinstance(event, MetricEvent)]
        progress = self._progress
        for event in events:
            progress = _advance(progress, event)
        moved = progress != self._progress
        if points or moved or self._lines:
            self._store.report(
                self._lease,
                points=points,
                progress=progress if moved else None,
                lines=self._lines,
                nonce=self._nonce,
            )
        self._nonce = new_nonce()
        self._progress = progress
        self._lines = []

    def _turn(self, event: Event) -> None:
        # What stands before a checkpoint is reported by now: who goes on from it repeats nothing.
        if isinstance(event, CheckpointEvent):
            if said := self._shelf.publish(event):
                self.note(said)
        elif isinstance(event, EndEvent):
            self.end = event


def _is_simple(event: Event) -> bool:
    return not isinstance(event, CheckpointEvent | EndEvent)


def _advance(progress: Progress, event: Event) -> Progress:
    if isinstance(event, PhaseEvent):
        return replace(progress, phase=event.phase)
    if isinstance(event, ProgressEvent):
        return Progress(event.step, event.steps, event.epoch, event.epochs, progress.phase)
    return progress


class Shelf:
    """Keep the newest checkpoint of a job, the one before and the best one, and no other."""

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        job: Job,
        lease: Lease,
        folder: AttemptFolder,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._folder = folder
        self._newest = job.checkpoint
        self._previous = job.previous
        self._best = job.best
        self._put: tuple[CheckpointEvent, Checkpoint] | None = None
        #: The best checkpoint, where it could not be kept. Those after it remember it as the best:
        #: who went on from one of them would end with a model that is nowhere.
        self._owed: CheckpointEvent | None = None

    def publish(self, event: CheckpointEvent) -> str:
        """Put a checkpoint into the artifact store and let it count.

        Return what a person should know. A checkpoint that cannot be kept is passed over: the
        training goes on, and the next one may fit again. After the best one, none counts before it.
        """
        if event.best:
            self._owed = event
        said = self.settle()
        return said if said or event.best else self._publish(event)

    def settle(self) -> str:
        """Try again to keep the best checkpoint; return why that cannot be, or an empty string."""
        if self._owed and (said := self._publish(self._owed)):
            return said
        self._owed = None
        return ""

    def look_at_the_best(self) -> str:
        """Return what is wrong with the best checkpoint in the artifact store, or nothing."""
        if self._best:
            try:
                self._artifacts.check(self._best.artifact, self._best.digest)
            except (OSError, ArtifactError) as error:
                return str(error)
        return ""

    def _publish(self, event: CheckpointEvent) -> str:
        path = self._folder.checkpoints / event.file
        if path.parent != self._folder.checkpoints:
            return f"checkpoint {event.file!r} lies outside its folder and was passed over"
        try:
            checkpoint = self._keep(event, path)
        except ArtifactError as error:
            # One that is gone was replaced by a newer one, whose event follows.
            return f"checkpoint {event.file} cannot be kept: {error}" if path.exists() else ""
        self._store.publish(self._lease, checkpoint, best=event.best)
        self._forget_older(checkpoint, best=event.best)
        return ""

    def _keep(self, event: CheckpointEvent, path: Path) -> Checkpoint:
        if self._put and self._put[0] == event:  # it is there; only the record has not heard of it
            return self._put[1]
        # The digest is part of the name: a file that the record names is never replaced.
        key = f"{attempt_key(self._lease)}/checkpoints/{path.stem}-{event.digest[:8]}{path.suffix}"
        digest = self._artifacts.put(key, path)
        if digest != event.digest:
            self._artifacts.remove(key)
            raise ArtifactError("it is torn, or another has its name by now")
        checkpoint = Checkpoint(key, digest, event.step, event.epoch, event.score)
        self._put = event, checkpoint
        return checkpoint

    def _forget_older(self, newest: Checkpoint, *, best: bool) -> None:
        before = {self._newest, self._previous, self._best}
        if self._newest and self._newest.step < newest.step:  # as the record does
            self._previous = self._newest
        self._newest, self._best = newest, newest if best else self._best
        kept = {each.artifact for each in (self._newest, self._previous, self._best) if each}
        for old in before:
            if old and old.artifact not in kept:
                self._artifacts.remove(old.artifact)


class LogReader:
    """Read a growing log line by line.

    Of a line that rewrites itself, as progress bars do, the last state counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        #: Whether nothing more will be written, so that half a line is a line.
        self.ended = False
        #: Whether the last look found nothing new; a long line takes more than one.
        self.exhausted = True

    def read(self) -> list[str]:
        """Return the lines that are new, of at most a block of the file."""
        if not self._path.exists():
            return []
        lines = self._skip_backlog()
        with self._path.open("rb") as file:
            file.seek(self._offset)
            block = file.read(_LOG_BLOCK)
        self._offset += len(block)
        self.exhausted = not block
        *whole, self._rest = (self._rest + block).split(b"\n")
        if (self.ended and not block) or len(self._rest) > _LOG_BLOCK:
            whole, self._rest = [*whole, self._rest] if self._rest else whole, b""
        return lines + [_last_state(line) for line in whole]

    def _skip_backlog(self) -> list[str]:
        backlog = self._path.stat().st_size - self._offset
        if backlog <= _LOG_BACKLOG:
            return []
        skipped = backlog - _LOG_BLOCK
        self._offset += skipped
        self._rest = b""
        return [f"... {skipped:,} bytes left out here; the whole log is among the job's files"]


def _last_state(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


def attempt_key(lease: Lease) -> str:
    """Return where the files of an attempt lie in the artifact store."""
    return f"jobs/{lease.job}/attempt-{lease.attempt:04d}"
