"""Hiding parts of what is heard in training, so that no part is relied upon (SpecAugment).

Park et al. 2019, "SpecAugment: a simple data augmentation method for automatic speech recognition":
a run of neighbouring bands, and a run of neighbouring frames, are set to their mean. How long each
run is and where it begins is drawn evenly for each row of each epoch.

The four numbers of a row are drawn for a batch at once, by the row's place in the sequence of an
epoch's generator (Steele et al. 2014, "Fast splittable pseudorandom number generators": SplitMix64,
whose n-th number is computed without those before it).

Shapes: B recordings, S frames, P parts of a frame, M mels of a part.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: SplitMix64: what its state grows by, and the steps that mix a state.
_GROWTH: Final = np.uint64(0x9E3779B97F4A7C15)
_MIXING: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST: Final = np.uint64(31)


@dataclass(frozen=True)
class Masking:
    """Say how much of a recording may be hidden."""

    #: The longest run of bands, as a share of all.
    bands: float = 0.0
    #: The longest run of frames, as a share of the recording's.
    frames: float = 0.0

    def __bool__(self) -> bool:
        """Say whether anything is hidden at all."""
        return bool(self.bands or self.frames)

    def __call__(
        self, parts: Tensor, lengths: Tensor, key: tuple[int, ...], rows: Tensor
    ) -> Tensor:
        """Return scaled frames (B, S, P, M) with runs of zeros, their mean; lengths and rows (B,).

        What is hidden in a row is a pure function of the key, that of an epoch, and the row: it is
        the same on whatever machine, in whatever batch.
        """
        drawn = _drawn(key, rows.numpy())
        steps, mels = parts.shape[1], parts.shape[3]
        bands = _run(drawn[:2], self.bands, np.full(len(rows), mels), mels)
        frames = _run(drawn[2:], self.frames, lengths.numpy(), steps)
        masked = parts * ~bands[:, None, None]
        masked *= ~frames[:, :, None, None]
        return masked


def _drawn(key: tuple[int, ...], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return four numbers from 0 to below 1 for each row, (4, B)."""
    (begin,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    places = 4 * rows.astype(np.uint64) + np.arange(1, 5, dtype=np.uint64)[:, None]
    mixed = begin + places * _GROWTH
    for shift, factor in _MIXING:
        mixed = (mixed ^ (mixed >> shift)) * factor
    mixed ^= mixed >> _LAST
    drawn: NDArray[np.float64] = (mixed >> np.uint64(11)) * 2.0**-53  # all the bits it has
    return drawn


def _run(drawn: NDArray[np.float64], share: float, sizes: NDArray[np.int64], places: int) -> Tensor:
    """Return a run of up to this share of so many places for each row, bool (B, `places`)."""
    lengths = (drawn[0] * ((share * sizes).astype(np.int64) + 1)).astype(np.int64)
    starts = (drawn[1] * (sizes - lengths + 1)).astype(np.int64)
    steps = np.arange(places)
    inside = (steps >= starts[:, None]) & (steps < (starts + lengths)[:, None])
    return torch.from_numpy(inside)
