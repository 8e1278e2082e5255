"""The step that attends, and the loop over it.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching), S source positions, T target positions, C width of an annotation h_j, A width of a key,
H hidden units, G*H a cell's drive, W a cell's state.

Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate", with its names:

    e_ij = a(s_{i-1}, h_j),  α_ij = softmax_j(e_ij),
    c_i = Σ_j α_ij h_j,      s_i = f(s_{i-1}, y_{i-1}, c_i).

An `Order` may attend with s_i instead, and feed the next step or not; it may look more than once
(`Hops`). A `Score` (`_scores.py`) is any a.
What does not depend on s_{i-1} is computed before the loop: the keys (what `a` sees of h_j) once a
sentence, W_y y + b of all steps in one product. `scan` runs a loop with a backward by hand
(`_scan.py`) where it can; `plain_scan`, which autograd differentiates, is its reference.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._cells import Cell, Move, product_dtype
from lightning_modules._errors import ModelError
from lightning_modules._recurrence import Chain, Recurrence
from lightning_modules._scan import Attended, Look, LookBack, ScanAfter, ScanBefore
from lightning_modules._scores import Energies, Past, Score
from lightning_modules._steps import Product


@dataclass(frozen=True)
class Memory:
    """Hold what is attended to, computed once a sentence."""

    #: Annotations h_j, (B, S, C); bound to a step they are in the dtype of the products.
    values: Tensor
    #: What the score sees of them, (B, S, A), likewise.
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

    A state of the loop is the cell's, what the order feeds to the next step, the α_ij of the step
    before for a score that looks back, and their sum so far for one that knows of coverage, side by
    side: (N, W + fed + newest + covered).
    """

    energies: Energies
    move: Move
    visible: Callable[[Tensor], Tensor]
    advance: "Advance"
    #: Columns of the three parts of a state; S is known by the memory alone.
    width: int
    fed: int
    looks_back: bool
    covers: bool
    memory: Memory
    #: How a query is made of the one before and what it found, for each further look.
    again: "tuple[LookAgain, ...]" = ()

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
        """Return context (N, C) and weights (N, S) of the last look for a cell's state (N, W)."""
        query = self.visible(state)
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

    def step(self, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state, c_i (N, C), α_i (N, S) from W_y y_{i-1} + b (N, G*H)."""
        return self.advance(self, drive, state)


#: The next query (N, H) of one step = look again(query (N, H), its context (N, C)).
LookAgain = Callable[[Tensor, Tensor], Tensor]
#: Do what `Parts.step` says: state, context, weights = advance(parts, drive, state).
Advance = Callable[[Parts, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
OrderName = Literal["before", "after", "unfed"]


class Hops(nn.Module):
    """Look at the annotations several times in one step, each time knowing what was found before.

    Sukhbaatar, Szlam, Weston & Fergus 2015, "End-to-end memory networks", section 2.2, with one map
    for all looks and the memory unchanged between them (Kumar et al. 2016, "Ask me anything", have
    a gated unit in place of the sum): q_1 is the state that attends, and for r = 1 ... R

        e_rj = a(q_r, h_j),  α_r = softmax(e_r),  c_r = Σ_j α_rj h_j,  q_{r+1} = q_r + W_q c_r.

    The step goes on with c_R and α_R.
    """

    def __init__(self, looks: int, value_size: int, query_size: int) -> None:
        super().__init__()
        self.looks = looks
        self.weight = nn.Parameter(torch.empty(query_size, value_size))
        nn.init.xavier_uniform_(self.weight)

    def bind(self, dtype: torch.dtype) -> tuple[LookAgain, ...]:
        """Return how each look but the first gets its query."""
        weight = self.weight.to(dtype)

        def look_again(query: Tensor, context: Tensor) -> Tensor:
            return query + F.linear(context, weight)

        return (look_again,) * (self.looks - 1)


class Order(nn.Module, ABC):
    """Say which state attends, and hold the weights by which the context enters the cell."""

    #: Columns that a step leaves for the next one.
    fed: int = 0

    def __init__(self) -> None:
        super().__init__()
        #: None where a step looks once.
        self.hops: Hops | None = None

    @abstractmethod
    def bind(self, dtype: torch.dtype) -> Advance:
        """Return the step, its weights cast to `dtype` once."""

    @abstractmethod
    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps, with a backward by hand and products in `dtype`, for drives (T, B, G*H).

        Return s_i (T, B, W), c_i (T, B, C) and α_i (T, B, S).
        """


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
            own, fed, past = parts.split(state)
            context, weights = parts.attend(own, past)
            drive = torch.addmm(drive, context, weight.t())  # + W_c c_i
            return parts.join(parts.move(drive, own), fed, past, weights), context, weights

        return advance

    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps."""
        entering = Product(self.weight.to(dtype), *drives.shape[:2])
        return ScanBefore(chain, look, drives, entering).run()


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
            own, fed, past = parts.split(state)
            own = parts.move(torch.addmm(drive, fed.to(dtype), weight.t()), own)  # + W_f v_{i-1}
            context, weights = parts.attend(own, past)
            both = torch.cat([context, parts.visible(own).to(dtype)], dim=1)
            fed = torch.tanh(F.linear(both, combine, bias))
            return parts.join(own, fed, past, weights), context, weights

        return advance

    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps."""
        entering = Product(self.weight.to(dtype), *drives.shape[:2])
        combine, bias = self.combine.weight.to(dtype), self.combine.bias
        return ScanAfter(chain, look, drives, entering, combine=combine, bias=bias).run()


class AttendUnfed(Order):
    """Move, then attend with s_i; the next step hears nothing of it.

    Luong, Pham & Manning 2015, equation 5, without input feeding: no step waits for attention, so
    that the cell runs ahead through all of them.
    """

    def bind(self, dtype: torch.dtype) -> Advance:  # noqa: ARG002 (nothing is multiplied)
        """Return: s_i = f(s_{i-1}, y_{i-1}), then c_i from s_i."""

        def advance(parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, fed, past = parts.split(state)
            own = parts.move(drive, own)
            context, weights = parts.attend(own, past)
            return parts.join(own, fed, past, weights), context, weights

        return advance

    def scan(
        self,
        chain: Chain,
        look: Look,
        drives: Tensor,
        dtype: torch.dtype,  # noqa: ARG002 (nothing is multiplied)
    ) -> Sequence[Tensor]:
        """Do all steps of the cell, and then of attention."""
        (states,) = Recurrence(chain, drives).run()
        return states, *LookBack(look, chain.seen(states)).run()


def make_order(name: OrderName, cell: Cell, value_size: int, *, hops: int = 1) -> Order:
    """Return the order of this name for a cell that reads contexts (N, C). Raise ModelError."""
    order: Order
    if name == "before":
        order = AttendWithPrevious(value_size, cell.drive_size)
    elif name == "after":
        order = AttendWithNew(value_size, cell.drive_size, cell.hidden_size)
    elif name == "unfed":
        order = AttendUnfed()
    else:
        raise ModelError(f"order is {name!r}; it must be one of {', '.join(get_args(OrderName))}")
    if hops > 1:
        order.hops = Hops(hops, value_size, cell.hidden_size)
    return order


def bind(
    cell: Cell, score: Score, order: Order, memory: Memory, mask: Tensor | None = None
) -> Parts:
    """Cast the memory and all weights of the step to the dtype of the products, once a batch.

    The mask (B, H) is what recurrent dropout leaves of the states, at every step.
    """
    dtype = product_dtype(memory.values.device, memory.values.dtype)
    memory = replace(memory, values=memory.values.to(dtype), keys=memory.keys.to(dtype))
    with torch.autocast(memory.values.device.type, enabled=False):
        return Parts(
            energies=score.bind(memory.keys),
            move=cell.bind_raw(dtype, mask),
            visible=cell.visible,
            advance=order.bind(dtype),
            width=cell.state_size,
            fed=order.fed,
            looks_back=score.looks_back,
            covers=score.covers,
            memory=memory,
            again=order.hops.bind(dtype) if order.hops else (),
        )


def remember(score: Score, values: Tensor, lengths: Tensor) -> Memory:
    """Project the keys of annotations (B, S, C) and mask their padding; all float32 or wider."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return Memory(
        values=values.to(wide),
        keys=score.keys(values).to(wide),
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

    Coverage and hops take the plain loop, all else the one whose backward is written by hand.
    """
    if score.covers or order.hops:
        return plain_scan(cell, score, order, memory=memory, drives=drives, state=state)
    wide, steps = memory.values.dtype, drives.shape[1]
    dtype = product_dtype(drives.device, wide)
    drives, state = drives.transpose(0, 1).to(wide), state.to(wide)
    look = Look(score.step(memory.keys, steps, dtype), Attended(memory.values, memory.bias), steps)
    weight, mask = cell.weight.to(dtype), cell.mask(len(state))
    chain = Chain(cell.step(raw=True), weight, state, steps, mask)
    states, contexts, weights = order.scan(chain, look, drives, dtype)
    first = (each.transpose(0, 1) for each in (cell.visible(states), contexts, weights))
    return Scanned(*first)


def plain_scan(
    cell: Cell, score: Score, order: Order, *, memory: Memory, drives: Tensor, state: Tensor
) -> Scanned:
    """Do what `scan` does by a plain loop that autograd differentiates: the reference."""
    states, contexts, weights = [], [], []
    # Everything is cast and drawn here, once.
    parts = bind(cell, score, order, memory, cell.mask(len(state)))
    state = parts.start(state)
    with torch.autocast(drives.device.type, enabled=False):
        for drive in drives.to(parts.memory.values.dtype).transpose(0, 1).contiguous():
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
