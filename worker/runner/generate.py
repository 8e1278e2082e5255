"""Generate: let a trained language model write on from a prompt."""

from typing import Any

import torch

from datamodules._base import Answer, ProseData
from jobs.errors import SpecError
from jobs.spec import GenerateSpec
from lightning_modules._sampling import Sampling
from worker.runner.predict import load, write_predictions
from worker.runner.task import Task


def generate(task: Task, spec: GenerateSpec) -> dict[str, Any]:
    """Write prompt and continuation to `files/predictions.json`, as the answer to one line."""
    task.reporter.phase("preparing")
    model, data, autocast = load(task)
    if not isinstance(data, ProseData):
        raise SpecError(f"{type(model).__name__} learned no running text: use predict")
    sampling = Sampling(spec.temperature, spec.top_k, spec.top_p, spec.seed)
    task.reporter.phase("generating")
    with autocast, torch.no_grad():
        batch = data.encode([spec.prompt])
        ((written, score),) = model.write_on(batch.to(task.device), spec.length, sampling)
    # Read as one text: a prompt may end within a line. What stands before it is the begin alone.
    text = data.text([*batch.inputs[0, 1:].tolist(), *written])
    write_predictions(task, [[Answer(text, score)]])
    return {"symbols": len(written), "score": score}
