"""Text is scored as sacrebleu scores it, losses are averaged over symbols."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datamodules._base import TextData, TextScoring
from lightning_modules._decoding import Hypothesis
from lightning_modules._scoring import TokenAverages, one_line, score_outputs, score_text

HYPOTHESES = ["The cat sat on the mat .", "two dogs play in the snow .", "A man", "exactly so"]
REFERENCES = [
    ["the cat sat on a mat."],
    ["Two dogs play in snow.", "two dogs are playing in the snow ."],
    ["a man rides"],
    ["Exactly so", "exactly so !", "exactly so"],
]


@pytest.mark.parametrize(
    ("tokenize", "lowercase"), [("13a", True), ("13a", False), ("char", False)]
)
def test_bleu_and_chrf_are_sacrebleus(tokenize: str, lowercase: bool) -> None:
    scored = score_text(HYPOTHESES, REFERENCES, TextScoring(tokenize, lowercase))
    streams = [[r[n] if n < len(r) else None for r in REFERENCES] for n in range(3)]
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, streams, tokenize=tokenize, lowercase=lowercase)
    assert scored.metrics["bleu"] == pytest.approx(bleu.score)
    plain = [[text.lower() if lowercase and text else text for text in s] for s in streams]
    chrf = sacrebleu.corpus_chrf([h.lower() if lowercase else h for h in HYPOTHESES], plain)
    assert scored.metrics["chrf"] == pytest.approx(chrf.score)
    signature = scored.facts["bleu_signature"]
    assert f"tok:{tokenize}" in signature
    assert f"case:{'lc' if lowercase else 'mixed'}" in signature
    assert scored.hypotheses == tuple(HYPOTHESES)


@pytest.mark.parametrize(("tokenize", "lowercase"), [("13a", True), ("char", False)])
def test_scores_are_those_of_sacrebleus_command(
    tmp_path: Path, tokenize: str, lowercase: bool
) -> None:
    hypotheses = [*HYPOTHESES, "a\u2028line\x85 and\x0cmore-\nlines"]  # only \n ends a line
    single = [*(references[:1] for references in REFERENCES), ["A line and\x85 more-\nlines"]]
    for name, rows in (("hyp", hypotheses), ("ref", [each for (each,) in single])):
        (tmp_path / name).write_bytes("".join(f"{one_line(row)}\n" for row in rows).encode())
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "ref", "-i", tmp_path / "hyp"]
    options = ["-m", "bleu", "chrf", "--tokenize", tokenize, "-b", "-w", "9"]
    if lowercase:
        options += ["-lc", "--chrf-lowercase"]
    printed = subprocess.run([*command, *options], capture_output=True, check=True).stdout
    scored = score_text(hypotheses, single, TextScoring(tokenize, lowercase))
    ours = [round(scored.metrics[name], 9) for name in ("bleu", "chrf")]
    assert ours == json.loads(printed)
    assert scored.hypotheses == tuple(hypotheses)


def test_a_loss_that_is_no_number_is_not_left_out_of_the_average() -> None:
    averages = TokenAverages(torch.device("cpu"))
    averages.update(torch.tensor([1.0, math.nan]), torch.tensor([True, False]))
    averages.update(torch.tensor([1.0]), torch.tensor([True]))
    computed = averages.compute()
    assert math.isnan(computed["loss"])
    assert math.isnan(computed["perplexity"])
    assert computed["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("lowercase", "rate"), [(False, 0.25), (True, 0.5)])
def test_exact_match_takes_any_reference(lowercase: bool, rate: float) -> None:
    hypotheses = ["The end", *HYPOTHESES[1:]]
    references = [["the end"], *REFERENCES[1:]]
    scored = score_text(hypotheses, references, TextScoring(lowercase=lowercase))
    assert scored.metrics["exact_match"] == rate


@given(st.lists(st.lists(st.floats(0, 9), max_size=5), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_averages_count_symbols_not_batches(batches: list[list[float]]) -> None:
    losses = [loss for batch in batches for loss in batch]
    assume(losses)
    averages = TokenAverages(torch.device("cpu"))
    for batch in batches:
        nll = torch.tensor(batch)
        averages.update(nll, nll < 1)
    mean = sum(losses) / len(losses)
    computed = averages.compute()
    assert computed["loss"] == pytest.approx(mean, abs=1e-5)
    assert computed["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert computed["accuracy"] == pytest.approx(sum(x < 1 for x in losses) / len(losses))


class _Choosy(TextData):
    """Three words by number, the last input's name put in for 2; evens are the better ones."""

    scoring = TextScoring(tokenize="none")

    def rerank(self, found, line):
        return sorted(found, key=lambda each: each.ids[0] % 2)

    def text_of(self, ids, line):
        return self.detokenise(ids).replace("two", line)

    def own_scores(self, best, split):
        return {"mean": [(ids[0], 1) for ids in best.values()]}

    def detokenise(self, ids):
        return " ".join(("zero", "one", "two")[each] for each in ids)

    def sources(self, split):
        return ["here", "there"]

    def references(self, split):
        return [["zero", "here"], ["there"]]


def test_the_data_chooses_among_outputs_and_turns_them_into_text() -> None:
    _Choosy.__abstractmethods__ = frozenset()
    outputs = {
        1: [Hypothesis((1,), -0.1), Hypothesis((2,), -0.5)],
        0: [Hypothesis((2,), -0.2), Hypothesis((0,), -0.3)],
    }
    scored = score_outputs(outputs, _Choosy(), "val")
    assert scored.hypotheses == ("here", "there")
    assert scored.metrics["exact_match"] == 1
    assert scored.metrics["mean"] == 2
    assert scored.rows["mean"].each().tolist() == [2, 2]
    (answer,) = _Choosy().answers(outputs[1], "there", 1)
    assert (answer.text, answer.score) == ("there", -0.5)
