"""What each row of a split adds to a score: any set of rows is then scored by adding up.

Resampling (`worker/runner/resampling.py`) draws rows many thousand times; with these numbers it
needs neither the model nor the text again.

Shapes: N rows, K numbers of a row, R sets of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

#: How a score follows from the sums of a set of rows.
#:
#:     ratio            K = 2: the first over the second (accuracy, error rates, means)
#:     f1               K = 3: right, found, true
#:     bleu, chrf, ter  K as sacrebleu's statistics of a segment have it
Kind = Literal["ratio", "f1", "bleu", "chrf", "ter"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RowScores:
    """One metric of a split, row by row."""

    kind: Kind
    #: (N, K)
    values: Array

    def __len__(self) -> int:
        return len(self.values)

    def of_rows(self, rows: Sequence[int]) -> "RowScores":
        """Return the scores of these rows alone."""
        return RowScores(self.kind, self.values[list(rows)])

    def score(self) -> float:
        """Return the score of all rows."""
        return float(self.of_sums(self.values.sum(axis=0, keepdims=True))[0])

    def each(self) -> Array:
        """Return the score of every row by itself, (N,).

        BLEU counts n-grams as long as the row has some: a short one would else have none.
        """
        return _of_sentences(self.values) if self.kind == "bleu" else self.of_sums(self.values)

    def of_sums(self, sums: Array) -> Array:
        """Return the scores (R,) of sets of rows, given what each adds up to, (R, K)."""
        return _SCORES[self.kind](sums)


def _ratio(sums: Array) -> Array:
    # Nothing of nothing is no error; something of nothing is wrong altogether.
    above, below = sums[:, 0], sums[:, 1]
    empty = below == 0
    return np.where(empty, above > 0, above / np.where(empty, 1, below))


def _f1(sums: Array) -> Array:
    return _ratio(np.stack([2 * sums[:, 0], sums[:, 1] + sums[:, 2]], axis=1))


def _of_sacrebleu(metric: BLEU | CHRF | TER) -> Callable[[Array], Array]:
    # Case and tokens are settled before there are statistics, so that one serves all.
    def scores(sums: Array) -> Array:
        compute = metric._compute_score_from_stats  # noqa: SLF001 - as sacrebleu.significance does
        return np.array([compute(row).score for row in sums.tolist()], dtype=np.float64)

    return scores


_SCORES: Final[Mapping[Kind, Callable[[Array], Array]]] = {
    "ratio": _ratio,
    "f1": _f1,
    "bleu": _of_sacrebleu(BLEU(force=True)),
    "chrf": _of_sacrebleu(CHRF()),
    "ter": _of_sacrebleu(TER()),
}

_of_sentences: Final = _of_sacrebleu(BLEU(effective_order=True))


def ratio(above: object, below: object) -> RowScores:
    """Return a score that is the sum of one column over the sum of another, (N,) each."""
    columns = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return RowScores("ratio", np.stack(columns, axis=1))
