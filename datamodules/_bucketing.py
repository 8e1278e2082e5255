"""Which rows make a batch: sequences of like length, so that little is spent on padding.

A batch costs rows x the longest sequence on either side of it (source or target, the end symbol
counted): so many symbols stand on its longer side, padding counted. That is what `batch_tokens`
bounds; a single row that is longer makes a batch of its own.

Both plans are pure functions of their arguments: the same on every process and machine, and the
place in an epoch is just the number of a batch.

Shapes: N rows, K sides (source, target).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Lengths, int64 (N, K).
Sizes = NDArray[np.int64]

#: Evaluation keeps no gradients, so its batches may be this much larger.
EVALUATION_SCALE: Final = 2

#: Up to this length sequences are told apart to the symbol, above it to the same proportion.
_EXACT: Final = 16
#: How many symbols a length is blurred by on each side, so that the company changes every epoch.
_BLUR: Final = (2.0, 1.0)


def training_plan(sizes: Sizes, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch of training: like lengths together, all else by chance."""
    chance = np.random.default_rng([seed, epoch])
    shuffled = chance.permutation(len(sizes))
    blurred = [
        side + chance.random(len(sizes)) * blur
        for side, blur in zip(sizes[shuffled].T, _BLUR, strict=False)
    ]
    order = shuffled[_by_length(_grade(blurred[0]), *blurred[1:])]
    batches = [order[start:end].tolist() for start, end in _cuts(sizes[order], batch_tokens)]
    return [batches[place] for place in chance.permutation(len(batches))]


def evaluation_plan(sizes: Sizes, batch_tokens: int) -> list[list[int]]:
    """Return the batches of a pass without training: sorted by cost, nothing left to chance."""
    order = _by_length(sizes.max(axis=1), *sizes.T)
    limit = batch_tokens * EVALUATION_SCALE
    return [order[start:end].tolist() for start, end in _cuts(sizes[order], limit)]


def padding_fraction(sizes: Sizes, plan: list[list[int]]) -> float:
    """Return which part of all places on all sides is padding."""
    places = sum(len(rows) * int(sizes[rows].max(axis=0).sum()) for rows in plan)
    return 1 - int(sizes.sum()) / places


def _grade(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return classes one symbol wide up to _EXACT and 1/_EXACT of the length wide above it."""
    whole = np.floor(lengths)
    relative = np.floor(_EXACT * (1 + np.log(np.maximum(whole, _EXACT) / _EXACT)))
    return np.where(whole <= _EXACT, whole, relative)


def _by_length(first: NDArray[np.number], *others: NDArray[np.number]) -> NDArray[np.int64]:
    """Sort by the first side, then to and fro by the others, so that no step is a long one."""
    fro = first % 2 == 1
    return np.lexsort([*(np.where(fro, -side, side) for side in others), first])


def _cuts(sizes: Sizes, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut sorted rows into runs as long as the limit allows."""
    start = longest = 0
    for row, length in enumerate(sizes.max(axis=1).tolist()):
        grown = max(longest, length)
        if row > start and (row - start + 1) * grown > batch_tokens:
            yield start, row
            start, grown = row, length
        longest = grown
    if start < len(sizes):
        yield start, len(sizes)
