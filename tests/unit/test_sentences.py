"""The rows that an evaluation keeps come back as they were."""

from pathlib import Path

import numpy as np

from lightning_modules._row_scores import RowScores
from worker.runner.sentences import Sentences, Text


def test_scores_that_are_no_numbers_come_back_too(tmp_path: Path) -> None:
    values = np.array([[1.5, 2.0], [np.nan, 1.0], [np.inf, 3.0]])
    texts = [Text("in", ["said"], "out")] * len(values)
    kept = Sentences({"metric": "loss"}, {"loss": RowScores("ratio", values)}, texts)
    kept.write(tmp_path / "sentences.jsonl")
    again = Sentences.read(tmp_path / "sentences.jsonl")
    np.testing.assert_array_equal(again.scores["loss"].values, values)
    assert again.texts == texts
