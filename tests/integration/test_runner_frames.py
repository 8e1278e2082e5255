"""Frames from a folder alone: each target trained by each topology that takes it, scored, asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.job import Reason
from worker.events import EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]

SPEC: dict[str, Any] = {
    "kind": "train",
    "seed": 1,
    "trainer": {"max_epochs": 3, "batch_tokens": 60, "precision": "fp32", "warmup_steps": 4},
}
#: A topology for each target, and one of the scores that it gives.
CASES = {
    "label": ("many_to_one", "accuracy"),
    "value": ("single_layer", "mae_original"),
    "tags": ("many_to_many", "f1"),
    "labels": ("many_to_many", "micro_f1"),
    "values": ("many_to_many", "mse_original"),
    "next": ("language_model", "mse_original"),
    "text": ("attention_encoder_decoder", "cer"),
}


@pytest.fixture
def frames(tmp_path: Path, lay_plain: Lay) -> Path:
    """A folder of sequences: waves that turn up or down, with all that can be said of them."""
    folder = tmp_path / "data" / "waves"
    folder.mkdir()
    chance = np.random.default_rng(4)
    for split, count in (("train", 60), ("val", 12), ("test", 12)):
        lines = []
        for row in range(count):
            up = chance.choice([-1.0, 1.0], size=chance.integers(1, 6))
            np.save(folder / f"{split}-{row}.npy", np.stack([up, np.cumsum(up)], axis=1))
            words = ["up" if each > 0 else "down" for each in up]
            said = {"label": words[0], "value": float(up.sum()), "text": " ".join(words)}
            lines.append(json.dumps({"path": f"{split}-{row}.npy", **said, "labels": words}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def rewrite(folder: Path, target: str) -> None:
    """Give manifests what only some targets want."""
    for manifest in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        for row in rows:
            words = row["labels"]
            if target == "labels":
                row["labels"] = [[word, "any"] if word == "up" else [] for word in words]
            if target == "values":
                row["values"] = [len(word) for word in words]
        manifest.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("target", CASES)
def test_frames_are_learned_scored_and_asked(target: str, frames: Path, lay_plain: Lay) -> None:
    name, score = CASES[target]
    rewrite(frames, target)
    small = {} if name == "single_layer" else {"hidden_size": 8}
    data = {"name": "feature_frames", "root": "waves", "target": target, "bptt": 3}
    spec = {**SPEC, "model": {"name": name, **small}, "data": data}
    training = lay_plain("train", spec)
    end = run(training, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert np.isfinite(end.result[f"val/{score}"])
    told = {e.name for e in EventReader(training.events_file).read() if isinstance(e, MetricEvent)}
    assert "train/loss" in told
    assert ("train/accuracy" in told) is (target not in {"value", "values", "next"})
    trained = {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}

    end = run(lay_plain("score", {"kind": "evaluate", "job": "job-1"}, **trained), Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert np.isfinite(end.result[f"test/{score}"])

    lines = ["waves/test-0.npy", "", "waves/test-1.npy"]
    asked = lay_plain("asked", {"kind": "predict", "job": "job-1", "lines": lines}, **trained)
    assert run(asked, Commands()).result == {"lines": 3}
    answers = json.loads((asked.files / "predictions.json").read_text())["lines"]
    assert all(len(each) == 1 for each in answers)
    if target in {"tags", "values", "labels"}:
        steps = [len(np.load(frames / line.removeprefix("waves/"))) for line in lines if line]
        assert [len(answers[row][0]["text"].split()) for row in (0, 2)] == steps


def test_a_model_of_frames_writes_no_text_on(frames: Path, lay_plain: Lay) -> None:
    spec = {
        **SPEC,
        "model": {"name": "language_model", "hidden_size": 4, "layers": 1},
        "data": {"name": "feature_frames", "root": "waves", "target": "next"},
    }
    training = lay_plain("train", spec)
    assert run(training, Commands()).reason == Reason.SUCCEEDED
    trained = {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}
    asked = {"kind": "generate", "job": "job-1", "prompt": "", "length": 3}
    end = run(lay_plain("write", asked, **trained), Commands())
    assert end.reason == Reason.USER_ERROR
    assert "learned no running text: use predict" in end.message
