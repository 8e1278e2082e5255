"""The step that attends, and the loop over it.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching), S source positions, T target positions, C width of an annotation h_j, A width of a key,
H hidden units, G*H a cell's drive, W a cell's state.

Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate", with its names:

    e_ij = a(s_{i-1}, h_j),  α_ij = softmax_j(e_ij),
    c_i = Σ_j α_ij h_j,      s_i = f(s_{i-1}, y_{i-1}, c_i).

What does not depend on s_{i-1} is computed before the loop: the keys (what `a` sees of h_j) once a
sentence, W_y y + b of all steps in one product. `scan` is the plain loop that autograd
differentiates: the reference for any faster one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._cells import Cell, Move


@dataclass(frozen=True)
class Memory:
    """Hold what is attended to, computed once a sentence."""

    #: Annotations h_j, (B, S, C), in the dtype of the products.
    values: Tensor
    #: What the score sees of them, (B, S, A), in the dtype of the products.
    keys: Tensor
    #: 0 at a symbol, -inf at padding, (B, S) float32 or wider.
    bias: Tensor

    def rows(self, index: Tensor) -> "Memory":
        """Return the memory of some of the sentences."""
        return Memory(self.values[index], self.keys[index], self.bias[index])


def padding_bias(lengths: Tensor, positions: int, dtype: torch.dtype) -> Tensor:
    """Return (B, positions): 0 where a symbol is, -inf behind each length."""
    padding = torch.arange(positions, device=lengths.device) >= lengths[:, None]
    return torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill_(
        padding, float("-inf")
    )


def product_dtype(device: torch.device, default: torch.dtype) -> torch.dtype:
    """Return the dtype of matrix products: autocast's where it is on."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return default


#: e = energies(visible state (N, H)) -> (B, k, S); each row may be off by a constant (softmax).
Energies = Callable[[Tensor], Tensor]


class Score(nn.Module, ABC):
    """Hold the weights of a(s_{i-1}, h_j)."""

    @abstractmethod
    def keys(self, values: Tensor) -> Tensor:
        """Return what the score sees of the annotations, (B, S, C) -> (B, S, A)."""

    @abstractmethod
    def bind(self, keys: Tensor) -> Energies:
        """Return the energies against these keys, weights cast to their dtype once."""


class AdditiveScore(Score):
    """a(s, h) = v · tanh(W s + U h + b), Bahdanau et al. 2015, appendix A.1.2.

    tanh(x) = 2σ(2x) - 1, and the softmax does not see the constant -Σv, so the energies are
    computed as 2v · σ(2(W s + U h + b)): the same α, and σ takes a fifth of tanh's time on CPUs.
    """

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, size, bias=False)
        self.key = nn.Linear(value_size, size)
        self.vector = nn.Parameter(torch.empty(size))
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.zeros_(self.key.bias)
        nn.init.uniform_(self.vector, -(size**-0.5), size**-0.5)

    def keys(self, values: Tensor) -> Tensor:
        """Return 2(U h + b)."""
        return F.linear(values, 2 * self.key.weight, 2 * self.key.bias)

    def bind(self, keys: Tensor) -> Energies:
        """Return 2v · σ(2 W s + keys)."""
        weight, vector = (2 * self.query.weight).to(keys.dtype), (2 * self.vector).to(keys.dtype)

        def energies(visible: Tensor) -> Tensor:
            query = F.linear(visible.to(weight.dtype), weight)
            query = query.view(keys.shape[0], -1, 1, keys.shape[2])  # (B, k, 1, A)
            return F.linear(torch.sigmoid(query + keys[:, None]), vector[None]).squeeze(-1)

        return energies


@dataclass(frozen=True)
class Parts:
    """Hold one step's functions, their weights cast, bound to the memory of one batch."""

    energies: Energies
    move: Move
    visible: Callable[[Tensor], Tensor]
    order: "Order"
    #: W_c, by which the context enters the cell, (G*H, C).
    weight: Tensor
    memory: Memory

    def attend(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return context (N, C) and weights (N, S) for the visible part of a state (N, W)."""
        bias, values = self.memory.bias, self.memory.values
        energies = self.energies(self.visible(state)).to(bias.dtype)  # (B, k, S)
        weights = torch.softmax(energies + bias[:, None], dim=-1)
        context = torch.bmm(weights.to(values.dtype), values)  # (B, k, C)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def step(self, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s_i (N, W), c_i (N, C), α_i (N, S) from W_y y_{i-1} + b (N, G*H) and s_{i-1}."""
        return self.order.step(self, drive, state)


class Order(nn.Module, ABC):
    """Say which state attends, and hold the weights by which the context enters the cell."""

    def __init__(self, value_size: int, drive_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(drive_size, value_size))
        nn.init.xavier_uniform_(self.weight)

    @abstractmethod
    def step(self, parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `Parts.step` says, in this order."""


class AttendWithPrevious(Order):
    """Attend with s_{i-1}, then move: c_i is part of what makes s_i (Bahdanau et al. 2015)."""

    def step(self, parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s_i, c_i, α_i."""
        context, weights = parts.attend(state)
        drive = torch.addmm(drive, context, parts.weight.t())  # + W_c c_i
        return parts.move(drive, state), context, weights


def bind(cell: Cell, score: Score, order: Order, memory: Memory) -> Parts:
    """Cast all weights of the step to the dtype of the memory, once a batch."""
    dtype = memory.values.dtype
    with torch.autocast(memory.values.device.type, enabled=False):
        return Parts(
            energies=score.bind(memory.keys),
            move=cell.bind(dtype),
            visible=cell.visible,
            order=order,
            weight=order.weight.to(dtype),
            memory=memory,
        )


def remember(score: Score, values: Tensor, lengths: Tensor) -> Memory:
    """Project the keys of annotations (B, S, C) and mask their padding."""
    dtype = product_dtype(values.device, values.dtype)
    wide = torch.promote_types(values.dtype, torch.float32)
    return Memory(
        values=values.to(dtype),
        keys=score.keys(values).to(dtype),
        bias=padding_bias(lengths, values.shape[1], wide),
    )


@dataclass(frozen=True)
class Scanned:
    """Hold what the loop leaves for the readout."""

    #: Visible states s_i, (B, T, H).
    states: Tensor
    #: Contexts c_i, (B, T, C).
    contexts: Tensor
    #: α_ij, (B, T, S).
    weights: Tensor


def scan(
    cell: Cell, score: Score, order: Order, *, memory: Memory, drives: Tensor, state: Tensor
) -> Scanned:
    """Run the step that attends over all target positions.

    drives (B, T, G*H) is W_y y_{i-1} + b, state (B, W) is s_0.
    """
    states, contexts, weights = [], [], []
    parts = bind(cell, score, order, memory)  # everything is cast here, once
    with torch.autocast(drives.device.type, enabled=False):
        for drive in drives.to(memory.values.dtype).transpose(0, 1).contiguous():
            state, context, weight = parts.step(drive, state)
            states.append(cell.visible(state))
            contexts.append(context)
            weights.append(weight)
    return Scanned(
        torch.stack(states, dim=1), torch.stack(contexts, dim=1), torch.stack(weights, dim=1)
    )


def keep_rows(parts: Parts, score: Score, index: Tensor) -> Parts:
    """Return the parts for some of the sentences: those that left the search cost no more."""
    memory = parts.memory.rows(index)
    with torch.autocast(memory.keys.device.type, enabled=False):
        return replace(parts, memory=memory, energies=score.bind(memory.keys))
