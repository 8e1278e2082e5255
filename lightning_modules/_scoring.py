"""Scores of a whole split: running averages a symbol, and the text that was written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchmetrics import SumMetric

from datamodules._base import TextData, TextScoring, Written
from lightning_modules._ranks import gather
from lightning_modules._row_scores import RowScores, ratio
from lightning_modules._text_scores import FAMILIES


class TokenAverages:
    """Average loss and accuracy over the symbols of a split, exactly, on any number of ranks.

    A loss that is not a number makes the average none: it is not left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._nll, self._correct, self._tokens = (
            SumMetric(nan_strategy="disable").set_dtype(torch.float64).to(device) for _ in range(3)
        )

    def update(self, nll: Tensor, correct: Tensor) -> None:
        """Count the symbols of a batch: their losses (M,) and whether each was right (M,)."""
        self._nll.update(nll.sum())
        self._correct.update(correct.sum())
        self._tokens.update(nll.numel())

    def compute(self) -> dict[str, float]:
        """Return loss (nats a token), perplexity and accuracy."""
        tokens = self._tokens.compute()
        loss = self._nll.compute() / tokens
        return {
            "loss": loss.item(),
            "perplexity": loss.exp().item(),
            "accuracy": (self._correct.compute() / tokens).item(),
        }


@dataclass(frozen=True)
class ScoredText:
    """Hold what a model wrote for a split and how good it is."""

    #: Detokenised outputs in row order.
    hypotheses: tuple[str, ...]
    #: What the families of `TextScoring.metrics` found, and exact_match (0-1).
    metrics: dict[str, float]
    #: What each row adds to them.
    rows: dict[str, RowScores]
    #: How each of them was computed: of BLEU, chrF and TER sacrebleu's signature.
    signatures: dict[str, str]

    @property
    def facts(self) -> dict[str, str]:
        """Return sacrebleu's signatures under the names that they have in a result."""
        names = [name for name in ("bleu", "chrf", "ter") if name in self.signatures]
        return {f"{name}_signature": self.signatures[name] for name in names}


def one_line(text: str) -> str:
    """Return text as a file can hold it in which a line feed ends a row."""
    return text.replace("\n", " ")


def score_text(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], scoring: TextScoring
) -> ScoredText:
    """Score a corpus; rows may have unequally many references, each at least one.

    A table's cell may hold line feeds: for sacrebleu's own command, whose files have a row a line,
    they are blanks, and so they are here.
    """
    lines = list(map(one_line, hypotheses))
    choices = [list(map(one_line, each)) for each in references]
    found = [FAMILIES[family](lines, choices, scoring) for family in scoring.metrics]
    rows = {name: each for scores in found for name, each in scores.rows.items()}
    signatures = {name: each for scores in found for name, each in scores.signatures.items()}
    rows["exact_match"] = ratio(_are_exact(hypotheses, references, scoring), 1)
    signatures["exact_match"] = f"case:{'lc' if scoring.lowercase else 'mixed'}"
    metrics = {name: each.score() for name, each in rows.items()}
    return ScoredText(tuple(hypotheses), metrics, rows, signatures)


def _are_exact(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], scoring: TextScoring
) -> list[bool]:
    same = str.lower if scoring.lowercase else str
    return [
        same(hypothesis) in map(same, choices)
        for hypothesis, choices in zip(hypotheses, references, strict=True)
    ]


def score_outputs(
    outputs: Mapping[int, Sequence[Written]], data: TextData, split: str
) -> ScoredText:
    """Score the best output of each row that was run on any rank: of the whole split as a rule."""
    lines, references = data.sources(split), data.references(split)
    own = {row: list(data.rerank(found, lines[row])[0].ids) for row, found in outputs.items()}
    best = dict(sorted(pair for each in gather(own) for pair in each.items()))
    scored = score_text(
        [data.text_of(ids, lines[row]) for row, ids in best.items()],
        [references[row] for row in best],
        data.scoring,
    )
    further = data.own_scores(best, split)
    counted = {name: ratio(*zip(*each, strict=True)) for name, each in further.items() if each}
    metrics = {name: each.score() for name, each in counted.items()}
    return replace(scored, metrics=scored.metrics | metrics, rows=scored.rows | counted)
