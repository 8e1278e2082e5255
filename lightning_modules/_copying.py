"""Words taken from the input: the pointer-generator of See, Liu & Manning 2017, section 2.2.

    p(v) = p_gen P(v) + (1 - p_gen) Σ_{j: x_j = v} α_ij,  P = softmax(logits),

after the copying of Gu, Lu, Li & Li 2016. All of it is computed from log-probabilities, and the
loss without a second tensor of (M, V): only symbols that the input holds gain anything over
log p_gen + log P(v).

Shapes: B sentences, N = B * k rows, M symbols to be written, S source positions, U different
symbols of an input at most, V symbols.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._losses import (
    SymbolLosses,
    log_probabilities,
    mean_of,
    picked_log_probabilities,
)


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
    """Hold what M symbols are written from."""

    #: Of the vocabulary, (M, V).
    logits: Tensor
    #: The logit of p_gen, (M,) in float32 or wider.
    gate: Tensor
    #: The different symbols of each one's input, (M, U), and the attention on them, (M, U).
    symbols: Tensor
    shares: Tensor

    def log_probabilities(self) -> Tensor:
        """Return log p(v), (M, V), in float32 or wider."""
        generated = log_probabilities(self.logits) + F.logsigmoid(self.gate)[:, None]
        at = generated.gather(1, self.symbols)
        return generated.scatter_add(1, self.symbols, self._gain(at, self.shares))

    def losses(self, targets: Tensor, smoothing: float) -> SymbolLosses:
        """Return -(1 - ε) log p(y) - ε/V Σ_v log p(v) of targets y (M,), and what it is made of.

        Smoothing is that of `smoothed_cross_entropy`, of p itself: the gate has its part in it.
        """
        best = self.logits.detach().max(dim=-1).indices
        index = torch.cat([targets[:, None], best[:, None], self.symbols], dim=1)
        picked, mean = picked_log_probabilities(self.logits, index)
        gate = F.logsigmoid(self.gate)
        generated = picked + gate[:, None]
        at_target, at_best, at = generated.tensor_split([1, 2], dim=1)
        share = self.shares.where(self.symbols == targets[:, None], 0).sum(dim=1, keepdim=True)
        nll = -(at_target + self._gain(at_target, share)).squeeze(1)
        gains = self._gain(at, self.shares)
        everywhere = -(mean + gate + gains.sum(dim=1) / self.logits.shape[1])
        top, place = (at + gains).detach().max(dim=1)
        copied = self.symbols.gather(1, place[:, None]).squeeze(1)
        chosen = torch.where(at_best.detach().squeeze(1) > top, best, copied)
        loss = torch.lerp(nll, everywhere, smoothing)
        return SymbolLosses(mean_of(loss), nll.detach(), chosen == targets)

    def _gain(self, generated: Tensor, shares: Tensor) -> Tensor:
        """Return log(1 + (1 - p_gen) share / exp(generated)), (M, n): what copying adds."""
        held = shares > 0
        copied = F.logsigmoid(-self.gate)[:, None] + shares.where(held, 1).log()
        gain = torch.logaddexp(copied - generated, torch.zeros_like(generated))
        return gain.where(held, 0)
