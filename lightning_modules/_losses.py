"""Cross-entropy with label smoothing, in float32 whatever the logits are, one pass each way.

Shapes: M symbols that count (no padding), V size of the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Smoothed(Function):
    """Loss and its gradient; the probabilities are the only (M, V) tensor kept between them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, ...]:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        shifted = wide - wide.amax(dim=-1, keepdim=True)
        chosen = shifted.gather(-1, targets[:, None]).squeeze(-1)
        mean = shifted.mean(dim=-1)
        probabilities = shifted.exp_()
        total = probabilities.sum(dim=-1)
        probabilities.div_(total[:, None])
        nll = total.log() - chosen
        ctx.save_for_backward(probabilities, targets)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        ctx.mark_non_differentiable(nll)
        return torch.lerp(nll, total.log() - mean, smoothing), nll

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets = ctx.saved_tensors
        gradient = probabilities - ctx.smoothing / probabilities.shape[-1]
        certain = gradient.new_full((1, 1), ctx.smoothing - 1).expand(len(targets), 1)
        gradient.scatter_add_(-1, targets[:, None], certain)
        return gradient.mul_(upstream[0][:, None]).to(ctx.dtype), None, None


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the smoothed loss of each symbol (M,), and its loss without smoothing, detached.

    -(1 - ε) log p(y) - ε/V Σ_v log p(v), Szegedy et al. 2016, section 7; logits (M, V).
    """
    loss, nll = _Smoothed.apply(logits, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss, nll
