"""Many sequences of frames, each read window by window, what follows each frame to be told.

As in `_stream.py` the gradient ends where a window begins, the hidden state does not; here each
sequence begins without a past.

Shapes: N sequences, n windows of them all, L frames of a window (a sequence's last may be shorter),
F features, B parallel streams.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules._batch import Batch
from datamodules._bucketing import Batches, Sizes
from datamodules._rows import Rows
from datamodules._stream import FOLLOWS, side_by_side


def _single(frames: NDArray[np.floating]) -> NDArray[np.float32]:
    return frames.astype(np.float32, copy=False)


@dataclass(frozen=True)
class FrameStreams:
    """Hold one split as windows, numbered sequence by sequence."""

    #: The frames of all sequences, (V, F).
    frames: Rows
    #: L.
    window: int
    #: What a model sees of frames (..., F); what it sees before a sequence's first is zero.
    scaled: Callable[[NDArray[np.floating]], NDArray[np.float32]] = _single

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many windows each sequence has, (N,)."""
        return -(-self.frames.lengths // self.window)

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        """The first window of each sequence, (N,)."""
        return np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self.counts.sum())

    def _places(self, windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of which sequence each of these windows is, and at which of its frames it begins.

        A sequence that has no frames has no window either.
        """
        sequences = np.searchsorted(np.cumsum(self.counts), windows, side="right")
        return sequences, (windows - self._firsts[sequences]) * self.window

    @property
    def sizes(self) -> Sizes:
        """The length of every window, (n, 1)."""
        sequences, begins = self._places(np.arange(len(self)))
        lengths: Sizes = np.minimum(self.window, self.frames.lengths[sequences] - begins)
        return lengths[:, None]

    def collate(self, rows: Sequence[int]) -> Batch:
        """Return these windows. Before a sequence's first frame stands a frame of zeros.

        So every frame is a target once, the first one too.
        """
        windows = np.asarray(rows, dtype=np.int64)
        sequences, begins = self._places(windows)
        lengths = np.minimum(self.window, self.frames.lengths[sequences] - begins)
        steps = np.arange(lengths.max(initial=0))  # (L,)
        inside = steps < lengths[:, None]  # (B, L)
        within = begins[:, None] + steps
        places = np.where(inside, self.frames.offsets[sequences, None] + within, 0)
        known = (inside & (within > 0))[..., None]
        zero = np.float32(0)
        return Batch(
            inputs=torch.from_numpy(
                np.where(known, self.scaled(self.frames.values[places - 1]), zero)
            ),
            lengths=torch.from_numpy(lengths),
            targets=torch.from_numpy(
                np.where(inside[..., None], self.scaled(self.frames.values[places]), zero)
            ),
            target_lengths=torch.from_numpy(lengths.copy()),
            extras={
                "index": torch.from_numpy(windows.copy()),
                FOLLOWS: torch.from_numpy(np.where(begins > 0, windows - 1, -1)),
            },
        )

    def training_plan(self, streams: int, seed: int, epoch: int) -> Batches:
        """Return the batches of one epoch: the sequences by chance, a pure function."""
        return self._dealt(
            np.random.default_rng([seed, epoch]).permutation(len(self.frames)), streams
        )

    def reading_plan(self, streams: int) -> Batches:
        """Return the batches of a pass without training: the longest sequences first."""
        return self._dealt(np.argsort(-self.counts, kind="stable"), streams)

    def _dealt(self, order: NDArray[np.int64], streams: int) -> Batches:
        """Deal sequences out to streams, each to the one that ends first.

        Batch t holds the t-th window of each stream, so that a window comes right after the one
        that it follows, and at the same place: a stream never leaves the rank that reads it.
        """
        queues: list[list[NDArray[np.int64]]] = [[] for _ in range(streams)]
        ends = [(0, number) for number in range(streams)]
        for sequence in order.tolist():
            length, number = heapq.heappop(ends)
            first, count = int(self._firsts[sequence]), int(self.counts[sequence])
            queues[number].append(np.arange(first, first + count))
            heapq.heappush(ends, (length + count, number))
        runs = [np.concatenate(queue) for queue in queues if queue]
        runs.sort(key=len, reverse=True)  # one that ends moves no other to another place
        return side_by_side(runs)
