"""Chance, as far as a search uses it: which symbol is drawn, from numbers that a seed decides.

Shapes: N rows, V symbols, L symbols of the longest output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules._errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """Say how symbols are drawn. The default draws from the model's own distribution."""

    #: What log-probabilities are divided by: below 1 the likely gets likelier.
    temperature: float = 1.0
    #: Only this many of the most probable symbols are drawn from; 0 for all (Fan et al. 2018).
    top_k: int = 0
    #: Only the fewest most probable symbols that have this share together are drawn from: the
    #: nucleus of Holtzman et al. 2020. Applied after `top_k`.
    top_p: float = 1.0
    #: Decides every draw, together with the row of the input and the number of the sample.
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not self.temperature > 0:
            raise ModelError(f"temperature is {self.temperature}; it must be above 0")
        if self.top_k < 0 or self.seed < 0:
            raise ModelError("top_k and seed must not be negative")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p is {self.top_p}; it must lie above 0 and be at most 1")

    def chances(self, rows: Sequence[tuple[int, int]], length: int) -> Tensor:
        """Return numbers in [0, 1), float64 (N, length), each row's from (seed, its two numbers).

        What is drawn for an input therefore does not depend on the batch it stands in.
        """
        # Rows that count for nothing are numbered -1; a seed must not be negative.
        drawn = [
            np.random.default_rng([self.seed, *(number % 2**32 for number in row)]).random(length)
            for row in rows
        ]
        return torch.from_numpy(np.stack(drawn))

    def probabilities(self, log_probs: Tensor) -> Tensor:
        """Return what is drawn from, float64 (N, V), for log-probabilities (N, V)."""
        scaled = torch.log_softmax(log_probs.double() / self.temperature, dim=-1)
        if 0 < self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, float("-inf"))
        probabilities = torch.softmax(scaled, dim=-1)
        if self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            before = ordered.cumsum(dim=-1) - ordered
            kept = ordered.masked_fill(before >= self.top_p, 0.0)
            probabilities = torch.zeros_like(ordered).scatter(-1, order, kept)
        return probabilities / probabilities.sum(dim=-1, keepdim=True)

    def draw(self, log_probs: Tensor, chances: Tensor) -> Tensor:
        """Return a symbol for each row of log-probabilities (N, V), by its chance (N,)."""
        reached = self.probabilities(log_probs).cumsum(dim=-1)
        whole = reached[:, -1]
        mark = torch.minimum(chances * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        # The first symbol that goes beyond the mark; one without a share never does.
        return torch.searchsorted(reached, mark[:, None], right=True).squeeze(1)
