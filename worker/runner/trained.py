"""A trained model, ready for use: read from its checkpoint, or held since it was last used.

A process that holds a model has read it once, for the runners that are forked from it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from datamodules._base import LineData
from jobs.errors import SpecError
from jobs.spec import TrainerOptions, TrainSpec, spec_from_dict
from lightning_modules._base import Topology
from worker.folder import Attempt
from worker.runner import catalog, precision
from worker.runner.build import build_data, rebuild_model
from worker.runner.resume import Saved
from worker.runner.task import Task, read_checkpoint
from worker.runner.train import load_weights

#: What this process holds: the name of a model, and the model.
_HELD: Final[dict[str, "Trained"]] = {}


@dataclass(frozen=True)
class Trained:
    """Hold a model and its kind of data, without any rows."""

    model: Topology
    data: LineData
    precision: precision.Choice

    @classmethod
    def build(cls, saved: Saved, spec: TrainSpec) -> "Trained":
        """Build the model that a checkpoint was taken of. Raise SpecError."""
        data = build_data(catalog.kinds_of_data().find(spec.data.name), spec.data)
        model = rebuild_model(catalog.topologies().find(spec.model.name), saved.hyper_parameters)
        if not isinstance(data, LineData):
            raise SpecError(f"{spec.data.name} reads no lines: its models can only be evaluated")
        data.load_state_dict(dict(saved.data))
        load_weights(model, saved)
        model.eval()
        return cls(model, data, TrainerOptions.from_dict(saved.trainer).precision)


def hold(files: Sequence[int]) -> None:
    """Read a model for the runners that will be forked from this process.

    `files` are descriptors of its checkpoint and of an attempt that used it. Raise SpecError or
    ArtifactError.
    """
    checkpoint, used = files
    with os.fdopen(used, "rb", closefd=False) as file:
        attempt = Attempt.from_dict(json.load(file))
    saved = read_checkpoint(Path(f"/proc/self/fd/{checkpoint}"), attempt)
    _HELD[attempt.model] = Trained.build(saved, trained_spec(attempt, saved))


def load(task: Task) -> tuple[Topology, LineData, torch.autocast]:
    """Return the trained model, ready for use, its data without any rows, and how to multiply."""
    trained = _HELD.get(task.attempt.model)
    if trained is None:
        saved = task.read_checkpoint()
        trained = Trained.build(saved, trained_spec(task.attempt, saved))
    trained.data.roots = task.workspace.roots
    model = trained.model.to(task.device)
    chosen = precision.choose(trained.precision, task.device)
    autocast = torch.autocast(task.device.type, torch.bfloat16, enabled=chosen == "bf16-mixed")
    return model, trained.data, autocast


def trained_spec(attempt: Attempt, saved: Saved) -> TrainSpec:
    """Return the spec of the job whose checkpoint this is. Raise SpecError."""
    plain: Any = attempt.trained or saved.spec
    spec = spec_from_dict(plain)
    if not isinstance(spec, TrainSpec):
        raise SpecError(f"a job of kind {spec.kind!r} has trained no model")
    return spec
