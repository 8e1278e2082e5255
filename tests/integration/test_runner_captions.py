"""Sentences from meanings and texts from labels, from a folder alone: trained, scored, written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobs.job import Reason
from worker.events import EventReader, MetricEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.sentences import Sentences

Lay = Callable[..., AttemptFolder]

FOODS = [f"food{number}" for number in range(5)]
ROWS = [
    *(
        row
        for number in range(40)
        for row in (
            [
                f"inform(name='n {number}';food={FOODS[number % 5]})",
                f"n {number} has {FOODS[number % 5]}",
            ],
            [f"inform(name='n {number}')", f"it is n {number}"],
        )
    ),
    *[["goodbye()", "bye"], ["goodbye()", "good bye"]] * 5,
]


def spec(data: dict[str, Any], epochs: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "seed": 1,
        "model": {"name": "one_to_many", "hidden_size": 24, "dropout": 0.0},
        "data": data,
        "trainer": {
            "max_epochs": epochs,
            "batch_tokens": 60,
            "precision": "fp32",
            "val_every": epochs,
            "lr": 1e-2,
        },
    }


def trained(lay_plain: Lay, plain: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the result of a training, and what a supervisor adds to use it."""
    folder = lay_plain("train", plain)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    best = next(folder.checkpoints.iterdir())
    return end.result, {"checkpoint": str(best), "trained": plain}


def metrics_of(folder: AttemptFolder) -> set[str]:
    return {e.name for e in EventReader(folder.events_file).read() if isinstance(e, MetricEvent)}


def written(folder: AttemptFolder) -> list[list[str]]:
    answers = json.loads((folder.files / "predictions.json").read_text())["lines"]
    return [[each["text"] for each in line] for line in answers]


def test_a_meaning_is_said_with_its_own_names(lay_plain: Lay, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "data" / f"{split}.json").write_text(json.dumps(ROWS))
    result, model = trained(lay_plain, spec({"name": "captions", "root": "."}, 20))
    assert result["val/slot_error"] == 0
    assert result["val/bleu"] > 90

    test = lay_plain("test", {"kind": "evaluate", "job": "job-1"}, **model)
    end = run(test, Commands())
    assert end.reason == Reason.SUCCEEDED
    assert {"test/slot_error", "test/bleu", "test/loss"} <= metrics_of(test)
    rows = Sentences.read(test.files / "sentences.jsonl").scores["slot_error"]
    assert rows.score() == end.result["test/slot_error"]
    low, high = end.result["intervals"]["test/slot_error"]
    assert low <= end.result["test/slot_error"] <= high
    hypotheses = (test.files / "hypotheses.txt").read_text().splitlines()
    assert hypotheses[:4] == [sentence for _, sentence in ROWS[:4]]
    assert (test.files / "sources.txt").read_text().splitlines() == [said for said, _ in ROWS]

    lines = ["inform(name='le zinc';food='the best')", "", "goodbye()"]
    asked = {"kind": "predict", "job": "job-1", "lines": lines}
    prediction = lay_plain("asked", asked, **model)
    assert run(prediction, Commands()).result == {"lines": 3}
    said, nothing, bye = written(prediction)
    assert said == ["le zinc has the best"]
    assert nothing == [""]
    assert bye[0] in {"bye", "good bye"}

    several = lay_plain("n", {**asked, "search": {"beam": 3, "n_best": 3}}, **model)
    assert run(several, Commands()).reason == Reason.SUCCEEDED
    assert [len(each) for each in written(several)] == [3, 1, 3]

    wrong = run(lay_plain("wrong", {**asked, "lines": ["goodbye()", "hello"]}, **model), Commands())
    assert wrong.reason == Reason.BAD_DATA
    assert wrong.message.startswith("line 2: it holds 'hello' where a meaning must stand")


def test_a_wide_vector_is_one_position_however_many_characters_spell_it(
    lay_plain: Lay, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 1024)).astype(np.float32)
    for split in ("train", "val"):
        np.save(tmp_path / "data" / f"{split}.npy", vectors)
        (tmp_path / "data" / f"{split}.txt").write_text("a dog\ntwo cats\n" * 4)
    plain = spec({"name": "captions", "root": ".", "inputs": "vectors"}, 1)
    _, model = trained(lay_plain, plain)
    lines = [json.dumps(vector.tolist()) for vector in vectors]
    assert min(map(len, lines)) > 10_000
    end = run(
        lay_plain("asked", {"kind": "predict", "job": "job-1", "lines": lines}, **model), Commands()
    )
    assert end.result == {"lines": 8}, end.message


def test_a_text_is_written_for_a_label(lay_plain: Lay, tmp_path: Path) -> None:
    for name, letters in (("low", "ab"), ("high", "xy")):
        words = [letter * length for letter in letters for length in range(1, 12)]
        (tmp_path / "data" / f"{name}.txt").write_text("".join(f"{word}\n" for word in words))
    data = {"name": "labelled_text", "root": ".", "layout": "classes", "tokens": "characters"}
    plain = spec({**data, "direction": "label_to_text"}, 12)
    result, model = trained(lay_plain, plain)
    assert {"val/loss", "val/perplexity", "val/accuracy"} <= result.keys()
    assert "val/bleu" not in result
    assert "val/exact_match" not in result

    asked = {"kind": "predict", "job": "job-1", "lines": ["low", "high", "low"]}
    drawn = {"sample": True, "n_best": 5, "seed": 3}
    prediction = lay_plain("asked", {**asked, "search": drawn}, **model)
    assert run(prediction, Commands()).result == {"lines": 3}
    low, high, _ = written(prediction)
    assert len(low) == len(high) == 5
    assert set("".join(low)) <= set("ab")
    assert set("".join(high)) <= set("xy")

    wrong = run(lay_plain("wrong", {**asked, "lines": ["high", "lou"]}, **model), Commands())
    assert wrong.reason == Reason.BAD_DATA
    assert wrong.message == "line 2: the model knows no label 'lou'; did you mean 'low'?"
