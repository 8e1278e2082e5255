"""Chance in scores: intervals by the bootstrap, and whether one system beats another on one set.

Bootstrap and approximate randomisation draw as sacrebleu's `significance` does, from the same seed,
so that both say the same of the same output; here the draws come in parts, and memory stays small
however many rows there are.

Shapes: N rows, K numbers of a row, R resamples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobs.errors import SpecError
from lightning_modules._row_scores import Array, RowScores

#: Draws that are in memory at once, about.
_AT_ONCE: Final = 4_000_000
#: Bits come from the generator by so many; a part of the draws must end where such a word does.
_WORD: Final = 32

Interval = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """What a test of the difference, second less first, came to."""

    difference: float
    #: Probability of a difference as large, were there none; of the bootstrap as sacrebleu has it,
    #: which is about that of one direction.
    p: float
    #: Interval of the difference.
    low: float
    high: float
    #: How many resamples were drawn; 0 where nothing was.
    resamples: int

    def is_significant(self, confidence: float) -> bool:
        """Return whether chance is ruled out: p is small, and zero lies outside the interval.

        Each alone says yes too often of two like systems: p of the bootstrap is about one-sided,
        and small where there is no difference at all.
        """
        return self.p < 1 - confidence and not self.low <= 0 <= self.high


def intervals(
    scores: Mapping[str, RowScores], resamples: int, seed: int, confidence: float
) -> dict[str, Interval]:
    """Return the percentile interval of each metric under resampling of rows, all of one length."""
    if not resamples or not scores:
        return {}
    (rows,) = {len(each) for each in scores.values()}
    found: dict[str, list[Array]] = {name: [] for name in scores}
    for counts in bootstrap_counts(rows, resamples, seed):
        for name, each in scores.items():
            found[name].append(each.drawn(counts))
    return {name: percentiles(np.concatenate(each), confidence) for name, each in found.items()}


def percentiles(values: Array, confidence: float) -> Interval:
    """Return the bounds within which this part of the values lies, as sacrebleu cuts them."""
    ordered = np.sort(values)
    cut = int(len(ordered) * (1 - confidence) / 2 + 1e-9)
    return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])


def bootstrap_counts(rows: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often each row is drawn in each resample, (some of R, N), R altogether."""
    rng = np.random.default_rng(seed)
    part = max(1, _AT_ONCE // rows)
    for begin in range(0, resamples, part):
        drawn = rng.choice(rows, size=(min(part, resamples - begin), rows), replace=True)
        yield np.stack([np.bincount(each, minlength=rows) for each in drawn]).astype(np.float64)


def _swaps(rows: int, trials: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which rows keep their places in each trial, (some of R, N), R altogether."""
    rng = np.random.default_rng(seed)
    part = max(_WORD, _AT_ONCE // rows // _WORD * _WORD)
    for begin in range(0, trials, part):
        yield rng.integers(2, size=(min(part, trials - begin), rows), dtype=np.bool_)


def paired_bootstrap(
    first: RowScores, second: RowScores, resamples: int, seed: int, confidence: float
) -> Finding:
    """Test by resampling the rows of both alike, Koehn 2004, two-sided as sacrebleu has it."""
    difference = second.score() - first.score()
    parts = [
        second.drawn(counts) - first.drawn(counts)
        for counts in bootstrap_counts(len(first), resamples, seed)
    ]
    differences = np.concatenate(parts)
    sizes = np.abs(differences)
    low, high = percentiles(differences, confidence)
    p = _share_above(sizes - sizes.mean(), abs(difference))
    return Finding(difference, p, low, high, resamples)


def approximate_randomisation(
    first: RowScores, second: RowScores, trials: int, seed: int, confidence: float
) -> Finding:
    """Test by swapping the rows of both at random, Riezler & Maxwell 2005.

    Swaps give no interval: that of the difference is by 1,000 resamples of the bootstrap. Raise
    SpecError for macro-F1.
    """
    if first.kind == "macro_f1":
        raise SpecError(
            "approximate_randomisation swaps rows, and two models may number their classes "
            "otherwise: take bootstrap for macro_f1"
        )
    difference = second.score() - first.score()
    sizes = []
    for stay in _swaps(len(first), trials, seed):
        kept, gone = stay.astype(np.float64), (~stay).astype(np.float64)
        one = first.of_sums(kept @ first.values + gone @ second.values)
        other = second.of_sums(gone @ first.values + kept @ second.values)
        sizes.append(np.abs(one - other))
    interval = paired_bootstrap(first, second, 1000, seed, confidence)
    p = _share_above(np.concatenate(sizes), abs(difference))
    return Finding(difference, p, interval.low, interval.high, trials)


def _share_above(sizes: Array, size: float) -> float:
    return (int((sizes > size).sum()) + 1) / (len(sizes) + 1)


def mcnemar(first: RowScores, second: RowScores, seed: int, confidence: float) -> Finding:
    """Test rows that are right or wrong by those which only one got right, McNemar 1947, exactly.

    The interval is by 1,000 resamples of the bootstrap. Raise SpecError for a metric whose rows
    are not right or wrong.
    """
    right = [_right(each) for each in (first, second)]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    interval = paired_bootstrap(first, second, 1000, seed, confidence)
    return Finding(interval.difference, _sign_test(lost, won), interval.low, interval.high, 0)


def _right(scores: RowScores) -> NDArray[np.bool_]:
    values = scores.values
    if scores.kind != "ratio" or not (
        np.isin(values[:, 0], (0, 1)).all() and (values[:, 1] == 1).all()
    ):
        raise SpecError(
            "mcnemar compares rows that are right or wrong as a whole, as of accuracy of classes "
            "and exact_match: take bootstrap or approximate_randomisation"
        )
    right: NDArray[np.bool_] = values[:, 0] == 1
    return right


def _sign_test(lost: int, won: int) -> float:
    """Return the two-sided probability of a split as uneven as this under a fair coin."""
    tosses, fewer = lost + won, min(lost, won)
    tail = sum(comb(tosses, heads) for heads in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**tosses)) if tosses else 1.0
