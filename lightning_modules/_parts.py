"""One step that attends, bound to what it attends to.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching, T where all steps attend at once), S source positions, T target positions, C width of an
annotation h_j, A width of a key, H hidden units, G*H a cell's drive, W a cell's state.

The equations are those of `_attention.py`. Search goes step by step through `Parts`, and so does
the plain loop; where no step waits for attention, `Attention` takes the queries of all at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._cells import Move
from lightning_modules._graphs import widened
from lightning_modules._scores import Energies, Past


@dataclass(frozen=True)
class Memory:
    """Hold what is attended to, computed once a sentence."""

    #: Annotations h_j, (B, S, C); bound to a step they are in the dtype of the products.
    values: Tensor
    #: What the score sees of them, (B, S, A), float32 or wider.
    keys: Tensor
    #: 0 at a symbol, -inf at padding, (B, S) float32 or wider.
    bias: Tensor

    def rows(self, index: Tensor) -> "Memory":
        """Return the memory of some of the sentences."""
        return Memory(self.values[index], self.keys[index], self.bias[index])

    def widened(self, rows: int, positions: int) -> "Memory":
        """Return it with room for more sentences and more padding; the sentences are of zeros."""
        padded = widened(self.bias, len(self.bias), positions, fill=float("-inf"))
        return Memory(
            widened(self.values, rows, positions),
            widened(self.keys, rows, positions),
            widened(padded, rows),
        )


def padding_bias(lengths: Tensor, positions: int, dtype: torch.dtype) -> Tensor:
    """Return (B, positions): 0 where a symbol is, -inf behind each length."""
    padding = torch.arange(positions, device=lengths.device) >= lengths[:, None]
    return torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill_(
        padding, float("-inf")
    )


@dataclass(frozen=True)
class Attention:
    """Find in a memory what queries ask for: α_ij = softmax_j(e_ij), c_i = Σ_j α_ij h_j."""

    energies: Energies
    memory: Memory
    #: How a query is made of the one before and what it found, for each further look.
    again: "tuple[LookAgain, ...]" = ()

    def __call__(self, query: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """Return context (N, C) and weights (N, S) of the last look for queries (N, H)."""
        context, weights = self._look(query, past)
        for look_again in self.again:
            query = look_again(query, context)
            context, weights = self._look(query, past)
        return context, weights

    def _look(self, query: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        bias, values = self.memory.bias, self.memory.values
        energies = self.energies(query, past).to(bias.dtype)  # (B, k, S)
        weights = torch.softmax(energies + bias[:, None], dim=-1)
        context = torch.bmm(weights.to(values.dtype), values)  # (B, k, C)
        return context.flatten(0, 1), weights.flatten(0, 1)


@dataclass(frozen=True)
class Parts:
    """Hold one step's functions, their weights cast, bound to the memory of one batch.

    A state of the loop is the cell's, what the order feeds to the next step, the α_ij of the step
    before for a score that looks back, and their sum so far for one that knows of coverage, side by
    side: (N, W + fed + newest + covered).
    """

    attention: Attention
    move: Move
    visible: Callable[[Tensor], Tensor]
    advance: "Advance"
    #: Columns of the three parts of a state; S is known by the memory alone.
    width: int
    fed: int
    looks_back: bool
    covers: bool

    @property
    def memory(self) -> Memory:
        """What is attended to."""
        return self.attention.memory

    def start(self, state: Tensor) -> Tensor:
        """Return the state of the loop before its first step, for the cell's s_0 (B, W).

        Nothing was fed, attention stood on the first position, and nothing is covered.
        """
        sizes = self._sizes
        first = F.pad(state, (0, sum(sizes[1:])))
        if self.looks_back:
            first[:, sum(sizes[:2])] = 1.0
        return first

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Past]:
        """Return the parts of a state of the loop: the cell's, what was fed, what was seen."""
        if state.shape[1] == self.width:  # nothing but the cell's: spare the loop the views
            nothing = state.new_empty(len(state), 0)
            return state, nothing, Past(nothing, nothing)
        own, fed, newest, covered = state.split_with_sizes(self._sizes, dim=1)
        return own, fed, Past(newest, covered)

    def join(self, own: Tensor, fed: Tensor, past: Past, weights: Tensor) -> Tensor:
        """Return the state of the loop after a step with these weights, as far as it has parts."""
        parts = [own]
        if self.fed:
            parts.append(fed.to(own.dtype))
        if self.looks_back:
            parts.append(weights.to(own.dtype))
        if self.covers:
            parts.append((past.covered + weights).to(own.dtype))
        return torch.cat(parts, dim=1) if len(parts) > 1 else own

    @property
    def _sizes(self) -> list[int]:
        positions = self.memory.keys.shape[1]
        return [self.width, self.fed, positions * self.looks_back, positions * self.covers]

    def attend(self, state: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """Return context (N, C) and weights (N, S) for a cell's state (N, W)."""
        return self.attention(self.visible(state), past)

    def step(self, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, c_i (N, C), α_i (N, S) from W_y y_{i-1} + b (N, G*H)."""
        return self.advance(self, drive, state)


#: The next query (N, H) of one step = look again(query (N, H), its context (N, C)).
LookAgain = Callable[[Tensor, Tensor], Tensor]
#: Do what `Parts.step` says: state, context, weights = advance(parts, drive, state).
Advance = Callable[[Parts, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
