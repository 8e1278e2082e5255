"""Recordings from a folder alone: a model is trained, scored, and listens to paths it is given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs.job import Reason
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]

RATE = 8000
DATA: dict[str, Any] = {
    "name": "speech",
    "root": "tones",
    "layout": "names",
    "pattern": "{label}_{index}",
    "test_where": "index=0-3",
    "val_share": 0.2,
    "mels": 8,
    "centred": False,  # all that a steady tone has is its mean
}
TRAINER = {"batch_tokens": 60, "precision": "fp32", "warmup_steps": 4, "lr": 0.01}


def tone(hertz: float, seconds: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.fixture
def lay(tmp_path: Path, lay_plain: Lay) -> Lay:
    """Return a function that lays an attempt folder over a folder of low and high tones."""
    folder = tmp_path / "data" / "tones"
    folder.mkdir()
    for label, hertz in (("l", 300), ("h", 2000)):
        for index in range(30):
            samples = tone(hertz + 5 * index, 0.1 + 0.01 * (index % 4))
            soundfile.write(folder / f"{label}_{index}.flac", samples, RATE)
    return lay_plain


def trained(lay: Lay, model: dict[str, Any], data: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Train, and return what the attempts that use the model are given."""
    spec = {"kind": "train", "seed": 1, "model": model, "data": {**DATA, **data}}
    training = lay("train", {**spec, "trainer": {**TRAINER, "max_epochs": epochs}})
    end = run(training, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert end.result["val/exact_match" if data else "val/accuracy"] == 1.0
    return {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}


def predictions(lay: Lay, lines: list[str], model: dict[str, Any]) -> list[str]:
    asked = lay("asked", {"kind": "predict", "job": "job-1", "lines": lines}, **model)
    end = run(asked, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    answers = json.loads((asked.files / "predictions.json").read_text())["lines"]
    return [choices[0]["text"] for choices in answers]


def test_a_label_is_heard(lay: Lay, tmp_path: Path) -> None:
    model = trained(lay, {"name": "many_to_one", "hidden_size": 8}, {}, 6)
    scored = run(lay("scored", {"kind": "evaluate", "job": "job-1"}, **model), Commands())
    assert scored.result["test/accuracy"] == 1.0
    soundfile.write(tmp_path / "data" / "new.wav", tone(320, 0.2), RATE)
    absolute = str(tmp_path / "data" / "tones" / "h_2.flac")
    assert predictions(lay, ["new.wav", absolute, "tones/h_1.flac"], model) == ["l", "h", "h"]


@pytest.mark.parametrize(
    ("line", "message"),
    [("none.wav", "no file 'none.wav'"), ("/etc/passwd", "outside the allowed")],
)
def test_a_path_that_leads_nowhere_ends_the_job(lay: Lay, line: str, message: str) -> None:
    model = trained(lay, {"name": "single_layer"}, {}, 6)
    asked = {"kind": "predict", "job": "job-1", "lines": ["tones/h_1.flac", line]}
    end = run(lay("asked", asked, **model), Commands())
    assert end.reason == Reason.BAD_DATA
    assert message in end.message


def test_a_text_is_written_and_scored_by_its_errors(lay: Lay) -> None:
    spelled = {"target": "text", "spelled": ["l=low", "h=high"]}
    model = trained(lay, {"name": "attention_encoder_decoder", "hidden_size": 16}, spelled, 20)
    scored = run(lay("scored", {"kind": "evaluate", "job": "job-1"}, **model), Commands())
    assert scored.result["test/cer"] == scored.result["test/wer"] == 0.0
    assert predictions(lay, ["tones/l_3.flac", ""], model) == ["low", ""]
