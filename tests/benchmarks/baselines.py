"""What no training is needed for: the figures that a trained model is held against.

Each function reads a set below the folder of data and returns the scores of its test split by
metric, for each baseline by its name. `BASELINES` has them by the name that rows.toml uses.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from datamodules._base import TextScoring
from lightning_modules._scoring import score_text
from tests.benchmarks.forecasts import naive

Scores = Mapping[str, Mapping[str, float]]


def first_sentence(data: Path) -> Scores:
    """Return ROUGE of the first sentence of each abstract of SciTLDR, as its summary."""
    lines = (data / "scitldr" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    scored = score_text(
        [row["source"][0] for row in rows],
        [row["target"] for row in rows],
        TextScoring(metrics=("rouge",)),
    )
    return {"first sentence": {f"test/{name}": value for name, value in scored.metrics.items()}}


def ett(data: Path) -> Scores:
    """Return the errors of forecasts of ETTh1's oil temperature that need no network."""
    found = naive(data / "ett" / "ETTh1.csv")
    return {
        name: {f"test/{error}": value for error, value in errors.items()}
        for name, errors in found.items()
    }


BASELINES: Final[Mapping[str, Callable[[Path], Scores]]] = {
    "first_sentence": first_sentence,
    "ett": ett,
}
