"""When a checkpoint is taken, and how it gets onto the disk whole."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning import Callback, Trainer

from jobs.spec import Policy
from lightning_modules._ranks import any_over_ranks, rank
from worker.events import CheckpointEvent
from worker.runner.commands import Commands
from worker.runner.gradients import GradientGuard
from worker.runner.reasons import Preempted
from worker.runner.reporter import Reporter
from worker.runner.resume import Continuation, Saved
from worker.runner.selection import Selection


def write_checkpoint(path: Path, saved: Saved) -> str:
    """Write a checkpoint so that it is whole or not there, and return its SHA-256 in hex."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w+b") as file:
            _save(saved, file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest


def _save(saved: Saved, file: BinaryIO) -> None:
    try:
        torch.save(saved.to_dict(), file)
    except RuntimeError as error:
        # Of a full disk torch says only that its position is unexpected; the cause knows better.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


class Shelf:
    """Keep the newest and the best checkpoint of a folder, and clear what this run wrote before."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self._folder = folder
        self._reporter = reporter
        self._newest: str | None = None
        self._best: str | None = None

    @property
    def newest(self) -> str | None:
        """Return the file name of the newest checkpoint of this run."""
        return self._newest

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Say, for the length of a block, that a checkpoint is being kept: that may take long."""
        self._reporter.phase("saving")
        yield
        self._reporter.phase("training")

    def put(self, saved: Saved, *, epoch: int, score: float | None) -> str:
        """Write a checkpoint and tell of it; a score means that it is the best so far."""
        name = f"step-{saved.position.step:08d}.ckpt"
        digest = write_checkpoint(self._folder / name, saved)
        best = score is not None
        step = saved.position.step
        self._reporter.checkpoint(CheckpointEvent(name, digest, step, epoch, score, best))
        before = {self._newest, self._best}
        self._newest, self._best = name, name if best else self._best
        # Only now: a supervisor that has not read the new event yet still finds the old file.
        for old in before - {None, self._newest, self._best}:
            (self._folder / str(old)).unlink(missing_ok=True)
        return name


class Checkpointer(Callback):
    """Take a checkpoint by time, by steps, on command and after each validation; act on stop.

    After the last batch of an epoch, what is due waits until the validation has ended. What any
    rank is told, or finds due, all do after the same batch.
    """

    def __init__(
        self,
        shelf: Shelf,
        policy: Policy,
        commands: Commands,
        parts: tuple[Continuation, GradientGuard, Selection],
    ) -> None:
        self._shelf = shelf
        self._policy = policy
        self._commands = commands
        self._at, self._guard, self._selection = parts
        self._last_time = time.monotonic()
        self._last_step = self._at.step

    def on_train_start(self, *_: Any) -> None:
        """Start the clock, and take the signals back from Lightning."""
        self._last_time = time.monotonic()
        self._commands.wait_for_batches()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Take what is due in the middle of an epoch."""
        if not self._at.epoch_is_over and not trainer.should_stop:
            self._take_what_is_due(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Take the checkpoint of this validation."""
        self._take(trainer)
        (stop,) = any_over_ranks(self._commands.wants_stop)
        self._stop_if(stop)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Take what is due after an epoch without validation."""
        self._take_what_is_due(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Take the last checkpoint where no validation did."""
        if self._at.step > self._last_step:
            self._take(trainer)

    def _take_what_is_due(self, trainer: Trainer) -> None:
        wanted = self._commands.wants_checkpoint or self._is_due
        take, stop = any_over_ranks(wanted, self._commands.wants_stop)
        if take or stop:
            self._take(trainer)
        self._stop_if(stop)

    @property
    def _is_due(self) -> bool:
        steps = self._policy.checkpoint_steps
        return time.monotonic() - self._last_time >= self._policy.checkpoint_seconds or (
            steps is not None and self._at.step - self._last_step >= steps
        )

    def _take(self, trainer: Trainer) -> None:
        if self._at.step > self._last_step:
            with self._shelf.telling():
                self._guard.look(self._at.step)
                score = self._selection.score if self._selection.is_best else None
                saved = self._at.capture(trainer)
                if rank() == 0:
                    self._shelf.put(saved, epoch=self._at.epoch, score=score)
            self._last_step, self._last_time = self._at.step, time.monotonic()
        self._commands.took_checkpoint(self._shelf.newest)

    def _stop_if(self, told: bool) -> None:
        if told and not self._selection.finished:
            raise Preempted
