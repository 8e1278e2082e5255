"""The trainings of a run: small, real, a few seconds long, and each the same whenever it runs."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jobs.spec import TrainSpec, spec_from_dict
from tests.benchmarks.chaos.plan import PlannedJob

#: Topologies and kinds of data that chaos adds to the program's own.
PLUGINS: Final = Path(__file__).with_name("plugins")
_TEXT: Final = "a small text that says the same again and again, and yet never quite the same; "

_DATES: Final[Mapping[str, Any]] = {"name": "paced_dates"}
_SMALL: Final[Mapping[str, Any]] = {"hidden_size": 16, "embedding_size": 8}
_TWO_EPOCHS: Final[Mapping[str, Any]] = {"max_epochs": 2, "batch_tokens": 500}

#: What is trained, by a short name.
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "attention": {
        "model": {"name": "attention_encoder_decoder", **_SMALL},
        "data": _DATES,
        "trainer": _TWO_EPOCHS,
    },
    "attention-2-ranks": {
        "model": {"name": "attention_encoder_decoder", **_SMALL},
        "data": _DATES,
        "trainer": _TWO_EPOCHS,
        "resources": {"devices": 2},
    },
    "encoder-decoder": {
        "model": {"name": "encoder_decoder", "cell": "gru", **_SMALL},
        "data": _DATES,
        "trainer": _TWO_EPOCHS,
    },
    "language-model": {
        "model": {"name": "language_model", "cell": "lstm", **_SMALL},
        "data": {"name": "paced_chars"},
        "trainer": {"max_epochs": 2, "batch_tokens": 128},
    },
}


def spec_of(job: PlannedJob, text: Path) -> TrainSpec:
    """Return what a planned job trains; `text` is the folder of the language model's text."""
    shape = SHAPES[job.shape]
    data = dict(shape["data"])
    if data["name"] == "paced_chars":
        data["root"] = str(text)
    spec = spec_from_dict(
        {
            "model": shape["model"],
            "data": data,
            "trainer": {"log_every": 1, "precision": "fp32", "warmup_steps": 4, **shape["trainer"]},
            "resources": {"threads": 1, **shape.get("resources", {})},
            # Several checkpoints in an epoch, so that most resumes begin inside one.
            "policy": {"checkpoint_steps": 4},
            "name": f"{job.shape} {job.number}",
            "seed": job.seed,
        }
    )
    assert isinstance(spec, TrainSpec)
    return spec


def write_text(folder: Path) -> None:
    """Write the text of the language models."""
    chance = random.Random(7)
    words = _TEXT.split()
    folder.mkdir()
    text = " ".join(chance.choice(words) for _ in range(400))
    (folder / "train.txt").write_text(f"{text}\n", encoding="utf-8")
