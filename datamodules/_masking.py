"""Hiding parts of what is heard in training, so that no part is relied upon (SpecAugment).

Park et al. 2019, "SpecAugment: a simple data augmentation method for automatic speech recognition":
a run of neighbouring bands, and a run of neighbouring frames, are set to their mean. How long each
run is and where it begins is drawn evenly for each row of each epoch.

Shapes: B recordings, S frames, P parts of a frame, M mels of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


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

    def __call__(self, parts: Tensor, lengths: Sequence[int], keys: Sequence[list[int]]) -> Tensor:
        """Return scaled frames (B, S, P, M) with runs of zeros, their mean.

        What is hidden in a row is a pure function of its key: it is the same on whatever machine,
        in whatever batch.
        """
        masked = parts.clone()
        for row, length, key in zip(masked, lengths, keys, strict=True):
            chance = np.random.default_rng(key)
            row[:, :, _run(chance, self.bands, row.shape[-1])] = 0
            row[_run(chance, self.frames, length)] = 0
        return masked


def _run(chance: np.random.Generator, share: float, size: int) -> slice:
    """Return a run of up to this share of so many places."""
    length = int(chance.integers(int(share * size), endpoint=True))
    start = int(chance.integers(size - length, endpoint=True))
    return slice(start, start + length)
