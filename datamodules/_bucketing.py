"""Which rows make a batch: sequences of like length, so that little is spent on padding.

A batch costs rows x the longest sequence on either side of it (source or target, the end symbol
counted): so many symbols stand on its longer side, padding counted. That is what `batch_tokens`
bounds; a single row that is longer makes a batch of its own.

Both plans are pure functions of their arguments: the same on every process and machine, and the
place in an epoch is just the number of a batch. Nothing in them is a loop over rows or batches, so
that an epoch of millions of rows begins at once.

Shapes: N rows (fewer than 2^32), K sides (source, target), P batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

#: Lengths, integers (N, K).
Sizes = NDArray[np.integer[Any]]

#: Evaluation keeps no gradients, so its batches may be this much larger.
EVALUATION_SCALE: Final = 2

#: Up to this length sequences are told apart to the symbol, above it to the same proportion.
_EXACT: Final = 16
#: A class has 8 bits of a key, and a length 16, with 8 more for a fraction.
_CLASSES: Final = 1 << 8
_LENGTHS: Final = 1 << 16
_FRACTIONS: Final = 1 << 8
#: Rows that are cut into batches one after the other; more are cut side by side.
_STRIP: Final = 1 << 13
#: Rows whose keys are made at once, and steps of all strips: few enough to stay in a cache.
_PART: Final = 1 << 16
_STEPS: Final = 1 << 7

#: The numbers to sort a run of rows by: first, then second.
Keys = Callable[[slice], tuple[NDArray[np.uint32], NDArray[np.uint32]]]


@dataclass(frozen=True, eq=False)
class Batches(Sequence[Sequence[int]]):
    """Hold the batches of an epoch: each a list of row numbers, made when it is asked for."""

    #: All rows, those of a batch beside each other, (N,).
    order: NDArray[np.uint32]
    #: Where each batch begins in `order` and where it ends, (P,).
    begins: NDArray[np.intp]
    ends: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> "Batches": ...
    def __getitem__(self, place: int | slice) -> "list[int] | Batches":
        if isinstance(place, slice):
            return Batches(self.order, self.begins[place], self.ends[place])
        rows: list[int] = self.order[self.begins[place] : self.ends[place]].tolist()
        return rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batches):
            return NotImplemented
        return len(self) == len(other) and all(
            ours == theirs for ours, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment] # equal by what it holds, as a list is


def training_plan(sizes: Sizes, batch_tokens: int, seed: int, epoch: int) -> Batches:
    """Return the batches of one epoch of training: like lengths together, all else by chance.

    Rows are sorted by the class of the first side, blurred by up to a symbol, and within a class to
    and fro by the second, blurred by less than one: so the company changes every epoch.
    """
    chance = np.random.default_rng([seed, epoch])
    first, second = sizes[:, 0], sizes.T[:2][-1]
    blur = chance.integers(2 * _FRACTIONS, size=len(sizes), dtype=np.uint16)
    grades = _grades(int(first.max()) + 1)

    def keys(part: slice) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        blurred = _clipped(second[part], _LENGTHS) * _FRACTIONS + blur[part] % _FRACTIONS
        return grades[first[part] + blur[part] // _FRACTIONS], blurred

    batches = _cut(_sorted(len(sizes), keys, _LENGTHS * _FRACTIONS), sizes, batch_tokens)
    places = chance.permutation(len(batches))
    return Batches(batches.order, batches.begins[places], batches.ends[places])


def evaluation_plan(sizes: Sizes, batch_tokens: int) -> Batches:
    """Return the batches of a pass without training: sorted by cost, nothing left to chance.

    Rows of one cost go from those whose last side is longest to those whose first side is.
    """

    def keys(part: slice) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        ends = sizes[part][:, [0, -1]].T
        first, last = (_clipped(side, _LENGTHS // 2).astype(np.int32) for side in ends)
        lean = (first - last + _LENGTHS // 2).astype(np.uint32)
        return _clipped(_longest(sizes[part]), _LENGTHS), lean

    order = _sorted(len(sizes), keys, _LENGTHS)
    return _cut(order, sizes, batch_tokens * EVALUATION_SCALE)


def padding_fraction(sizes: Sizes, plan: Sequence[Sequence[int]]) -> float:
    """Return which part of all places on all sides is padding."""
    places = sum(len(rows) * int(sizes[rows].max(axis=0).sum()) for rows in plan)
    return 1 - int(sizes.sum()) / places


def _grades(longest: int) -> NDArray[np.uint32]:
    """Return the class of each length up to the longest.

    One symbol is a class up to _EXACT, and 1/_EXACT of the length above it.
    """
    lengths = np.arange(longest + 1)
    relative = _EXACT * (1 + np.log(np.maximum(lengths, _EXACT) / _EXACT))
    return _clipped(np.where(lengths <= _EXACT, lengths, relative), _CLASSES)


def _clipped(values: NDArray[Any], size: int) -> NDArray[np.uint32]:
    below: NDArray[Any] = np.minimum(values, size - 1)
    return below.astype(np.uint32)


def _longest(sizes: Sizes) -> NDArray[np.integer[Any]]:
    # Much faster than max(axis=1), which loops over two numbers at a time.
    longest: NDArray[np.integer[Any]] = reduce(np.maximum, sizes.T)
    return longest


def _sorted(rows: int, keys: Keys, size: int) -> NDArray[np.uint32]:
    """Sort rows by the first key, then to and fro by the second (< `size`): no step is a long one.

    Numbers that hold key and row sort several times faster than rows by their keys.
    """
    both = np.empty(rows, dtype=np.uint64)
    for begin in range(0, rows, _PART):
        part = slice(begin, min(begin + _PART, rows))
        first, second = keys(part)
        key = np.where(first % 2 == 1, np.uint32(size - 1) - second, second)
        key += first * np.uint32(size)
        np.left_shift(key, 32, out=both[part], dtype=np.uint64)
        both[part] |= np.arange(part.start, part.stop, dtype=np.uint64)
    both.sort()
    return both.astype(np.uint32)  # the lower half


def _cut(order: NDArray[np.uint32], sizes: Sizes, batch_tokens: int) -> Batches:
    """Cut sorted rows into runs as long as the limit allows."""
    rows = len(order)
    strips = -(-rows // _STRIP)
    longest = _longest(sizes)
    # As narrow as can be: they are read in no order, so that the cache should hold them all.
    longest = longest.astype(np.min_scalar_type(longest.max()))
    lengths = np.zeros(strips * -(-rows // strips), dtype=longest.dtype)
    for begin in range(0, rows, _PART):
        part = slice(begin, min(begin + _PART, rows))
        lengths[part] = longest[order[part]]
    begins = _begins(lengths.reshape(strips, -1).T, batch_tokens).T.reshape(-1)[:rows]
    places = np.flatnonzero(begins)
    return Batches(order, places, np.append(places[1:], rows))


def _begins(lengths: NDArray[np.unsignedinteger[Any]], batch_tokens: int) -> NDArray[np.bool_]:
    """Say of each place where a batch begins; each column is cut for itself, from its top."""
    begins = np.zeros(lengths.shape, dtype=np.bool_)
    longest = np.zeros(lengths.shape[1], dtype=np.int64)
    cost = np.zeros_like(longest)
    count = np.full_like(longest, batch_tokens)  # as if a batch were full
    for top in range(0, len(lengths), _STEPS):
        steps = lengths[top : top + _STEPS].astype(np.int64, order="C")
        for begin, length in zip(begins[top : top + _STEPS], steps, strict=True):
            np.maximum(longest, length, out=longest)
            count += 1
            np.multiply(count, longest, out=cost)
            np.greater(cost, batch_tokens, out=begin)
            np.copyto(longest, length, where=begin)
            np.copyto(count, 1, where=begin)
    return begins
