"""The demo by its real way, on a model that is too small to learn: it runs whole and says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import demo
from jobs.spec import Component, TrainerOptions

SMALL = replace(
    demo.SPEC,
    model=Component("attention_encoder_decoder", {"hidden_size": 8}),
    data=Component("dates", {"examples": 200, "held_out": 12}),
    trainer=TrainerOptions(max_epochs=1),
)


def test_the_demo_runs_whole_and_admits_what_it_did_not_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "attention.png"
    assert demo.run(picture, home=tmp_path / "home", as_json=True, spec=SMALL) == 1
    said = capsys.readouterr()
    *lines, last = said.out.splitlines()
    summary = json.loads(last)
    assert set(summary) == {
        *("val/bleu", "val/exact_match", "unseen/exact_match", "attention", "seconds")
    }
    assert 0 <= summary["val/exact_match"] < demo.EXACT_MATCH
    assert summary["attention"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sum("  ->  " in line for line in lines) == 10
    assert any("val/exact_match" in line and "step" in line for line in lines), "shown live"
    assert said.err == "the model did not reach what it must\n"


def test_an_example_says_what_the_truth_is() -> None:
    assert str(demo.Example("1 May 2020", "2020-05-01", "2020-05-01")).endswith("2020-05-01  ✓")
    assert "✗ it is 2020-05-01" in str(demo.Example("1 May 2020", "2020-01-05", "2020-05-01"))
