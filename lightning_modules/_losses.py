"""Cross-entropy with label smoothing, in float32 whatever the logits are.

Shapes: M symbols that count (no padding), m those of a chunk, E width of a feature, V size of the
vocabulary, K symbols asked for.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lightning_modules._cells import product_dtype
from lightning_modules._largest import first_largest
from lightning_modules._products import product

#: Bytes that the float32 logits of a chunk take at most: rows enough for products at full speed.
_CHUNK_BYTES: Final = 32 << 20


class SymbolLosses(NamedTuple):
    """What target symbols cost."""

    #: What is learned from: the mean over all symbols, 0 where there are none.
    mean: Tensor
    #: -log p(y) in nats of each, (M,), detached.
    nll: Tensor
    #: Whether the model would have chosen it, bool (M,).
    right: Tensor


def mean_of(losses: Tensor) -> Tensor:
    """Return the mean of losses (M,), 0 where there are none."""
    return losses.sum() / max(1, len(losses))


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities (M, V) of logits (M, V), in float32 or wider."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=-1, dtype=wide)


def _costs_(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, -log p(y) and rightness (M,); turn logits, in place, into the probabilities.

    They are in float32 or wider.
    """
    highest, best = first_largest(logits)
    below = highest - logits.gather(-1, targets[:, None])[:, 0]
    below_mean = highest - logits.mean(-1)
    torch.softmax(logits, dim=-1, out=logits)
    # log Σ exp(o - max o), from the largest probability: that one never underflows.
    total = -logits.gather(-1, best[:, None])[:, 0].log()
    nll = below + total
    return torch.lerp(nll, below_mean + total, smoothing), nll, best == targets


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _differentiate_(
    probabilities: Tensor, targets: Tensor, smoothing: float, factors: Tensor | float
) -> Tensor:
    """Turn probabilities (M, V), in place, into the gradient of Σ factor * loss by the logits."""
    gradient = probabilities.sub_(smoothing / probabilities.shape[-1])
    certain = gradient.new_full((1, 1), smoothing - 1).expand(len(targets), 1)
    return gradient.scatter_add_(-1, targets[:, None], certain).mul_(factors)


class _Smoothed(Function):
    """Loss and its gradient; the probabilities are the only (M, V) tensor kept between them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, ...]:
        probabilities = logits.to(_wide_dtype(logits), copy=True)
        loss, nll, right = _costs_(probabilities, targets, smoothing)
        ctx.save_for_backward(probabilities, targets)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        ctx.mark_non_differentiable(nll, right)
        return loss, nll, right

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets = ctx.saved_tensors
        factors = upstream[0][:, None]
        gradient = _differentiate_(probabilities.clone(), targets, ctx.smoothing, factors)
        return gradient.to(ctx.dtype), None, None


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each symbol's smoothed loss, -log p(y), and whether it would be chosen, (M,) each.

    -(1 - ε) log p(y) - ε/V Σ_v log p(v), Szegedy et al. 2016, section 7; logits (M, V). Only the
    loss has a gradient.
    """
    loss, nll, right = _Smoothed.apply(logits, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss, nll, right


def symbol_losses(logits: Tensor, targets: Tensor, smoothing: float) -> SymbolLosses:
    """Return what targets (M,) cost where logits (M, V) are all there is to it."""
    loss, nll, right = smoothed_cross_entropy(logits, targets, smoothing)
    return SymbolLosses(mean_of(loss), nll, right)


class _Chunk(NamedTuple):
    """Some rows, what they cost, and the tensors (m, V) that the next chunk will use again."""

    rows: slice
    #: Loss, -log p(y) and whether the model would have chosen it, (m,) each.
    costs: tuple[Tensor, Tensor, Tensor]
    logits: Tensor
    probabilities: Tensor


def _chunks(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
) -> Iterator[_Chunk]:
    """Yield chunks of the rows of x (M, E), a single empty one where M is 0."""
    step = max(1, _CHUNK_BYTES // (4 * len(weight)))
    room = x.new_empty(min(step, len(x)), len(weight))
    narrow = room.dtype != _wide_dtype(room)
    wide_room = torch.empty_like(room, dtype=_wide_dtype(room)) if narrow else room
    for start in range(0, max(1, len(x)), step):
        rows = slice(start, start + step)
        some = slice(len(x[rows]))
        logits = product(x[rows], weight, bias, room=room[some])
        wide = wide_room[some].copy_(logits) if narrow else logits
        yield _Chunk(rows, _costs_(wide, targets[rows], smoothing), logits, wide)


class _ReadOut(Function):
    """The mean loss of logits W x + b, chunk by chunk; its gradients are made on the way.

    A loss that is one number has one number upstream: its gradients by x, W and b are known but for
    that factor as soon as the probabilities are, and no logits need be kept, or made again. The
    mean's 1/M is in the gradient of the logits before that is rounded for the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
    ) -> tuple[Tensor, ...]:
        x, w, b = _cast(features, weight, bias)
        by_x, by_w, by_b = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        found, room = [], torch.empty_like(w)
        with torch.autocast(x.device.type, enabled=False):
            for rows, costs, logits, probabilities in _chunks(x, w, b, targets, smoothing):
                found.append(costs)
                gradient = _differentiate_(
                    probabilities, targets[rows], smoothing, 1 / max(1, len(x))
                )
                by_b += gradient.sum(dim=0)
                rounded = logits.copy_(gradient)
                by_w += product(rounded.t(), x[rows].t(), room=room)
                by_x[rows] = product(rounded, w.t())
        loss, nll, right = _joined(found)
        ctx.save_for_backward(by_x, by_w, by_b)
        ctx.mark_non_differentiable(nll, right)
        return mean_of(loss), nll, right

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(upstream[0] * gradient for gradient in ctx.saved_tensors), None, None)


def _cast(features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in the dtype of products; by hand, as autocast keeps what it casts."""
    dtype = product_dtype(features.device, features.dtype)
    return tuple(tensor.to(dtype) for tensor in (features, *others))


def _joined(found: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def readout_losses(
    features: Tensor, output: nn.Linear, targets: Tensor, smoothing: float
) -> SymbolLosses:
    """Return what `symbol_losses` does of the logits that `output` gives for features (M, E).

    The logits are never whole in memory. The sum over chunks that is the weight's gradient is in
    the weight's own dtype, whatever that of the products.
    """
    if torch.is_grad_enabled():
        read_out: Any = _ReadOut.apply
        return SymbolLosses(*read_out(features, output.weight, output.bias, targets, smoothing))
    x, weight, bias = _cast(features, output.weight, output.bias)
    with torch.autocast(x.device.type, enabled=False):
        chunks = _chunks(x, weight, bias, targets, smoothing)
        loss, nll, right = _joined([chunk.costs for chunk in chunks])
    return SymbolLosses(mean_of(loss), nll, right)


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
