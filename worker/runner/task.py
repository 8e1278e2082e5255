"""What every kind of job starts from."""

from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules._base import Workspace
from jobs.errors import SpecError
from jobs.spec import TrainSpec, spec_from_dict
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
        """Read the checkpoint the supervisor chose. Raise SpecError."""
        if self.attempt.checkpoint is None:
            raise SpecError(f"job {self.attempt.job} was given no checkpoint to work with")
        return Saved.read(Path(self.attempt.checkpoint))

    def trained_spec(self, saved: Saved) -> TrainSpec:
        """Return the spec of the job whose checkpoint this is."""
        spec = spec_from_dict(self.attempt.trained or saved.spec)
        if not isinstance(spec, TrainSpec):
            raise SpecError(f"a job of kind {spec.kind!r} has trained no model")
        return spec
