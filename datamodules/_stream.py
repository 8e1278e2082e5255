"""One long sequence, cut into windows that are read one after the other.

Truncated back-propagation through time (Williams & Peng 1990) reads a stream of symbols window by
window: the gradient ends where a window begins, the hidden state does not. A batch holds one
window of each of B parallel streams, and the next batch those that follow them.

Shapes: n symbols of a split, N windows, L symbols of a window (the last may be shorter), B streams.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules._batch import Batch
from datamodules._bucketing import Batches, Sizes
from datamodules._vocab import EOS

#: Name of the extra that says, for each row, the row whose last state it goes on from; -1 for none.
FOLLOWS = "follows"


@dataclass(frozen=True)
class Stream:
    """Hold one split as windows. Window i is to tell symbols i L to (i + 1) L from those before."""

    #: All symbols, (n,).
    symbols: NDArray[np.int32]
    #: L.
    window: int

    def __len__(self) -> int:
        """Return the number of windows."""
        return math.ceil(len(self.symbols) / self.window)

    @property
    def sizes(self) -> Sizes:
        """The length of every window, (N, 1)."""
        ends = np.arange(1, len(self) + 1) * self.window
        return (np.minimum(ends, len(self.symbols)) - (ends - self.window))[:, None]

    def collate(self, rows: Sequence[int]) -> Batch:
        """Return these windows. Before the first symbol stands EOS: a text begins as a line does.

        So every symbol is a target once, the first one too.
        """
        starts = np.asarray(rows, dtype=np.int64) * self.window
        lengths = np.minimum(self.window, len(self.symbols) - starts)
        steps = np.arange(lengths.max(initial=0))  # (L,)
        places = starts[:, None] + steps  # (B, L)
        inside = steps < lengths[:, None]
        targets = self._symbols(places, inside)
        inputs = self._symbols(places - 1, inside)
        inputs[places == 0] = EOS
        index = torch.tensor(rows, dtype=torch.int64)
        return Batch(
            inputs=torch.from_numpy(inputs),
            lengths=torch.from_numpy(lengths),
            targets=torch.from_numpy(targets),
            target_lengths=torch.from_numpy(lengths.copy()),
            extras={"index": index, FOLLOWS: index - 1},  # the first follows -1: none
        )

    def _symbols(self, places: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        # One pass that widens and pads: PAD is 0. Places out of the stream are not inside.
        symbols: NDArray[np.int64] = np.multiply(
            self.symbols.take(places, mode="clip"), inside, dtype=np.int64
        )
        return symbols


def parallel_plan(windows: int, streams: int, seed: int, epoch: int) -> Batches:
    """Return the batches of one epoch of training, a pure function of its arguments.

    The windows, turned by chance as a ring, are dealt out to the streams in equal runs; batch t
    holds the t-th window of each. Where the runs are not equally long, the last batch is smaller.
    """
    turn = int(np.random.default_rng([seed, epoch]).integers(windows))
    ring = (np.arange(windows) + turn) % windows
    return side_by_side(np.array_split(ring, min(streams, windows)))  # the longer ones first


def reading_plan(windows: int) -> Batches:
    """Return the batches of a pass that reads the whole stream from its beginning to its end."""
    return side_by_side([np.arange(windows)])


def side_by_side(runs: Sequence[NDArray[np.int64]]) -> Batches:
    """Return batches of which number t holds the t-th of each run that has one, in their order.

    None of the runs is longer than the one before it.
    """
    lengths = np.array([len(run) for run in runs])
    counts = len(runs) - np.searchsorted(lengths[::-1], np.arange(lengths[0]), side="right")
    begins = np.cumsum(counts) - counts
    order = np.empty(lengths.sum(), dtype=np.uint32)
    for place, run in enumerate(runs):
        order[begins[: len(run)] + place] = run
    return Batches(order, begins, begins + counts)
