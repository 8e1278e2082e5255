"""What an evaluation carries, and comparing two of them, from folders alone."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from jobs.job import Reason
from jobs.spec import spec_from_dict
from tests.integration.conftest import TINY
from worker.events import EndEvent, EventReader, MetricEvent
from worker.folder import Attempt, AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.sentences import Sentences

Lay = Callable[..., AttemptFolder]
WIDE = {"beam": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> dict[str, Any]:
    """Return what a supervisor adds to an attempt that uses a trained job."""
    folder = AttemptFolder(tmp_path_factory.mktemp("trained") / "attempt")
    fixed = {"roots": (str(data_root),), "cache": str(data_root / "cache")}
    folder.lay(spec_from_dict(TINY), Attempt(job="job-1", attempt=1, **fixed))
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED
    assert len(end.result["data_digest"]) == 64
    return {"checkpoint": str(next(folder.checkpoints.iterdir())), "trained": TINY}


def evaluated(
    lay: Lay, trained: dict[str, Any], name: str = "evaluation", **spec: Any
) -> tuple[AttemptFolder, EndEvent]:
    folder = lay(name, {"kind": "evaluate", "job": "job-1", **spec}, **trained)
    return folder, run(folder, Commands())


def compared(lay: Lay, one: AttemptFolder, other: AttemptFolder, **spec: Any) -> Any:
    given = {"kind": "compare", "first": "e1", "second": "e2", **spec}
    folder = lay(f"comparison-{len(list(one.path.parent.iterdir()))}", given)
    for evaluation, place in zip((one, other), folder.evaluations, strict=True):
        place.write_bytes((evaluation.files / "sentences.jsonl").read_bytes())
    return folder, run(folder, Commands())


def lines(folder: AttemptFolder, name: str) -> list[str]:
    return (folder.files / f"{name}.txt").read_text().splitlines()


def test_an_evaluation_says_what_makes_it_comparable(lay: Lay, trained: dict[str, Any]) -> None:
    folder, end = evaluated(lay, trained, version="m@3", search=WIDE, resamples=50)
    assert end.reason == Reason.SUCCEEDED, end.traceback
    row = end.result
    assert (row["split"], row["rows"], row["metric"], row["version"]) == ("test", 12, "bleu", "m@3")
    assert row["decoding"]["beam"] == 4
    assert row["signatures"]["bleu"] == row["bleu_signature"]
    assert row["signatures"]["chrf"].startswith("nrefs:1|case:mixed")
    assert [len(row[name]) for name in ("split_digest", "checkpoint")] == [64, 64]
    assert row["data"]["root"] == "corpus"
    assert row["bootstrap"] == {"resamples": 50, "seed": 12345, "confidence": 0.95}
    for name in ("bleu", "chrf", "loss", "accuracy", "exact_match"):
        low, high = row["intervals"][f"test/{name}"]
        assert low <= high
        assert low <= row[f"test/{name}"] * 1.5 + 1e-6
    kept = Sentences.read(folder.files / "sentences.jsonl")
    assert {name: each.score() for name, each in kept.scores.items()} == {
        name: pytest.approx(row[f"test/{name}"], rel=1e-5) for name in kept.scores
    }
    assert [each.output for each in kept.texts] == lines(folder, "hypotheses")
    assert [each.source for each in kept.texts] == lines(folder, "sources")
    assert json.loads(json.dumps(row)) == row, "it travels as JSON"


def test_the_digest_is_of_what_was_scored_and_holds_an_evaluation_to_it(
    lay: Lay, trained: dict[str, Any], data_root: Path
) -> None:
    _, first = evaluated(lay, trained, "first", resamples=0)
    digest = first.result["split_digest"]
    assert first.result["intervals"] == {}
    _, again = evaluated(lay, trained, "again", expect_digest=digest[:12], resamples=0)
    assert again.result["split_digest"] == digest
    _, val = evaluated(lay, trained, "val", split="val", resamples=0)
    assert val.result["split_digest"] != digest
    _, other = evaluated(lay, trained, "other", expect_digest=digest, data={"test": "val"})
    assert other.reason == Reason.BAD_DATA
    late = digest[:60] + "".join("0" if each != "0" else "1" for each in digest[60:])
    _, nearly = evaluated(lay, trained, "nearly", expect_digest=late)
    assert f"its digest is {digest} and not {late};" in nearly.message
    assert "is not the one that was asked for: its digest is" in other.message
    assert not other.traceback


@pytest.mark.parametrize(
    ("method", "kind"), [("bootstrap", "bs"), ("approximate_randomisation", "ar")]
)
def test_a_comparison_is_sacrebleus(
    lay: Lay, trained: dict[str, Any], method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    one, _ = evaluated(lay, trained, "one", resamples=0)
    other, _ = evaluated(lay, trained, "other", search={**WIDE, "min_length": 6}, resamples=0)
    folder, end = compared(
        lay, one, other, method=method, resamples=200, across=["decoding"], metric="chrf"
    )
    assert end.reason == Reason.SUCCEEDED, end.traceback
    streams = [lines(one, "references")]
    systems = [(each.path.name, lines(each, "hypotheses")) for each in (one, other)]
    theirs = PairedTest(systems, {"chrF": CHRF()}, streams, kind, n_samples=200)()[1]
    (column,) = (each for each in theirs if each != "System")
    found = end.result
    assert found["first"] == pytest.approx(theirs[column][0].score)
    assert found["second"] == pytest.approx(theirs[column][1].score)
    assert found["p"] == theirs[column][1].p_value
    assert found["metric"] == "chrf"
    assert ("e2 is better" in found["verdict"]) == (found["better"] == "second")
    examples = json.loads((folder.files / "examples.json").read_text())
    assert 0 < len(examples) <= 10
    assert all(each["first_score"] != each["second_score"] for each in examples)
    row = examples[0]["row"]
    assert examples[0]["second"] == lines(other, "hypotheses")[row]
    assert examples[0]["source"] == lines(one, "sources")[row]


def test_perplexity_has_an_interval_and_is_compared(lay: Lay, trained: dict[str, Any]) -> None:
    one, end = evaluated(lay, trained, "one", resamples=200)
    low, high = end.result["intervals"]["test/perplexity"]
    losses = end.result["intervals"]["test/loss"]
    assert (low, high) == pytest.approx(tuple(map(math.exp, losses)))
    assert low < end.result["test/perplexity"] < high
    rows = Sentences.read(one.files / "sentences.jsonl").scores["perplexity"]
    assert rows.score() == pytest.approx(end.result["test/perplexity"])
    _, end = compared(lay, one, one, metric="perplexity")
    assert (end.result["difference"], end.result["better"]) == (0, "")


def test_rows_of_like_length_are_compared_alone(lay: Lay, trained: dict[str, Any]) -> None:
    one, end = evaluated(lay, trained, "one", resamples=0)
    other, _ = evaluated(lay, trained, "other", search={**WIDE, "min_length": 6}, resamples=0)
    assert end.result["row_properties"] == ["length"]
    kept = Sentences.read(one.files / "sentences.jsonl")
    lengths = [len(each.split()) for each in lines(one, "sources")]
    assert kept.properties == {"length": lengths}
    whole = {"across": ["decoding"], "metric": "chrf", "resamples": 50}
    _, all_rows = compared(lay, one, other, **whole)
    _, end = compared(lay, one, other, slice="length=1", **whole)
    assert end.result["rows"] == lengths.count(1) == 12
    figures = ("first", "second", "difference", "p")
    assert [end.result[name] for name in figures] == [all_rows.result[name] for name in figures]
    assert " on length=1 (12 rows): " in end.result["verdict"]
    _, end = compared(lay, one, other, slice="length=2..9", **whole)
    assert end.reason == Reason.USER_ERROR
    assert "length=2..9 has no row: the lengths of the set go from 1 to 1" in end.message


@pytest.mark.parametrize(
    ("sets", "reason", "said"),
    [
        (["test", "data.test=newest"], Reason.BAD_DATA, "slice data.test=newest cannot be evaluat"),
        (["tst"], Reason.BAD_DATA, "the test set tst cannot be evaluated: this data has no split"),
        (["test", "data.root=/etc"], Reason.BAD_DATA, "lies outside the allowed data roots"),
        (["test", "length>=2"], Reason.USER_ERROR, "length>=2 has no row: the lengths of the set"),
        (["test", "label=a"], Reason.USER_ERROR, "the rows have no label (they have: length)"),
        (["test", "data.tset=a"], Reason.USER_ERROR, "did you mean 'test'?"),
    ],
)
def test_what_will_be_evaluated_must_be_there_before_it_is_trained(
    lay: Lay, sets: list[str], reason: Reason, said: str
) -> None:
    folder = lay("early", {"evaluated_on": sets})
    end = run(folder, Commands())
    assert end.reason == reason, end.traceback
    assert said in end.message
    assert "\n" not in end.message
    events = EventReader(folder.events_file).read()
    assert not [each for each in events if isinstance(each, MetricEvent)]


def test_what_will_be_evaluated_is_there(lay: Lay, data_root: Path) -> None:
    for side in ("fw", "bw"):
        newest = data_root / "corpus" / f"newest.{side}"
        newest.write_text((data_root / "corpus" / f"val.{side}").read_text())
    folder = lay("good", {"evaluated_on": ["test", "val", "data.test=newest", "length=short"]})
    assert run(folder, Commands()).reason == Reason.SUCCEEDED


def test_only_like_is_compared_with_like(lay: Lay, trained: dict[str, Any]) -> None:
    one, _ = evaluated(lay, trained, "one", resamples=0)
    wide, _ = evaluated(lay, trained, "wide", search=WIDE, resamples=0)
    val, _ = evaluated(lay, trained, "val", split="val", resamples=0)
    for other, message in (
        (wide, "their ways of decoding differ (decoding beam=1 and beam=4); evaluate both alike"),
        (val, "their test sets differ (split_digest "),
    ):
        _, end = compared(lay, one, other)
        assert end.reason == Reason.USER_ERROR
        assert message in end.message
    _, end = compared(lay, one, one, metric="rouge1")
    assert "it has no metric 'rouge1'" in end.message
    _, end = compared(lay, one, one, metric="loss", method="mcnemar")
    assert "mcnemar compares rows that are right or wrong" in end.message
    _, end = compared(lay, one, one, metric="exact_match", method="mcnemar")
    assert (end.result["p"], end.result["significant"], end.result["better"]) == (1.0, False, "")
    assert end.result["verdict"].startswith("no difference at all: 12 rows have the same exact")
