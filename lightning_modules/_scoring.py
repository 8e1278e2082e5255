"""Scores of a whole split: running averages a symbol, and the text that was written."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torchmetrics import SumMetric

from datamodules._base import TextData, TextScoring


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
    """Hold what a model wrote for a split and how good sacrebleu says it is."""

    #: Detokenised outputs in row order.
    hypotheses: tuple[str, ...]
    #: sacrebleu's signature of the BLEU.
    signature: str
    #: bleu and chrf (0-100), exact_match (0-1).
    metrics: dict[str, float]


def one_line(text: str) -> str:
    """Return text as a file can hold it in which a line feed ends a row."""
    return text.replace("\n", " ")


def score_text(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], scoring: TextScoring
) -> ScoredText:
    """Score a corpus as sacrebleu's own command does; rows may have unequally many references.

    A table's cell may hold line feeds: for sacrebleu, whose files have a row a line, they are
    blanks.
    """
    lines = list(map(one_line, hypotheses))
    streams = list(zip_longest(*(map(one_line, choices) for choices in references)))
    # `force` only silences the advice about text that looks tokenised.
    bleu = BLEU(tokenize=scoring.tokenize, lowercase=scoring.lowercase, force=True)
    chrf = CHRF(lowercase=scoring.lowercase)
    same = str.lower if scoring.lowercase else str
    exact = sum(
        same(hypothesis) in map(same, choices)
        for hypothesis, choices in zip(hypotheses, references, strict=True)
    )
    metrics = {
        "bleu": bleu.corpus_score(lines, streams).score,
        "chrf": chrf.corpus_score(lines, streams).score,
        "exact_match": exact / len(hypotheses),
    }
    return ScoredText(tuple(hypotheses), str(bleu.get_signature()), metrics)


def score_outputs(outputs: dict[int, Sequence[int]], data: TextData, split: str) -> ScoredText:
    """Score ids by row: of the whole split, or of those rows that were run."""
    rows = sorted(outputs)
    references = data.references(split)
    return score_text(
        [data.detokenise(outputs[row]) for row in rows],
        [references[row] for row in rows],
        data.scoring,
    )
