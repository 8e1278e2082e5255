"""Generate: let a trained language model write on from a prompt."""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules._base import StreamData
from jobs.errors import SpecError
from jobs.files import GENERATED_FILE
from jobs.spec import GenerateSpec
from lightning_modules._sampling import Sampling
from worker.folder import write_atomically
from worker.runner.predict import write_predictions
from worker.runner.task import Task
from worker.runner.trained import load


def generate(task: Task, spec: GenerateSpec) -> dict[str, Any]:
    """Write what follows the prompt to `files/predictions.json`, as the answer to one line.

    Of text the prompt is a part of it; frames also go to `files/generated.npy`, float32 (S, F).
    """
    task.reporter.phase("preparing")
    model, data, autocast = load(task)
    if not isinstance(data, StreamData):
        raise SpecError(f"{type(model).__name__} learned nothing that goes on: use predict")
    sampling = Sampling(spec.temperature, spec.top_k, spec.top_p, spec.seed)
    task.reporter.phase("generating")
    with autocast, torch.no_grad():
        prompt = data.encode([spec.prompt])
        ((written, score),) = model.write_on(prompt.to(task.device), spec.length, sampling)
    answer = data.continued(prompt, written, score)
    if frames := answer.values.get("frames"):
        _write_array(task, np.array(frames, dtype=np.float32))
    write_predictions(task, [[answer]])
    return {"steps": len(written), "score": score}


def _write_array(task: Task, frames: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, frames)
    write_atomically(task.folder.files / GENERATED_FILE, content.getvalue(), durable=False)
