"""Dropout that suits recurrent networks, and costs CPUs little."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

#: What a share is counted in: a random number of 64 bits decides about four values.
_PARTS: Final = 1 << 16


class Dropout(nn.Dropout):
    """Drop values anew at every step: torch's, whose random numbers take CPUs four times as long.

    The share is rounded to 1/65536, and what is left is scaled by what is left in truth.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs with some values dropped."""
        if not (self.training and 0 < self.p < 1 and inputs.device.type == "cpu"):
            return super().forward(inputs)
        return inputs * _left(inputs, round(self.p * _PARTS))


def _left(like: Tensor, dropped: int) -> Tensor:
    """Return 0 for `dropped` of 65536 values, and for the others what makes up for these."""
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    drawn = words.view(torch.int16)[:count].view(like.shape)  # from -32768
    kept = (drawn >= dropped - _PARTS // 2).to(like.dtype)
    return kept.mul_(_PARTS / max(1, _PARTS - dropped))


class LockedDropout(nn.Module):
    """Drop the same units at every step of a sequence (Gal & Ghahramani 2016): (N, S, H)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs with some units of each sequence dropped."""
        if not self.training or not self.share:
            return inputs
        return inputs * F.dropout(inputs.new_ones(inputs.shape[0], 1, inputs.shape[2]), self.share)


def dropout_of(share: float, *, variational: bool) -> LockedDropout | Dropout:
    """Return dropout of this share: of the same units at all steps, or anew at each."""
    return LockedDropout(share) if variational else Dropout(share)
