"""Answers and transcriptions from a folder alone: trained, scored by their own measures, used."""

import json
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

ROOMS = ["kitchen", "garden", "office"]
NAMES = ["Mary", "John"]
QA = {"name": "question_answer", "root": "."}
WORDS = {
    "name": "parallel_text",
    "root": ".",
    "source": "word",
    "target": "sounds",
    "tokens": "words",
    "same_source": "references",
    "metrics": ["wer"],
}


def spec(data: dict[str, Any], epochs: int) -> dict[str, Any]:
    return {
        "kind": "train",
        "seed": 1,
        "model": {
            "name": "attention_encoder_decoder",
            "hidden_size": 24,
            "embedding_dropout": 0.0,
            "dropout": 0.0,
        },
        "data": data,
        "trainer": {
            "max_epochs": epochs,
            "batch_tokens": 200,
            "precision": "fp32",
            "val_every": 1,
            "lr": 1e-2,
        },
    }


def story(number: int) -> str:
    """Return a story in which one of two rooms is asked for."""
    rooms = [ROOMS[number % 3], ROOMS[number // 3 % 3]]
    told = [
        f"{line} {name} is in the {room}."
        for line, name, room in zip((1, 2), NAMES, rooms, strict=True)
    ]
    who = number // 9 % 2
    return "\n".join([*told, f"3 Where is {NAMES[who]}?\t{rooms[who]}\t{who + 1}\n"])


def trained(lay_plain: Lay, plain: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the result of a training, and what a supervisor adds to use it."""
    folder = lay_plain("train", plain)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    named = {e.name for e in EventReader(folder.events_file).read() if isinstance(e, MetricEvent)}
    checkpoint = str(next(folder.checkpoints.iterdir()))
    return {**end.result, "named": named}, {"checkpoint": checkpoint, "trained": plain}


def evaluated(lay_plain: Lay, model: dict[str, Any]) -> tuple[dict[str, Any], AttemptFolder]:
    folder = lay_plain("test", {"kind": "evaluate", "job": "job-1"}, **model)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    return end.result, folder


def test_a_model_answers_about_stories_it_has_not_read(lay_plain: Lay, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "train.txt").write_text("".join(story(number) for number in range(180)))
    (data / "test.txt").write_text("".join(story(number) for number in range(18)))
    result, model = trained(lay_plain, spec(QA, 12))
    scores = {"val/answer_f1", "val/answer_exact", "val/exact_match", "val/accuracy", "val/loss"}
    assert scores <= result["named"]
    assert not {"val/bleu", "val/chrf"} & result["named"]
    assert result["val/answer_f1"] > 0.9

    found, folder = evaluated(lay_plain, model)
    assert found["test/answer_exact"] == found["test/exact_match"] > 0.9
    sources = (folder.files / "sources.txt").read_text().splitlines()
    assert sources[0] == "Mary is in the kitchen. John is in the kitchen.\tWhere is Mary?"

    lines = [
        json.dumps({"context": "Mary is in the garden. John is in the office.", "question": asked})
        for asked in ("Where is Mary?", "Where is John?")
    ]
    lines.append("Mary is in the office. John is in the garden.\tWhere is John?")
    asked = {"kind": "predict", "job": "job-1", "lines": lines, "attention": True}
    folder = lay_plain("asked", asked, **model)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    answers = json.loads((folder.files / "predictions.json").read_text())["lines"]
    assert [best["text"] for best, *_ in answers] == ["garden", "office", "garden"]


def test_sounds_are_scored_against_the_best_way_to_say_a_word(
    lay_plain: Lay, tmp_path: Path
) -> None:
    for split, count in (("train", 60), ("val", 12), ("test", 12)):
        words = [("a b c d"[: 1 + 2 * (row % 4)], way) for row in range(count) for way in "xy"]
        lines = [f"{word}\t{word.upper()} {way}" for word, way in words]
        (tmp_path / "data" / f"{split}.tsv").write_text("\n".join(["word\tsounds", *lines]))
    result, model = trained(lay_plain, spec(WORDS, 2))
    assert {"val/wer", "val/exact_match"} <= result["named"]
    assert "val/bleu" not in result["named"]
    found, folder = evaluated(lay_plain, model)
    assert set(found) >= {"test/wer", "test/exact_match"}
    assert len((folder.files / "hypotheses.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize("metrics", [["ter", "chrf"], []])
def test_an_evaluation_may_ask_for_other_scores(
    metrics: list[str], lay_plain: Lay, tmp_path: Path
) -> None:
    for split in ("train", "val", "test"):
        for side in ("word", "sounds"):
            (tmp_path / "data" / f"{split}.{side}").write_text("a b\n" * 20)
    _, model = trained(lay_plain, spec(WORDS, 1))
    asked = {"kind": "evaluate", "job": "job-1", "data": {"metrics": metrics}}
    end = run(lay_plain("test", asked, **model), Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    text = {f"test/{name}" for name in metrics}
    always = {"test/loss", "test/perplexity", "test/accuracy"}
    assert {name for name in end.result if "/" in name} == always | text | (
        {"test/exact_match"} if metrics else set()
    )
