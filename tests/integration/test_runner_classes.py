"""A classifier from a folder alone: trained, scored with labels it never saw, asked for labels."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules._vocab import UNKNOWN_TEXT
from jobs.job import Reason
from worker.events import EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.sentences import Sentences

Lay = Callable[..., AttemptFolder]

SPEC: dict[str, Any] = {
    "kind": "train",
    "seed": 1,
    "data": {"name": "labelled_text", "root": "letters", "layout": "classes"},
    "trainer": {"max_epochs": 8, "batch_tokens": 120, "precision": "fp32", "warmup_steps": 4},
}
MODELS = {
    "many_to_one": {"hidden_size": 12, "symbol_dropout": 0.0, "dropout": 0.0},
    "single_layer": {},
}


@pytest.fixture
def lay_letters(tmp_path: Path, lay_plain: Lay) -> Lay:
    """Return a function that lays an attempt folder of any spec over a folder of letters."""
    folder = tmp_path / "data" / "letters"
    folder.mkdir()
    chance = random.Random(2)
    for name, letters in (("low", "abcd"), ("high", "wxyz")):
        words = ["".join(chance.choices(letters, k=chance.randint(2, 7))) for _ in range(150)]
        (folder / f"{name}.txt").write_text("".join(f"{word}\n" for word in words))
    return lay_plain


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_is_trained_scored_and_used(
    lay_letters: Lay, name: str, tmp_path: Path
) -> None:
    spec = {**SPEC, "model": {"name": name, **MODELS[name]}}
    spec["data"] = {**SPEC["data"], "tokens": "characters"}
    training = lay_letters("train", spec)
    end = run(training, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert end.result["val/accuracy"] == end.result["val/macro_f1"] == 1.0
    trained = {"checkpoint": str(next(training.checkpoints.iterdir())), "trained": spec}

    (tmp_path / "data" / "letters" / "none.txt").write_text("abcd\nwxyz\nabab\n")
    strange = lay_letters("strange", {"kind": "evaluate", "job": "job-1"}, **trained)
    end = run(strange, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    named = {e.name for e in EventReader(strange.events_file).read() if isinstance(e, MetricEvent)}
    assert named == {"test/accuracy", "test/macro_f1", "test/loss"}
    assert end.result["unknown_labels"] == 1
    assert 0.9 < end.result["test/accuracy"] < 1.0
    (kept,) = strange.files.iterdir()
    row = json.loads(kept.read_text().splitlines()[1])
    assert row["output"] in {"low", "high"}
    assert row["source"]
    assert (row["length"], row["label"] in {"low", "high"}) == (len(row["source"].split()), True)
    rows = Sentences.read(kept).scores["macro_f1"]
    assert rows.score() == pytest.approx(end.result["test/macro_f1"])
    low, high = end.result["intervals"]["test/macro_f1"]
    assert low < end.result["test/macro_f1"] < high
    labels = Sentences.read(kept).properties["label"]
    assert labels.count(UNKNOWN_TEXT) == end.result["unknown_labels"]

    asked = {"kind": "predict", "job": "job-1", "lines": ["abba", "", "zyx"]}
    prediction = lay_letters("asked", {**asked, "search": {"beam": 2, "n_best": 2}}, **trained)
    assert run(prediction, Commands()).result == {"lines": 3}
    answers = json.loads((prediction.files / "predictions.json").read_text())["lines"]
    assert [len(each) for each in answers] == [2, 2, 2]
    assert [answers[row][0]["text"] for row in (0, 2)] == ["low", "high"]
    for first, second in answers:
        assert first["values"] == {"label": first["text"]}
        assert first["score"] + second["score"] == pytest.approx(1)
        assert first["score"] >= second["score"]

    for wish, message in (
        ({"search": {"beam": 4}}, "writes no text"),
        ({"attention": True}, "no attention to show"),
    ):
        refused = run(lay_letters(message[:4], {**asked, **wish}, **trained), Commands())
        assert refused.reason == Reason.USER_ERROR
        assert message in refused.message
