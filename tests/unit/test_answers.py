"""Answers on their way from a model to a person: text, or named values."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules._base import Answer
from datamodules.dates import Dates
from jobs.errors import SpecError
from jobs.handle import JobHandle
from jobs.spec import PredictSpec, SearchOptions
from lightning_modules._base import Topology
from lightning_modules._decoding import Hypothesis
from lightning_modules._errors import ModelError
from worker.runner.predict import ask, predictions


def on_the_wire(answers: list[list[Answer]]) -> list[list[Any]]:
    """Return what a client makes of what a runner wrote."""
    content = json.dumps(predictions(answers)).encode()
    store = SimpleNamespace(read_file=lambda *_: content)
    return JobHandle(SimpleNamespace(store=store), "job").predictions()


def test_an_answer_reaches_the_client_as_it_was() -> None:
    answers = [
        [Answer("ein Hund", -0.5), Answer("Hund", -1.0)],
        [Answer("Greek", 0.9, {"label": "Greek"})],
    ]
    found = on_the_wire(answers)
    assert [[(a.text, a.score, a.values) for a in each] for each in found] == [
        [(a.text, a.score, a.values) for a in each] for each in answers
    ]


def test_named_values_stand_in_place_of_the_text() -> None:
    ((text, named),) = on_the_wire([[Answer("x", -0.5), Answer("y", 0.9, {"label": "y"})]])
    assert text.to_dict() == {"text": "x", "score": -0.5}
    assert named.to_dict() == {"label": "y", "score": 0.9}


def test_text_answers_are_the_best_hypotheses() -> None:
    data = Dates(examples=20, held_out=5, locales=["de"])
    data.load_state_dict(
        {
            "format": 1,
            "form": {"lowercase": False, "normalise": "none"},
            "vocabularies": {"source": {"tokens": "characters", "entries": ["a"]}, "target": None},
        }
    )
    found = [Hypothesis((4, 4, 2), -0.1), Hypothesis((4, 2), -0.2), Hypothesis((2,), -0.3)]
    assert data.answers(found, "line", 2) == [Answer("aa", -0.1), Answer("a", -0.2)]
    assert data.answers(found, " ", 2) == [Answer("", 0.0)]  # nothing is said of nothing


def wish(attention: bool = False, **search: int) -> PredictSpec:
    return PredictSpec(job="j", lines=("a",), search=SearchOptions(**search), attention=attention)


class Mute(Topology):
    """A topology that neither writes text nor answers."""


def test_what_does_not_search_gives_its_most_likely_answers_but_has_no_beam() -> None:
    ask(Mute(), wish())
    ask(Mute(), wish(beam=3, n_best=3))
    with pytest.raises(SpecError, match="Mute writes no text: leave out"):
        ask(Mute(), wish(beam=3))
    with pytest.raises(SpecError, match="no attention to show"):
        ask(Mute(), wish(attention=True))


def test_what_answers_no_lines_says_so() -> None:
    with pytest.raises(ModelError, match="Mute answers no lines"):
        Mute().predict(None)  # type: ignore[arg-type]
