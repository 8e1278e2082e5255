"""Using a trained model from a folder alone: scores, predictions, pictures of attention."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Reason
from worker.events import EventReader, MetricEvent, ProgressEvent
from worker.folder import AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands

Lay = Callable[..., AttemptFolder]


@pytest.fixture
def trained(lay: Lay) -> dict[str, Any]:
    """Return what a supervisor adds to an attempt that uses a trained job."""
    folder = lay("trained")
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    spec = json.loads(folder.spec_file.read_text())
    return {"checkpoint": str(next(folder.checkpoints.iterdir())), "trained": spec}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_an_evaluation_scores_the_test_split_as_sacrebleu_does(
    lay: Lay, trained: dict[str, Any], data_root: Path
) -> None:
    folder = lay("evaluation", {"kind": "evaluate", "job": "job-1"}, **trained)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    reported = {
        e.name for e in EventReader(folder.events_file).read() if isinstance(e, MetricEvent)
    }
    assert reported == {
        f"test/{name}" for name in ("loss", "perplexity", "accuracy", "bleu", "chrf", "exact_match")
    }
    assert reported <= end.result.keys()
    references = data_root / "corpus" / "test.bw"
    hypotheses = folder.files / "hypotheses.txt"
    command = ["-m", "sacrebleu", str(references), "-i", str(hypotheses), "-m", "chrf", "-b"]
    done = subprocess.run(
        [sys.executable, *command, "-w", "6"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(end.result["test/chrf"], abs=1e-6)


@pytest.mark.parametrize("split", ["test", "val"])
def test_an_evaluation_gives_a_sign_of_life_with_each_batch(
    lay: Lay, trained: dict[str, Any], split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.runner.reporter._PROGRESS_EVERY", 0.0)
    folder = lay("evaluation", {"kind": "evaluate", "job": "job-1", "split": split}, **trained)
    assert run(folder, Commands()).reason == Reason.SUCCEEDED
    events = EventReader(folder.events_file).read()
    told = [(each.step, each.steps) for each in events if isinstance(each, ProgressEvent)]
    assert told
    assert told == [(number, len(told)) for number in range(1, len(told) + 1)]


def test_an_evaluation_can_take_another_split_and_other_data(
    lay: Lay, trained: dict[str, Any], data_root: Path
) -> None:
    test = run(lay("test", {"kind": "evaluate", "job": "job-1"}, **trained), Commands())
    spec = {"kind": "evaluate", "job": "job-1", "split": "val", "data": {"val": "test"}}
    val = run(lay("val", spec, **trained), Commands())
    assert val.result["val/loss"] == test.result["test/loss"]
    assert "test/loss" not in val.result


def test_an_evaluation_says_what_the_validation_in_training_said(lay: Lay) -> None:
    spec = {"trainer": {"max_steps": 3, "precision": "bf16"}}
    training = lay("training", spec)
    trained = run(training, Commands())
    attempt = {"checkpoint": str(next(training.checkpoints.iterdir()))}
    folder = lay("again", {"kind": "evaluate", "job": "job-1", "split": "val"}, **attempt)
    again = run(folder, Commands())
    metrics = {name: value for name, value in trained.result.items() if name.startswith("val/")}
    assert metrics
    assert {name: again.result[name] for name in metrics} == metrics
    points = [
        {
            (e.name, e.value, e.step, e.epoch)
            for e in EventReader(each.events_file).read()
            if isinstance(e, MetricEvent) and e.name in metrics
        }
        for each in (training, folder)
    ]
    assert points[0] == points[1]
    assert (folder.files / "hypotheses.txt").read_text().count("\n") == 12


def test_the_training_split_can_be_evaluated_too(lay: Lay, trained: dict[str, Any]) -> None:
    end = run(
        lay("e", {"kind": "evaluate", "job": "job-1", "split": "train"}, **trained), Commands()
    )
    assert end.reason == Reason.SUCCEEDED, end.traceback
    assert {"train/bleu", "train/loss"} <= end.result.keys()


def test_an_evaluation_needs_only_the_split_it_scores(
    lay: Lay, trained: dict[str, Any], data_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere" / "corpus"
    folder.mkdir(parents=True)
    for side in ("fw", "bw"):
        shutil.copy(data_root / "corpus" / f"test.{side}", folder)
    attempt = {**trained, "roots": (str(folder.parent),)}
    end = run(lay("evaluation", {"kind": "evaluate", "job": "job-1"}, **attempt), Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"split": "dev"}, Reason.BAD_DATA, "dev"),
        ({"data": {"rot": "x"}}, Reason.USER_ERROR, "did you mean 'root'?"),
    ],
)
def test_an_evaluation_of_what_is_not_there_says_so(
    lay: Lay, trained: dict[str, Any], spec: dict[str, Any], reason: Reason, message: str
) -> None:
    end = run(lay("e", {"kind": "evaluate", "job": "job-1", **spec}, **trained), Commands())
    assert (end.reason, end.traceback) == (reason, "")
    assert message in end.message


def test_predictions_keep_the_order_of_the_lines_and_carry_the_n_best(
    lay: Lay, trained: dict[str, Any]
) -> None:
    lines = ["abcde", "a", "", "edcbaedcba", "bb", "abcde"]
    spec = {"kind": "predict", "job": "job-1", "search": {"beam": 4, "n_best": 3}}
    together = lay("together", {**spec, "lines": lines}, **trained)
    assert run(together, Commands()).result == {"lines": len(lines)}
    found = read_json(together.files / "predictions.json")["lines"]
    assert [len(each) for each in found] == [3, 3, 1, 3, 3, 3]  # nothing is said of nothing
    assert found[2] == [{"text": "", "score": 0.0}]
    for hypotheses in found:
        scores = [each["score"] for each in hypotheses]
        assert scores == sorted(scores, reverse=True)
    assert found[0] == found[5]
    for row, line in enumerate(lines[:4]):
        alone = lay(f"alone-{row}", {**spec, "lines": [line]}, **trained)
        run(alone, Commands())
        (hypotheses,) = read_json(alone.files / "predictions.json")["lines"]
        assert [each["text"] for each in hypotheses] == [each["text"] for each in found[row]]
        assert [each["score"] for each in hypotheses] == pytest.approx(
            [each["score"] for each in found[row]], abs=1e-5
        )


def test_a_line_without_an_end_is_refused_with_its_number(
    lay: Lay, trained: dict[str, Any]
) -> None:
    spec = {"kind": "predict", "job": "job-1", "first": 64, "lines": ["abc", "a" * 300_000]}
    end = run(lay("endless", spec, **trained), Commands())
    assert end.reason is Reason.BAD_DATA
    assert end.message.startswith("line 66 has 300,001 symbols, more than 10,000: put a line end")


def test_a_long_line_of_which_little_is_read_is_no_endless_one(lay: Lay) -> None:
    data = {"max_source_length": 5}
    training = lay("cut", {"data": data, "trainer": {"max_epochs": 1}})
    assert run(training, Commands()).reason == Reason.SUCCEEDED
    checkpoint = str(next(training.checkpoints.iterdir()))
    trained = {"checkpoint": checkpoint, "trained": read_json(training.spec_file)}
    lines = ["abcde" * 3_000, "abcdeabcde"]
    folder = lay("long", {"kind": "predict", "job": "job-1", "lines": lines}, **trained)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.message
    long, short = read_json(folder.files / "predictions.json")["lines"]
    assert [each["text"] for each in long] == [each["text"] for each in short]


@pytest.mark.parametrize(("split", "side"), [("val", "fw"), ("val", "bw"), ("test", "fw")])
def test_text_without_an_end_is_neither_validated_nor_evaluated(
    lay: Lay, trained: dict[str, Any], data_root: Path, tmp_path: Path, split: str, side: str
) -> None:
    corpus = shutil.copytree(data_root / "corpus", tmp_path / "endless" / "corpus")
    lines = (corpus / f"{split}.{side}").read_text().splitlines()
    lines[6] = "a" * 10_000
    (corpus / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    ends = [run(lay("again", roots=(str(corpus.parent),)), Commands())] if split == "val" else []
    spec = {"kind": "evaluate", "job": "job-1", "split": split}
    ends += [run(lay("scored", spec, **trained, roots=(str(corpus.parent),)), Commands())]
    for end in ends:
        assert end.reason is Reason.BAD_DATA, end.traceback
        files = " and ".join(str(corpus / f"{split}.{each}") for each in ("fw", "bw"))
        assert end.message.startswith(f"{files}, line 7 has more than 10,000 symbols: ")


def test_samples_of_a_line_do_not_depend_on_the_lines_it_came_with(
    lay: Lay, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["abcde", "a", "edcbaedcba", "abcde", "bb"]
    search = {"sample": True, "n_best": 4, "temperature": 1.5, "seed": 3, "max_length": 6}
    spec = {"kind": "predict", "job": "job-1", "search": search, "lines": lines}
    found = []
    for name, at_once in (("together", 50_000), ("apart", 1)):
        monkeypatch.setattr("worker.runner.predict._AT_ONCE", at_once)
        folder = lay(name, spec, **trained)
        end = run(folder, Commands())
        assert end.reason == Reason.SUCCEEDED, end.traceback
        answers = read_json(folder.files / "predictions.json")["lines"]
        found.append([[each["text"] for each in drawn] for drawn in answers])
    assert found[0] == found[1]
    assert [len(drawn) for drawn in found[0]] == [4] * 5
    assert found[0][0] != found[0][3], "equal lines are drawn for independently"
    assert max(len(text) for drawn in found[0] for text in drawn) <= 6


def test_attention_is_kept_for_each_line_with_its_symbols(
    lay: Lay, trained: dict[str, Any]
) -> None:
    lines = ["abc", "$\\frac"]
    spec = {"kind": "predict", "job": "job-1", "lines": lines, "attention": True}
    folder = lay("prediction", spec, **trained)
    end = run(folder, Commands())
    assert end.reason == Reason.SUCCEEDED, end.traceback
    for row, line in enumerate(lines):
        kept = read_json(folder.files / f"attention-{row:04d}.json")
        assert len(kept["source"]) == len(line) + 1
        assert len(kept["weights"]) == len(kept["target"])
        for weights in kept["weights"]:
            assert len(weights) == len(kept["source"])
            assert sum(weights) == pytest.approx(1, abs=1e-3)
        picture = (folder.files / f"attention-{row:04d}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    assert "".join(read_json(folder.files / "attention-0000.json")["source"][:3]) == "abc"


def test_a_job_without_a_checkpoint_cannot_be_used(lay: Lay) -> None:
    end = run(lay("p", {"kind": "predict", "job": "job-1", "lines": ["a"]}), Commands())
    assert end.reason == Reason.USER_ERROR
    assert "no checkpoint" in end.message


def test_a_file_that_is_no_checkpoint_is_refused(
    lay: Lay, trained: dict[str, Any], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(Path(trained["checkpoint"]).read_bytes()[:1000])
    spec = {"kind": "predict", "job": "job-1", "lines": ["a"]}
    end = run(lay("p", spec, **{**trained, "checkpoint": str(torn)}), Commands())
    assert end.reason == Reason.INFRASTRUCTURE
    assert "torn.ckpt" in end.message
