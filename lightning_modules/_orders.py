"""Which state attends, and by which way what it finds enters the cell.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching, T where all steps attend at once), S source positions, T target positions, C width of an
annotation h_j, A width of a key, H hidden units, G*H a cell's drive, W a cell's state.

The equations are those of `_attention.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules._cells import Cell
from lightning_modules._errors import ModelError
from lightning_modules._graphs import recorded
from lightning_modules._parts import Advance, LookAgain, Parts
from lightning_modules._products import Linear, linear, plus_product
from lightning_modules._recurrence import Chain
from lightning_modules._scan import Look, ScanAfter, ScanBefore
from lightning_modules._steps import Product
from lightning_modules._tanh import tanh

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
            return query + linear(context.to(dtype), weight)

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


class WaitingOrder(Order):
    """An order in which a step waits for what it has found itself, or the one before."""

    @abstractmethod
    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps, with a backward by hand and products in `dtype`, for drives (T, B, G*H).

        Return s_i (T, B, W), c_i (T, B, C) and α_i (T, B, S).
        """


class AttendWithPrevious(WaitingOrder):
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
            drive = plus_product(drive, context, weight)  # + W_c c_i
            return parts.join(parts.move(drive, own), fed, past, weights), context, weights

        return advance

    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps."""
        entering = Product(self.weight.to(dtype), *drives.shape[:2])
        return recorded(ScanBefore(chain, look, drives, entering), self).run()


class AttendWithNew(WaitingOrder):
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
        self.combine = Linear(value_size + hidden_size, hidden_size)
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.combine.weight)
        nn.init.zeros_(self.combine.bias)

    def bind(self, dtype: torch.dtype) -> Advance:
        """Return: s_i from v_{i-1}, then c_i from s_i, then v_i."""
        weight = self.weight.to(dtype)
        combine, bias = self.combine.weight.to(dtype), self.combine.bias.to(dtype)

        def advance(parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, fed, past = parts.split(state)
            own = parts.move(plus_product(drive, fed.to(dtype), weight), own)  # + W_f v_{i-1}
            context, weights = parts.attend(own, past)
            both = torch.cat([context, parts.visible(own).to(dtype)], dim=1)
            fed = tanh(linear(both, combine, bias))
            return parts.join(own, fed, past, weights), context, weights

        return advance

    def scan(
        self, chain: Chain, look: Look, drives: Tensor, dtype: torch.dtype
    ) -> Sequence[Tensor]:
        """Do all steps."""
        entering = Product(self.weight.to(dtype), *drives.shape[:2])
        combine, bias = self.combine.weight.to(dtype), self.combine.bias
        loop = ScanAfter(chain, look, drives, entering, combine=combine, bias=bias)
        return recorded(loop, self).run()


class AttendUnfed(Order):
    """Move, then attend with s_i; the next step hears nothing of it.

    Luong, Pham & Manning 2015, equation 5, without input feeding: no step waits for attention, so
    that the cell runs ahead through all of them, and all of them attend at once.
    """

    def bind(self, dtype: torch.dtype) -> Advance:  # noqa: ARG002 (nothing is multiplied)
        """Return: s_i = f(s_{i-1}, y_{i-1}), then c_i from s_i."""

        def advance(parts: Parts, drive: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, fed, past = parts.split(state)
            own = parts.move(drive, own)
            context, weights = parts.attend(own, past)
            return parts.join(own, fed, past, weights), context, weights

        return advance


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


def further_looks(order: Order, dtype: torch.dtype) -> tuple[LookAgain, ...]:
    """Return how each look of a step but the first gets its query, weights cast once."""
    return order.hops.bind(dtype) if order.hops else ()
