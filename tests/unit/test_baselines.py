"""What needs no training, on rows whose scores can be told by hand."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.baselines import first_sentence


def test_the_first_sentence_is_scored_as_a_summary(tmp_path: Path) -> None:
    rows = [
        {"source": ["red fish .", "blue fish ."], "target": ["red fish ."]},
        {"source": ["one two .", "three four ."], "target": ["five six .", "three four ."]},
    ]
    (tmp_path / "scitldr").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "scitldr" / "test.jsonl").write_text(text)
    (scores,) = first_sentence(tmp_path).values()
    assert scores["test/rouge1"] == pytest.approx(0.5)
    assert scores["test/exact_match"] == 0.5
