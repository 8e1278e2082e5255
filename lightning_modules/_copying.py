"""Words taken from the input: the pointer-generator of See, Liu & Manning 2017, section 2.2.

    p(v) = p_gen P(v) + (1 - p_gen) Σ_{j: x_j = v} α_ij,  P = softmax(logits),

after the copying of Gu, Lu, Li & Li 2016. All of it is computed from log-probabilities, and only
symbols that the input holds gain anything over log p_gen + log P(v): so the loss reads those off
the logits, chunk by chunk, and never has p of all symbols.

Shapes: B sentences, N = B * k rows, M symbols to be written, m those of a chunk, S source
positions, U different symbols of an input at most, V symbols.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._losses import Cost, Costs, Gradients, Picked, log_probabilities, pick_


@dataclass(frozen=True)
class Sources:
    """Say which symbols each input of a batch holds, and where."""

    #: The different symbols of each input, (B, U); 0 where there are fewer.
    symbols: Tensor
    #: Which of them stands at each position, (B, S).
    places: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> "Sources":
        """Find the different symbols of inputs (B, S)."""
        ordered, order = inputs.sort(dim=1)
        changes = F.pad((ordered.diff(dim=1) != 0).long(), (1, 0)).cumsum(dim=1)
        symbols = inputs.new_zeros(len(inputs), int(changes.max()) + 1)
        return cls(
            symbols.scatter(1, changes, ordered), torch.empty_like(order).scatter(1, order, changes)
        )

    def rows(self, index: Tensor) -> "Sources":
        """Return what some of the inputs hold."""
        return Sources(self.symbols[index], self.places[index])

    def shares(self, weights: Tensor) -> Tensor:
        """Return how much of α_ij (B, k, S) stands on each symbol, (B, k, U)."""
        empty = weights.new_zeros(*weights.shape[:2], self.symbols.shape[1])
        return empty.scatter_add(2, self.places[:, None].expand_as(weights), weights)


@dataclass(frozen=True)
class Mixture:
    """Hold what M symbols are written from beside the logits of the vocabulary, (M, V)."""

    #: The logit of p_gen, (M,) in float32 or wider.
    gate: Tensor
    #: The different symbols of each one's input, (M, U), and the attention on them, (M, U).
    symbols: Tensor
    shares: Tensor

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return log p(v), (M, V), in float32 or wider."""
        generated = log_probabilities(logits) + F.logsigmoid(self.gate)[:, None]
        at = generated.gather(1, self.symbols)
        return generated.scatter_add(1, self.symbols, _gain(self.gate, at, self.shares))

    def cost(self, targets: Tensor, smoothing: float) -> Cost:
        """Return -(1 - ε) log p(y) - ε/V Σ_v log p(v) of targets y (M,), for logits to come.

        Smoothing is that of `smoothed_cross_entropy`, of p itself: the gate has its part in it.
        """
        return _MixtureCost(self, targets, smoothing)


class _MixtureCost(Cost):
    def __init__(self, mixture: Mixture, targets: Tensor, smoothing: float) -> None:
        self._symbols, self._targets, self._smoothing = mixture.symbols, targets, smoothing
        self.parameters = mixture.gate, mixture.shares

    def of(self, logits: Tensor, rows: slice) -> Costs:
        """Read off what it takes, and mix."""
        picked = pick_(logits, self._asked(rows))
        gate, shares = (each[rows] for each in self.parameters)
        return self._mixed(picked, gate, shares, rows, logits.shape[1])

    def with_gradients(self, logits: Tensor, rows: slice) -> tuple[Costs, Gradients]:
        """Let autograd go back over the mixing, (m, U) numbers, and go on to the logits by hand."""
        picked = pick_(logits, asked := self._asked(rows))
        given = picked.asked, picked.mean, *(each[rows] for each in self.parameters)
        leaves = [each.detach().requires_grad_() for each in given]
        with torch.enable_grad():
            at, mean, gate, shares = leaves
            mixed = picked._replace(asked=at, mean=mean)
            loss, nll, right = self._mixed(mixed, gate, shares, rows, logits.shape[1])
            by_asked, by_mean, *others = torch.autograd.grad(loss.sum(), leaves)
        gradient = logits.mul_(-(by_asked.sum(dim=1) + by_mean)[:, None])
        gradient.add_((by_mean / logits.shape[1])[:, None]).scatter_add_(1, asked, by_asked)
        return (loss.detach(), nll.detach(), right), (gradient, *others)

    def _asked(self, rows: slice) -> Tensor:
        return torch.cat([self._targets[rows, None], self._symbols[rows]], dim=1)

    def _mixed(
        self, picked: Picked, gate: Tensor, shares: Tensor, rows: slice, vocabulary: int
    ) -> Costs:
        symbols, targets, written = self._symbols[rows], self._targets[rows], F.logsigmoid(gate)
        at_target, at = (picked.asked + written[:, None]).tensor_split([1], dim=1)
        share = shares.where(symbols == targets[:, None], 0).sum(dim=1, keepdim=True)
        nll = -(at_target + _gain(gate, at_target, share)).squeeze(1)
        gains = _gain(gate, at, shares)
        everywhere = -(picked.mean + written + gains.sum(dim=1) / vocabulary)
        top, place = (at + gains).detach().max(dim=1)
        copied = symbols.gather(1, place[:, None]).squeeze(1)
        chosen = torch.where(picked.highest + written.detach() > top, picked.best, copied)
        return torch.lerp(nll, everywhere, self._smoothing), nll, chosen == targets


def _gain(gate: Tensor, generated: Tensor, shares: Tensor) -> Tensor:
    """Return log(1 + (1 - p_gen) share / exp(generated)), (M, n): what copying adds."""
    held = shares > 0
    copied = F.logsigmoid(-gate)[:, None] + shares.where(held, 1).log()
    gain = torch.logaddexp(copied - generated, torch.zeros_like(generated))
    return gain.where(held, 0)
