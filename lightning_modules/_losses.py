"""Cross-entropy with label smoothing, in float32 whatever the logits are.

Shapes: M symbols that count (no padding), m those of a chunk, E width of a feature, V size of the
vocabulary.
"""

from abc import ABC, abstractmethod
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


class Picked(NamedTuple):
    """What is read off the logits of M symbols, K of each and more, in float32 or wider."""

    #: The log-probabilities of the symbols that were asked for, (M, K).
    asked: Tensor
    #: (1/V) Σ_v log p(v), (M,).
    mean: Tensor
    #: The likeliest symbol, (M,), and its log-probability.
    best: Tensor
    highest: Tensor


def pick_(logits: Tensor, index: Tensor) -> Picked:
    """Read off what index (M, K) asks for; turn logits (M, V), in place, into probabilities."""
    highest, best = first_largest(logits)
    above, above_mean = logits.gather(-1, index), logits.mean(-1)
    torch.softmax(logits, dim=-1, out=logits)
    # log Σ exp(o - max o), from the largest probability: that one never underflows.
    top = logits.gather(-1, best[:, None])[:, 0].log()
    asked = above.sub_(highest[:, None]).add_(top[:, None])
    return Picked(asked, above_mean - highest + top, best, top)


def _costs_(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, -log p(y) and rightness (M,); turn logits, in place, into the probabilities.

    They are in float32 or wider.
    """
    picked = pick_(logits, targets[:, None])
    nll = -picked.asked[:, 0]
    return torch.lerp(nll, -picked.mean, smoothing), nll, picked.best == targets


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _differentiate_(probabilities: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Turn probabilities (M, V), in place, into the gradient of Σ loss by the logits."""
    gradient = probabilities.sub_(smoothing / probabilities.shape[-1])
    certain = gradient.new_full((1, 1), smoothing - 1).expand(len(targets), 1)
    return gradient.scatter_add_(-1, targets[:, None], certain)


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
        gradient = _differentiate_(probabilities.clone(), targets, ctx.smoothing)
        return gradient.mul_(upstream[0][:, None]).to(ctx.dtype), None, None


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


#: Loss, -log p(y) and whether the model would have chosen it, (m,) each.
Costs = tuple[Tensor, Tensor, Tensor]
#: By the logits (m, V), and by each parameter of a cost.
Gradients = tuple[Tensor, ...]


class Cost(ABC):
    """What symbols cost whose logits come in chunks, m rows of them at a time.

    Logits are in float32 or wider, and may be overwritten.
    """

    #: What has a gradient beside the logits, a row for each symbol, (M, ...).
    parameters: tuple[Tensor, ...] = ()

    @abstractmethod
    def of(self, logits: Tensor, rows: slice) -> Costs:
        """Return what the symbols of these rows cost."""

    @abstractmethod
    def with_gradients(self, logits: Tensor, rows: slice) -> tuple[Costs, Gradients]:
        """Return the same, and the gradients of Σ loss; those by the logits in place."""


class _SmoothedCost(Cost):
    """What `smoothed_cross_entropy` is."""

    def __init__(self, targets: Tensor, smoothing: float) -> None:
        self._targets, self._smoothing = targets, smoothing

    def of(self, logits: Tensor, rows: slice) -> Costs:
        """Leave the probabilities where the logits were."""
        return _costs_(logits, self._targets[rows], self._smoothing)

    def with_gradients(self, logits: Tensor, rows: slice) -> tuple[Costs, Gradients]:
        """Make them of the probabilities."""
        costs = self.of(logits, rows)
        return costs, (_differentiate_(logits, self._targets[rows], self._smoothing),)


class _Chunk(NamedTuple):
    """Some rows, and tensors (m, V) that the next chunk will use again."""

    rows: slice
    #: In the dtype of the products.
    logits: Tensor
    #: In float32 or wider: the same tensor where products are.
    wide: Tensor


def _chunks(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[_Chunk]:
    """Yield chunks of the rows of x (M, E), a single empty one where M is 0."""
    step = max(1, _CHUNK_BYTES // (4 * len(weight)))
    room = x.new_empty(min(step, len(x)), len(weight))
    narrow = room.dtype != _wide_dtype(room)
    wide_room = torch.empty_like(room, dtype=_wide_dtype(room)) if narrow else room
    for start in range(0, max(1, len(x)), step):
        rows = slice(start, start + step)
        some = slice(len(x[rows]))
        logits = product(x[rows], weight, bias, room=room[some])
        yield _Chunk(rows, logits, wide_room[some].copy_(logits) if narrow else logits)


class _ReadOut(Function):
    """The mean loss of logits W x + b, chunk by chunk; its gradients are made on the way.

    A loss that is one number has one number upstream: its gradients are known but for that factor
    and the mean's 1/M as soon as the probabilities are, and no logits need be kept, or made again.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Cost, features: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        x, w, b = _cast(features, weight, bias)
        by_x, by_b = torch.empty_like(x), torch.zeros_like(bias)
        by_parameters = [torch.empty_like(each) for each in parameters]
        by_w = room = None
        found = []
        with torch.autocast(x.device.type, enabled=False):
            for rows, logits, wide in _chunks(x, w, b):
                costs, (gradient, *others) = cost.with_gradients(wide, rows)
                found.append(costs)
                by_b += gradient.sum(dim=0)
                rounded = logits.copy_(gradient)
                more = product(rounded.t(), x[rows].t(), room=room)
                if by_w is None:  # most batches are one chunk
                    by_w, room = more.to(weight.dtype), torch.empty_like(w)
                else:
                    by_w += more
                by_x[rows] = product(rounded, w.t())
                for of_all, of_rows in zip(by_parameters, others, strict=True):
                    of_all[rows] = of_rows
        loss, nll, right = _joined(found)
        ctx.save_for_backward(by_x, by_w, by_b, *by_parameters)
        ctx.share = 1 / max(1, len(x))
        ctx.mark_non_differentiable(nll, right)
        return mean_of(loss), nll, right

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor = upstream[0] * ctx.share
        return (None, *(factor * gradient for gradient in ctx.saved_tensors))


def _cast(features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in the dtype of products; by hand, as autocast keeps what it casts."""
    dtype = product_dtype(features.device, features.dtype)
    return tuple(tensor.to(dtype) for tensor in (features, *others))


def _joined(found: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def read_out(features: Tensor, output: nn.Linear, cost: Cost) -> SymbolLosses:
    """Return what symbols cost by the logits that `output` gives for features (M, E).

    The logits are never whole in memory. The sum over chunks that is the weight's gradient is in
    the weight's own dtype, whatever that of the products.
    """
    if torch.is_grad_enabled():
        run: Any = _ReadOut.apply
        return SymbolLosses(*run(cost, features, output.weight, output.bias, *cost.parameters))
    x, weight, bias = _cast(features, output.weight, output.bias)
    with torch.autocast(x.device.type, enabled=False):
        chunks = _chunks(x, weight, bias)
        loss, nll, right = _joined([cost.of(chunk.wide, chunk.rows) for chunk in chunks])
    return SymbolLosses(mean_of(loss), nll, right)


def readout_losses(
    features: Tensor, output: nn.Linear, targets: Tensor, smoothing: float
) -> SymbolLosses:
    """Return what `symbol_losses` does of the logits that `output` gives for features (M, E)."""
    return read_out(features, output, _SmoothedCost(targets, smoothing))
