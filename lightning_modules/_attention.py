"""The step that attends, and the loop over it.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching), S source positions, T target positions, C width of an annotation h_j, A width of a key,
H hidden units, G*H a cell's drive, W a cell's state.

Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate", with its names:

    e_ij = a(s_{i-1}, h_j),  α_ij = softmax_j(e_ij),
    c_i = Σ_j α_ij h_j,      s_i = f(s_{i-1}, y_{i-1}, c_i).

An `Order` may attend with s_i instead, and a `Score` (`_scores.py`) is any a.
What does not depend on s_{i-1} is computed before the loop: the keys (what `a` sees of h_j) once a
sentence, W_y y + b of all steps in one product. `scan` is the plain loop that autograd
differentiates: the reference for any faster one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._cells import Cell, Move, product_dtype
from lightning_modules._errors import ModelError
from lightning_modules._scores import Energies, Score


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


@dataclass(frozen=True)
class Parts:
    """Hold one step's functions, their weights cast, bound to the memory of one batch.

    A state of the loop is the cell's, what the order feeds to the next step, and the α_ij of the
    step before for a score that looks back, side by side: (N, W + fed + looked).
    """

    energies: Energies
    move: Move
    visible: Callable[[Tensor], Tensor]
    advance: "Advance"
    #: Columns of the three parts of a state; S is known by the memory alone.
    width: int
    fed: int
    looks_back: bool
    memory: Memory

    def start(self, state: Tensor) -> Tensor:
        """Return the state of the loop before its first step, for the cell's s_0 (B, W).

        Nothing was fed, and attention stood on the first position.
        """
        fed = state.new_zeros(len(state), self.fed)
        looked = state.new_zeros(len(state), self._looked)
        looked[:, :1] = 1.0
        return self.join(state, fed, looked)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three parts of a state of the loop."""
        if state.shape[1] == self.width:  # nothing but the cell's: spare the loop two views
            nothing = state.new_empty(len(state), 0)
            return state, nothing, nothing
        own, fed, looked = state.split_with_sizes([self.width, self.fed, self._looked], dim=1)
        return own, fed, looked

    def join(self, own: Tensor, fed: Tensor, looked: Tensor) -> Tensor:
        """Return the state of the loop with these parts, as far as it has them."""
        parts = [own]
        if self.fed:
            parts.append(fed.to(own.dtype))
        if self.looks_back:
            parts.append(looked.to(own.dtype))
        return torch.cat(parts, dim=1) if len(parts) > 1 else own

    @property
    def _looked(self) -> int:
        return self.memory.keys.shape[1] if self.looks_back else 0

    def attend(self, state: Tensor, looked: Tensor) -> tuple[Tensor, Tensor]:
        """Return context (N, C) and weights (N, S) for a cell's state (N, W) and α_{i-1}."""
        bias, values = self.memory.bias, self.memory.values
        energies = self.energies(self.visible(state), looked).to(bias.dtype)  # (B, k, S)
        weights = torch.softmax(energies + bias[:, None], dim=-1)
        context = torch.bmm(weights.to(values.dtype), values)  # (B, k, C)
        return context.flatten(0, 1), weights.flatten(0, 1)

    def step(self, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, c_i (N, C), α_i (N, S) from W_y y_{i-1} + b (N, G*H)."""
        return self.advance(self, drive, state)


#: Do what `Parts.step` says: state, context, weights = advance(parts, drive, state).
Advance = Callable[[Parts, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
OrderName = Literal["before", "after"]


class Order(nn.Module, ABC):
    """Say which state attends, and hold the weights by which the context enters the cell."""

    #: Columns that a step leaves for the next one.
    fed: int = 0

    @abstractmethod
    def bind(self, dtype: torch.dtype) -> Advance:
        """Return the step, its weights cast to `dtype` once."""


class AttendWithPrevious(Order):
    """Attend with s_{i-1}, then move: c_i is part of what makes s_i (Bahdanau et al. 2015)."""

    def __init__(self, value_size: int, drive_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(drive_size, value_size))
        nn.init.xavier_uniform_(self.weight)

    def bind(self, dtype: torch.dtype) -> Advance:
        """Return: c_i from s_{i-1}, then s_i = f(s_{i-1}, y_{i-1}, c_i)."""
        weight = self.weight.to(dtype)

        def advance(parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, fed, looked = parts.split(state)
            context, weights = parts.attend(own, looked)
            drive = torch.addmm(drive, context, weight.t())  # + W_c c_i
            return parts.join(parts.move(drive, own), fed, weights), context, weights

        return advance


class AttendWithNew(Order):
    """Move, then attend with s_i; what that gives is fed to the next step.

    Luong, Pham & Manning 2015, "Effective approaches to attention-based neural machine
    translation", equation 5 and section 3.3 (input feeding):

        s_i = f(s_{i-1}, y_{i-1}, v_{i-1}),  e_ij = a(s_i, h_j),  v_i = tanh(W_v [c_i; s_i] + b_v),

    their h̃_i being v_i here, v_0 = 0.
    """

    def __init__(self, value_size: int, drive_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fed = hidden_size
        self.weight = nn.Parameter(torch.empty(drive_size, hidden_size))
        self.combine = nn.Linear(value_size + hidden_size, hidden_size)
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.combine.weight)
        nn.init.zeros_(self.combine.bias)

    def bind(self, dtype: torch.dtype) -> Advance:
        """Return: s_i from v_{i-1}, then c_i from s_i, then v_i."""
        weight = self.weight.to(dtype)
        combine, bias = self.combine.weight.to(dtype), self.combine.bias.to(dtype)

        def advance(parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, fed, looked = parts.split(state)
            own = parts.move(torch.addmm(drive, fed.to(dtype), weight.t()), own)  # + W_f v_{i-1}
            context, weights = parts.attend(own, looked)
            both = torch.cat([context, parts.visible(own).to(dtype)], dim=1)
            fed = torch.tanh(F.linear(both, combine, bias))
            return parts.join(own, fed, weights), context, weights

        return advance


def make_order(name: OrderName, cell: Cell, value_size: int) -> Order:
    """Return the order of this name for a cell that reads contexts (N, C). Raise ModelError."""
    if name == "before":
        return AttendWithPrevious(value_size, cell.drive_size)
    if name == "after":
        return AttendWithNew(value_size, cell.drive_size, cell.hidden_size)
    raise ModelError(f"order is {name!r}; it must be one of {', '.join(get_args(OrderName))}")


def bind(
    cell: Cell, score: Score, order: Order, memory: Memory, mask: Tensor | None = None
) -> Parts:
    """Cast all weights of the step to the dtype of the memory, once a batch.

    The mask (B, H) is what recurrent dropout leaves of the states, at every step.
    """
    dtype = memory.values.dtype
    with torch.autocast(memory.values.device.type, enabled=False):
        return Parts(
            energies=score.bind(memory.keys),
            move=cell.bind_raw(dtype, mask),
            visible=cell.visible,
            advance=order.bind(dtype),
            width=cell.state_size,
            fed=order.fed,
            looks_back=score.looks_back,
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

    drives (B, T, G*H) is W_y y_{i-1} + b, state (B, W) is s_0. With layer norm b is the cell's, and
    LN(W_y y_{i-1} + W_c c_i; γ_x) + b is made in the loop: c_i depends on the state.
    """
    states, contexts, weights = [], [], []
    # Everything is cast and drawn here, once.
    parts = bind(cell, score, order, memory, cell.mask(len(state)))
    state = parts.start(state)
    with torch.autocast(drives.device.type, enabled=False):
        for drive in drives.to(memory.values.dtype).transpose(0, 1).contiguous():
            state, context, weight = parts.step(drive, state)
            states.append(cell.visible(parts.split(state)[0]))
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
