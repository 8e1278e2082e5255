"""How much of the input an output has looked at: the coverage of Wu et al. 2016, section 7.

Shapes: B sentences, N = B * k rows, S input positions, T target positions, W width of the model's
state, V symbols.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)


def attended_again(weights: Tensor) -> Tensor:
    """Return Σ_j min(α_ij, Σ_{i'<i} α_i'j), (B, T), for weights (B, T, S).

    The coverage loss of See, Liu & Manning 2017, "Get to the point: summarization with
    pointer-generator networks", equation 12: between 0, all is new, and 1.
    """
    covered = F.pad(weights.cumsum(dim=1)[:, :-1], (0, 0, 1, 0))
    return torch.minimum(weights, covered).sum(dim=-1)


@runtime_checkable
class AttendingDecoder(Protocol):
    """A `StepDecoder` that can tell what each step looked at."""

    def start(self) -> Tensor:
        """Return the state before the first symbol, (B, W)."""
        ...

    def attend(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `StepDecoder.step` does; return α_ij of the step (N, S), too."""
        ...

    def present(self) -> Tensor:
        """Say where the inputs have a symbol, bool (B, S)."""
        ...

    def keep(self, index: Tensor) -> Self:
        """Return the decoder of only these sentences (index into B)."""
        ...


@dataclass(frozen=True)
class Covered:
    """The `StepDecoder` whose state carries Σ_i α_ij behind the model's own: (N, W + S)."""

    decoder: AttendingDecoder

    def start(self) -> Tensor:
        """Return the first state; nothing is covered."""
        first, present = self.decoder.start(), self.decoder.present()
        return torch.cat([first, first.new_zeros(present.shape)], dim=1)

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the next symbol, and the state with what was looked at."""
        own, covered = self._split(state)
        log_probs, own, weights = self.decoder.attend(symbols, own)
        return log_probs, torch.cat([own, covered + weights], dim=1)

    def keep(self, index: Tensor) -> "Covered":
        """Return the decoder of only these sentences."""
        return replace(self, decoder=self.decoder.keep(index))

    def coverage(self, state: Tensor) -> Tensor:
        """Return Σ_j log min(Σ_i α_ij, 1) of each row, (N,): 0 where all has been looked at."""
        covered, present = self._split(state)[1], self.decoder.present()
        absent = ~present.repeat_interleave(len(covered) // len(present), dim=0)
        least = torch.finfo(covered.dtype).tiny
        return covered.masked_fill(absent, 1.0).clamp(least, 1.0).log().sum(dim=1)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        positions = self.decoder.present().shape[1]
        own, covered = state.split_with_sizes([state.shape[1] - positions, positions], dim=1)
        return own, covered
