"""Comparing and ranking, against a real Redis; the worker is played."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    Client,
    CompareSpec,
    Component,
    JobState,
    NotAllowed,
    Reason,
    SearchOptions,
    SpecError,
    TrainSpec,
)
from jobs.verbs.comparing import _print_board, _print_comparison

Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]
SPEC = TrainSpec(model=Component("rnn"), data=Component("text", {"root": "corpus"}))


class Desk:
    """A person, and who plays the worker."""

    def __init__(self, person: Client, hand: Any, meanwhile: Meanwhile) -> None:
        self.person, self.hand, self.meanwhile = person, hand, meanwhile
        self.digest = "ab" * 32
        #: What evaluations say that slices can go by; None of an earlier version.
        self.properties: list[str] | None = ["length"]

    def train(self) -> str:
        job = self.person.submit(SPEC)
        self.hand.train()
        return job.id

    def score(self, bleu: float) -> None:
        """Play the worker of an evaluation."""
        lease = self.hand.take()
        spec = self.hand.store.get(lease.job).spec
        assert spec["kind"] == "evaluate"
        row = {
            "split": "test",
            "test/bleu": bleu,
            "rows": 10,
            "metric": "bleu",
            "row_metrics": ["bleu"],
            "split_digest": self.digest,
            "decoding": spec.get("search", {}),
            "signatures": {"bleu": "tok:13a"},
            "intervals": {"test/bleu": [bleu - 1, bleu + 1]},
            "checkpoint": spec["job"],
            "data": {"name": "text", "root": "corpus"},
            "job": spec["job"],
            "version": spec.get("version", ""),
        }
        if self.properties is not None:
            row["row_properties"] = self.properties
        self.hand.store.finish(lease, Reason.SUCCEEDED, result=row)

    def judge(self, difference: float) -> None:
        """Play the worker of a comparison."""
        lease = self.hand.take()
        spec = self.hand.store.get(lease.job).spec
        assert (spec["kind"], spec["resources"]["gpus"]) == ("compare", 0)
        example = {"row": 3, "source": "a", "references": ["b"], "first": "c", "second": "d"}
        examples = json.dumps([{**example, "first_score": 1.0, "second_score": 2.0}]).encode()
        self.hand.store.put_file(lease, "examples.json", examples)
        found = {"metric": "bleu", "first": 30.0, "second": 31.0, "difference": difference}
        found |= {"low": 0.2, "high": 1.8, "p": 0.01, "significant": True, "better": "second"}
        found["verdict"] = f"{spec['second']} is better"
        self.hand.store.finish(lease, Reason.SUCCEEDED, result=found)


@pytest.fixture
def desk(person: Client, hand: Any, meanwhile: Meanwhile) -> Desk:
    return Desk(person, hand, meanwhile)


def test_two_models_are_evaluated_alike_and_compared(desk: Desk, tmp_path: Path) -> None:
    person = desk.person
    person.home = tmp_path  # where client and worker share a machine, paths are made absolute
    (tmp_path / "address").write_text(person.url)
    for _ in range(2):
        person.models.register("m", desk.train())
    person.models["m"].promote(1)

    def work() -> None:
        desk.score(30.0)
        desk.score(31.0)
        desk.judge(1.0)

    with desk.meanwhile(work):
        found = person.compare("m", "m@challenger", {"root": "new"}, search=SearchOptions(beam=3))
    assert (found.difference, found.better, found.significant) == (1.0, "second", True)
    assert found.examples[0].second == "d"
    first, second = (person.get(each).record for each in found.evaluations)
    assert [each.spec["version"] for each in (first, second)] == ["m@1", "m@2"]
    assert first.spec["search"]["beam"] == second.spec["search"]["beam"] == 3
    assert first.spec["data"]["root"].endswith("new")

    with desk.meanwhile(lambda: desk.judge(1.0)):  # what was evaluated so is not evaluated again
        again = person.compare("m", "m@2", {"root": "new"}, search=SearchOptions(beam=3))
    assert again.evaluations == found.evaluations
    with desk.meanwhile(lambda: desk.judge(1.0)):  # nor where an evaluation says on what
        third = person.compare(found.evaluations[0], "m@2")
    assert third.evaluations == found.evaluations
    with pytest.raises(NotAllowed, match=f"follows from evaluation {first.id}: leave out"):
        person.compare(first.id, "m@2", split="val")


def test_a_test_set_that_has_changed_is_scored_anew(desk: Desk) -> None:
    one, other = desk.train(), desk.train()
    with desk.meanwhile(lambda: desk.score(30.0)):
        old = desk.person.evaluate(one)
    desk.digest = "cd" * 32

    def work() -> None:
        desk.score(31.0)  # that of the other
        desk.score(30.5)  # and once more of the one
        desk.judge(0.5)

    with desk.meanwhile(work):
        found = desk.person.compare(one, other)
    assert old.id not in found.evaluations
    assert len({desk.person.get(each).record.spec["job"] for each in found.evaluations}) == 2


def test_a_slice_is_compared_of_evaluations_that_kept_what_it_goes_by(desk: Desk) -> None:
    person, one, other = desk.person, desk.train(), desk.train()
    desk.properties = None
    with desk.meanwhile(lambda: desk.score(30.0)):
        old = person.evaluate(one)
    with pytest.raises(SpecError, match="'lenght<9' says no rows; did you mean 'length'"):
        person.compare(one, other, slice="lenght<9")
    desk.properties = ["length"]

    def work() -> None:
        desk.score(30.0)
        desk.score(31.0)
        desk.judge(1.0)

    with desk.meanwhile(work):
        found = person.compare(one, other, slice="length<9")
    assert old.id not in found.evaluations
    assert person.get(found.id).record.spec["slice"] == "length<9"
    with pytest.raises(NotAllowed, match=r"the rows have no label \(they have: length\)"):
        person.compare(*found.evaluations, slice="label=a")
    with pytest.raises(NotAllowed, match=f"evaluation {old.id} is of an earlier version"):
        person.compare(old.id, found.evaluations[1], slice="length<9")


def test_what_is_not_comparable_is_refused_before_it_is_queued(desk: Desk) -> None:
    person, job = desk.person, desk.train()
    with desk.meanwhile(lambda: desk.score(30.0)):
        narrow = person.evaluate(job)
    with desk.meanwhile(lambda: desk.score(31.0)):
        wide = person.evaluate(job, search=SearchOptions(beam=5))
    before = len(person.list())
    with pytest.raises(NotAllowed, match=r"decoding differ \(decoding beam=None|beam=1 and beam=5"):
        person.compare(narrow.id, wide.id)
    spec = CompareSpec(first=narrow.id[:11], second=wide.id)
    for refused, message in (
        (spec, "ways of decoding differ"),
        (replace(spec, second=job), f"job {job} is no evaluation"),
        (replace(spec, metric="ter", second=narrow.id), "it has no metric 'ter'"),
    ):
        with pytest.raises(NotAllowed, match=message):
            person.submit(refused)
    waiting = person.evaluate(job, wait=False)
    with pytest.raises(NotAllowed, match="has not succeeded: it is queued; wait for it with `unr"):
        person.submit(replace(spec, second=waiting.id))
    assert len(person.list()) == before + 1
    waiting.cancel()
    with desk.meanwhile(lambda: desk.judge(1.0)):
        assert person.compare(narrow.id, wide.id, across=("decoding",)).significant


def test_a_leaderboard_keeps_unlike_rows_apart(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    person = desk.person
    for bleu, beam in ((30.0, 1), (31.0, 1), (33.0, 5)):
        job = desk.train()
        with desk.meanwhile(lambda bleu=bleu: desk.score(bleu)):
            person.evaluate(job, search=SearchOptions(beam=beam))
    version = person.models.register("m", job)
    found = person.leaderboard("corpus")
    assert found.groups[0].standings[0].model == version.label
    assert [[each.value for each in group.standings] for group in found.groups] == [
        [33.0],
        [31.0, 30.0],
    ]
    _print_board(found)
    said = capsys.readouterr().out
    assert "not ranked with those above: another way of decoding" in said
    assert "30.0000 to 32.0000" in said
    with pytest.raises(NotAllowed, match=r"no evaluation on 'corpus' ranks by 'blue': of \w+, it"):
        person.leaderboard("corpus", "blue")
    assert [each.state for each in person.list()] == [JobState.SUCCEEDED] * 6


def test_a_comparison_is_printed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    job = desk.train()
    with desk.meanwhile(lambda: desk.score(30.0)):
        one = desk.person.evaluate(job)
    with desk.meanwhile(lambda: desk.judge(1.0)):
        _print_comparison(desk.person.compare(one.id, job))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{one.id} is better"
    assert "row 4  bleu 1 -> 2" in said
