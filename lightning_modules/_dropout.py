"""Dropout that suits recurrent networks."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)


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


def dropout_of(share: float, *, variational: bool) -> LockedDropout | nn.Dropout:
    """Return dropout of this share: of the same units at all steps, or anew at each."""
    return LockedDropout(share) if variational else nn.Dropout(share)
