"""Predict: run a trained model on lines of text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from datamodules._base import TextData
from jobs.errors import SpecError
from jobs.spec import PredictSpec, TrainerOptions
from lightning_modules._decoding import Hypothesis
from lightning_modules._text import TextTopology
from worker.events import ProgressEvent
from worker.folder import write_atomically
from worker.runner import catalog, precision
from worker.runner.build import build_data, rebuild_model
from worker.runner.evaluate import set_search
from worker.runner.picture import draw_attention
from worker.runner.task import Task
from worker.runner.train import load_weights

#: Characters, padding counted, times the beam, that are searched at once.
_AT_ONCE: Final = 50_000


def predict(task: Task, spec: PredictSpec) -> dict[str, Any]:
    """Write `files/predictions.json`, and where asked the attention of each line's best output."""
    task.reporter.phase("preparing")
    model, data, autocast = _load(task, spec)
    task.reporter.phase("predicting")
    found: list[list[Hypothesis]] = [[] for _ in spec.lines]
    done = 0
    for rows in batches_by_length(spec.lines, _AT_ONCE // spec.search.beam):
        with autocast:
            batch = data.encode([spec.lines[row] for row in rows]).to(task.device)
            for row, hypotheses in zip(rows, model.generate(batch), strict=True):
                found[row] = hypotheses
        done += len(rows)
        task.reporter.progress(ProgressEvent(done, len(spec.lines), 0, 0))
    task.folder.files.mkdir(exist_ok=True)
    _write_json(task.folder.files / "predictions.json", predictions(data, found))
    if spec.attention:
        for row, line in enumerate(spec.lines):
            _write_attention(task.folder.files / f"attention-{row:04d}", data, line, found[row][0])
    return {"lines": len(spec.lines)}


def _load(task: Task, spec: PredictSpec) -> tuple[TextTopology, TextData, torch.autocast]:
    saved = task.read_checkpoint()
    trained = task.trained_spec(saved)
    data = build_data(catalog.kinds_of_data().find(trained.data.name), trained.data)
    found = catalog.topologies().find(trained.model.name)
    model = rebuild_model(found, saved.hyper_parameters)
    if not isinstance(data, TextData) or not isinstance(model, TextTopology):
        raise SpecError(f"{trained.model.name} on {trained.data.name} turns no text into text")
    data.load_state_dict(dict(saved.data))
    load_weights(model, saved)
    set_search(model, spec.search)
    model.search = replace(model.search, attention=spec.attention)
    model.to(task.device).eval()
    chosen = precision.choose(TrainerOptions.from_dict(saved.trainer).precision, task.device)
    autocast = torch.autocast(task.device.type, torch.bfloat16, enabled=chosen == "bf16-mixed")
    return model, data, autocast


def batches_by_length(lines: Sequence[str], at_once: int) -> Iterator[list[int]]:
    """Yield row numbers, each once, lines of like length together; padded, at most `at_once`.

    A line that is longer by itself is a batch by itself.
    """
    batch: list[int] = []
    for row in sorted(range(len(lines)), key=lambda row: len(lines[row])):
        if batch and (len(batch) + 1) * (len(lines[row]) + 1) > at_once:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def predictions(data: TextData, found: Sequence[Sequence[Hypothesis]]) -> dict[str, Any]:
    """Return the n best texts of each line, with their scores."""
    return {
        "lines": [
            [{"text": data.detokenise(each.ids), "score": each.score} for each in hypotheses]
            for hypotheses in found
        ]
    }


def _write_attention(stem: Path, data: TextData, line: str, best: Hypothesis) -> None:
    if best.attention is None:
        raise SpecError("this topology has no attention to keep")
    attention = {
        "source": data.source_symbols(line),
        "target": data.target_symbols(best.ids),
        "weights": best.attention.tolist(),
    }
    _write_json(stem.with_suffix(".json"), attention)
    write_atomically(stem.with_suffix(".png"), draw_attention(**attention))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, ensure_ascii=False).encode())
