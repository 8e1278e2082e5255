"""Cross-entropy with label smoothing, in float32 whatever the logits are, one pass each way.

Shapes: M symbols that count (no padding), V size of the vocabulary, K symbols asked for.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class SymbolLosses(NamedTuple):
    """What each target symbol costs, (M,) each."""

    #: What is learned from.
    loss: Tensor
    #: -log p(y) in nats, detached.
    nll: Tensor
    #: Whether the model would have chosen it, bool.
    right: Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities (M, V) of logits (M, V), in float32 or wider."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=wide)


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


def symbol_losses(logits: Tensor, targets: Tensor, smoothing: float) -> SymbolLosses:
    """Return what targets (M,) cost where logits (M, V) are all there is to it."""
    loss, nll = smoothed_cross_entropy(logits, targets, smoothing)
    # `max` finds the same symbol as `argmax`, which takes four times as long on bfloat16.
    return SymbolLosses(loss, nll, logits.detach().max(dim=-1).indices == targets)


class _Picked(Function):
    """Some log-probabilities and the mean of all; the probabilities are all that is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        shifted = wide - wide.amax(dim=-1, keepdim=True)
        picked, mean = shifted.gather(-1, index), shifted.mean(dim=-1)
        probabilities = shifted.exp_()
        total = probabilities.sum(dim=-1)
        probabilities.div_(total[:, None])
        ctx.save_for_backward(probabilities, index)
        ctx.dtype = logits.dtype
        return picked - total.log()[:, None], mean - total.log()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        probabilities, index = ctx.saved_tensors
        picked, mean = upstream
        gradient = probabilities * -(picked.sum(dim=-1) + mean)[:, None]
        gradient.add_((mean / probabilities.shape[-1])[:, None])
        return gradient.scatter_add_(-1, index, picked).to(ctx.dtype), None


def picked_log_probabilities(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p of the symbols of index (M, K), (M, K), and (1/V) Σ_v log p(v), (M,).

    p = softmax(logits (M, V)); in float32 or wider.
    """
    picked, mean = _Picked.apply(logits, index)  # type: ignore[no-untyped-call]
    return picked, mean
