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
#:     perplexity       K = 2: e to the first over the second
#:     f1               K = 3: right, found, true
#:     bleu, chrf, ter  K as sacrebleu's statistics of a segment have it
#:
#: and the one that does not: of `macro_f1`, K = 2, a row has its true class and the one that was
#: said, as the model numbers them; F1 is counted anew for each set of rows.
Kind = Literal["ratio", "perplexity", "f1", "macro_f1", "bleu", "chrf", "ter"]

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
        if self.kind == "macro_f1":
            return float(self.drawn(np.ones((1, len(self))))[0])
        return float(self.of_sums(self.values.sum(axis=0, keepdims=True))[0])

    def each(self) -> Array:
        """Return the score of every row by itself, (N,).

        BLEU counts n-grams as long as the row has some: a short one would else have none.
        """
        if self.kind == "macro_f1":
            right: Array = np.equal(*self.values.T).astype(np.float64)
            return right
        return _of_sentences(self.values) if self.kind == "bleu" else self.of_sums(self.values)

    def drawn(self, counts: Array) -> Array:
        """Return the scores (R,) of sets of rows, given how often each row is in each, (R, N)."""
        if self.kind == "macro_f1":
            return _macro_f1(self.values.astype(np.int64), counts)
        return self.of_sums(counts @ self.values)

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


def _perplexity(sums: Array) -> Array:
    with np.errstate(over="ignore"):  # a model that knows nothing: infinite
        return np.exp(_ratio(sums))


def _macro_f1(classes: NDArray[np.int64], counts: Array) -> Array:
    """Return the mean F1 (R,) over the classes that occur, in truth or in what was said."""
    if not len(classes):
        return np.zeros(len(counts))
    size, (true, said) = classes.max() + 1, classes.T
    right = true == said
    means = []
    for each in counts:
        both = np.bincount(true, each, size) + np.bincount(said, each, size)
        shared = np.bincount(true[right], each[right], size)
        there = both > 0
        means.append(np.mean(2 * shared[there] / both[there]))
    return np.array(means)


def _of_sacrebleu(metric: BLEU | CHRF | TER) -> Callable[[Array], Array]:
    # Case and tokens are settled before there are statistics, so that one serves all.
    def scores(sums: Array) -> Array:
        compute = metric._compute_score_from_stats  # noqa: SLF001 - as sacrebleu.significance does
        return np.array([compute(row).score for row in sums.tolist()], dtype=np.float64)

    return scores


_SCORES: Final[Mapping[Kind, Callable[[Array], Array]]] = {
    "ratio": _ratio,
    "perplexity": _perplexity,
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
