"""What comes next in a series, from a folder alone: trained, scored in both units, forecast."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Reason
from worker.events import EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]

PERIOD, SIZE = 8, 50.0
MODELS = [
    {"name": "many_to_one", "pooling": "last", "bidirectional": False},
    {"name": "encoder_decoder", "embedding_size": 16},
    {"name": "single_layer", "reads": "last", "window": 12},
]


def wave(at: int) -> float:
    return 1000 + SIZE * math.sin(2 * math.pi * at / PERIOD)


def spec(model: dict[str, Any]) -> dict[str, Any]:
    off = {} if model["name"] == "single_layer" else {"hidden_size": 16, "dropout": 0.0}
    return {
        "kind": "train",
        "seed": 1,
        "model": {**model, **off},
        "data": {"name": "time_series", "root": ".", "window": 12, "horizon": 3, "time": "at"},
        "trainer": {
            "max_epochs": 20,
            "val_every": 20,
            "batch_tokens": 200,
            "precision": "fp32",
            "lr": 1e-2,
        },
    }


@pytest.mark.parametrize("model", MODELS, ids=[model["name"] for model in MODELS])
def test_a_wave_goes_on(model: dict[str, Any], lay_plain: Lay, tmp_path: Path) -> None:
    rows = [f"{at},{wave(at)}" for at in range(300)]
    (tmp_path / "data" / "waves.csv").write_text("\n".join(["at,height", *rows]) + "\n")
    plain = spec(model)
    folder = lay_plain("train", plain)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    names = {e.name for e in EventReader(folder.events_file).read() if isinstance(e, MetricEvent)}
    assert "train/loss" in names
    assert "train/accuracy" not in names
    scale = SIZE / math.sqrt(2)  # the deviation of a sine
    assert end.result["val/mse"] < 0.05
    for error, power in (("mse", 2), ("mae", 1)):
        expected = end.result[f"val/{error}"] * scale**power
        assert end.result[f"val/{error}_original"] == pytest.approx(expected, rel=0.01)

    line = json.dumps([[wave(at)] for at in range(1000, 1015)])
    using = {"checkpoint": str(next(folder.checkpoints.iterdir())), "trained": plain}
    asked = {"kind": "predict", "job": "1", "lines": [line]}
    folder = lay_plain("predict", asked, **using)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    (((answer,),),) = [json.loads((folder.files / "predictions.json").read_text())["lines"]]
    told = [float(each) for each in answer["text"].split()]
    assert answer["values"]["height"] == pytest.approx(told, rel=1e-5)
    assert told == pytest.approx([wave(at) for at in range(1015, 1018)], abs=SIZE / 2)

    folder = lay_plain("wrong", {**asked, "lines": [line, "[[1]]"]}, **using)
    end = run(folder, Commands())
    assert end.reason == Reason.BAD_DATA
    assert "line 2: the line '[[1]]' must be a JSON list of at least 12 rows" in end.message
