"""What every kind of job starts from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules._base import Workspace
from jobs.errors import ArtifactError, SpecError
from worker.folder import Attempt, AttemptFolder
from worker.runner.commands import Commands
from worker.runner.reporter import Reporter
from worker.runner.resume import Saved


@dataclass(frozen=True)
class Task:
    """Hold what a run was given, and whom it talks to."""

    folder: AttemptFolder
    attempt: Attempt
    reporter: Reporter
    commands: Commands
    device: torch.device

    @property
    def workspace(self) -> Workspace:
        """Return where data may be read and kept."""
        return Workspace(tuple(map(Path, self.attempt.roots)), Path(self.attempt.cache))

    def read_checkpoint(self) -> Saved:
        """Read the checkpoint the supervisor chose. Raise SpecError, ArtifactError."""
        if self.attempt.checkpoint is None:
            raise SpecError(f"job {self.attempt.job} was given no checkpoint to work with")
        return read_checkpoint(Path(self.attempt.checkpoint), self.attempt)


def read_checkpoint(path: Path, attempt: Attempt) -> Saved:
    """Read the checkpoint of an attempt, and check it where its supervisor has not.

    Raise SpecError, ArtifactError.
    """
    if attempt.unchecked:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != attempt.unchecked:
            raise ArtifactError(f"{path.name} is damaged: its digest is another")
    return Saved.read(path)
