"""Recurrent cells: one step each for our own loops.

Shapes: N rows (sentences, or sentences times beam), H hidden units, G*H the drive of a cell (one
block for each gate), W the width of its state.

A cell's state is one tensor (N, W) whatever the cell: beam search reorders it, the readout sees
`visible(state)` (N, H), and only the cell knows that an LSTM keeps its memory behind those H
columns. What the input contributes (W x + b of every gate: the *drive*) is computed outside, for
all steps at once where the input is known.

Initial weights, in our loops and the library's: every recurrent block is orthogonal (Saxe et al.
2014), so that a state neither dies out nor explodes over many steps; input weights are
Xavier-uniform, biases zero, but an LSTM's forget gate starts at 1 (Gers et al. 2000; Jozefowicz et
al. 2015), so that it remembers.

Layer norm (Ba, Kiros & Hinton 2016, "Layer normalization", equations 4 and 20 to 29) takes the
place of what enters the gates, with a gain γ for each unit of each product:

    U s' -> LN(U s'; γ_u),  W x + b -> LN(W x; γ_x) + b,  tanh(c) -> tanh(LN(c; γ_c) + β_c).

Its mean and deviation are those of all gates together, but a GRU's candidate has its own, since the
reset gate stands between. The gains start at 1, b as without layer norm, so that the forget gate
starts open there too. Numbers that are all the same, as before the first input that is not 0, have
no direction: there the gradient is 0 in place of 1/√1e-5 times as large at every step.

Recurrent dropout (Gal & Ghahramani 2016, "A theoretically grounded application of dropout in
recurrent neural networks", equation 7): where U s' is computed, the same units of s' are missing at
all steps of a sequence. What a GRU or an LSTM keeps without a product is kept whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._products import Linear, linear
from lightning_modules._steps import (
    CellStep,
    GRUStep,
    LSTMStep,
    NormedStep,
    NormStep,
    TanhStep,
    varies,
)
from lightning_modules._tanh import tanh

CellName = Literal["rnn", "gru", "lstm"]

#: s_i = move(drive (N, G*H), s_{i-1} (N, W)) -> (N, W)
Move = Callable[[Tensor, Tensor], Tensor]
#: U s' of every gate, from what is visible of s': (N, H) -> (N, G*H)
Pull = Callable[[Tensor], Tensor]


def product_dtype(device: torch.device, default: torch.dtype) -> torch.dtype:
    """Return the dtype of matrix products: autocast's where it is on."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return default


def _product(state: Tensor, *, weight: Tensor) -> Tensor:
    return linear(state.to(weight.dtype), weight)


def _masked_product(state: Tensor, *, weight: Tensor, mask: Tensor) -> Tensor:
    return linear((state * mask).to(weight.dtype), weight)


def rnn_step(drive: Tensor, state: Tensor, *, pull: Pull) -> Tensor:
    """Return s = tanh(x + U s'), Elman 1990."""
    return tanh((drive + pull(state)).to(state.dtype))


def gru_step(drive: Tensor, state: Tensor, *, pull: Pull, bias: Tensor) -> Tensor:
    """Return the next state of a gated recurrent unit (Cho et al. 2014, in cuDNN's variant).

    r = σ(x_r + U_r s'),  z = σ(x_z + U_z s'),  n = tanh(x_n + r ∘ (U_n s' + b)),
    s = (1 - z) ∘ n + z ∘ s'.
    """
    hidden = state.shape[-1]
    gates, candidate = pull(state).split_with_sizes([2 * hidden, hidden], dim=-1)
    drive_gates, drive_candidate = drive.split_with_sizes([2 * hidden, hidden], dim=-1)
    reset, update = torch.sigmoid((drive_gates + gates).to(state.dtype)).chunk(2, dim=-1)
    new = tanh(drive_candidate + reset * (candidate + bias))
    return torch.lerp(new, state, update)


def lstm_step(
    drive: Tensor, state: Tensor, *, pull: Pull, look: Callable[[Tensor], Tensor] = tanh
) -> Tensor:
    """Return the next state [h, c] of an LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    i, f, o = σ(x + U h'),  g = tanh(x_g + U_g h'),  c = f ∘ c' + i ∘ g,  h = o ∘ tanh(c);
    the blocks of weight and drive lie in the order i, f, g, o, and `look` stands for the last tanh.
    """
    visible, memory = state.chunk(2, dim=-1)
    total = (drive + pull(visible)).to(state.dtype)
    enter, forget, new, leave = total.chunk(4, dim=-1)
    memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * tanh(new)
    return torch.cat([torch.sigmoid(leave) * look(memory), memory], dim=-1)


class GateNorm(nn.Module):
    """Give LN(x; γ) + b of every gate, (..., G*H) -> (..., G*H); b only where it is given."""

    def __init__(self, sizes: Sequence[int], bias: Tensor | None = None) -> None:
        super().__init__()
        #: Columns that are normalised together.
        self.sizes = list(sizes)
        self.gain = nn.Parameter(torch.ones(sum(sizes)))
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return them in the gain's dtype: a mean of many asks for its precision."""
        wide = values.to(self.gain.dtype)
        parts = [
            torch.where(varies(part), part, part.detach())
            for part in wide.split_with_sizes(self.sizes, dim=-1)
        ]
        if len(parts) == 1:
            return F.layer_norm(parts[0], self.sizes, self.gain, self.bias)
        normed = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)
        scaled = normed * self.gain
        return scaled if self.bias is None else scaled + self.bias

    def step(self) -> NormStep:
        """Return the same for one step, with a backward by hand."""
        return NormStep(self.sizes, self.gain, self.bias)


class Cell(nn.Module, ABC):
    """Hold the recurrent weights of one cell."""

    #: What users call it.
    name: ClassVar[CellName]
    #: Blocks of H columns in the drive.
    gates: ClassVar[int]
    #: The same in groups that layer norm takes together.
    grouped: ClassVar[tuple[int, ...]]
    #: Blocks of H columns in the state; the first is what the outside sees.
    blocks: ClassVar[int] = 1

    def __init__(
        self, hidden_size: int, *, recurrent_dropout: float = 0.0, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.drive_size = self.gates * hidden_size
        self.state_size = self.blocks * hidden_size
        self.recurrent_dropout = recurrent_dropout
        self.weight = nn.Parameter(torch.empty(self.drive_size, hidden_size))
        orthogonal_blocks_(self.weight)
        sizes = [blocks * hidden_size for blocks in self.grouped]
        self.product_norm = GateNorm(sizes) if layer_norm else None
        self.drive_norm = GateNorm(sizes, self.initial_bias()) if layer_norm else None

    def driven_by(self, input_size: int) -> nn.Linear:
        """Return W and b of the drive, with their first values; layer norm has a b of its own."""
        drive = Linear(input_size, self.drive_size, bias=self.drive_norm is None)
        nn.init.xavier_uniform_(drive.weight)
        if self.drive_norm is None:
            drive.bias.data.copy_(self.initial_bias())
        return drive

    def ready(self, drive: Tensor) -> Tensor:
        """Return LN(W x) + b for W x where layer norm is on, else the drive as it is."""
        return drive if self.drive_norm is None else cast("Tensor", self.drive_norm(drive))

    def mask(self, rows: int) -> Tensor | None:
        """Draw what recurrent dropout leaves of the states of `rows` sequences, (N, H).

        That is 0 or 1 / (1 - share); None where nothing is dropped.
        """
        if not self.training or not self.recurrent_dropout:
            return None
        return F.dropout(self.weight.new_ones(rows, self.hidden_size), self.recurrent_dropout)

    @abstractmethod
    def bind(self, dtype: torch.dtype, mask: Tensor | None = None) -> Move:
        """Return the step with its weights cast to `dtype` once, for every step of a sentence.

        It takes a drive that is `ready`. The mask (N, H) of recurrent dropout is one a sentence.
        """

    def bind_raw(self, dtype: torch.dtype, mask: Tensor | None = None) -> Move:
        """Return the step from a drive that only the step itself completes: it makes it ready."""
        move = self.bind(dtype, mask)
        if self.drive_norm is None:
            return move
        return lambda drive, state: move(self.ready(drive), state)

    def step(self, *, raw: bool) -> CellStep:
        """Return the step with a backward by hand; with `raw` it makes the drive ready itself."""
        step = self._step()
        if self.product_norm is None:
            return step
        drive = self.drive_norm.step() if raw and self.drive_norm else None
        return NormedStep(step, self.product_norm.step(), drive)

    @abstractmethod
    def _step(self) -> CellStep:
        """Return the step without what is normalised before it."""

    def pull(self, dtype: torch.dtype, mask: Tensor | None) -> Pull:
        """Return the recurrent product of every gate, with what was chosen for it."""
        weight = self.weight.to(dtype)
        product: Pull = (
            partial(_product, weight=weight)
            if mask is None
            else partial(_masked_product, weight=weight, mask=mask)
        )
        norm = self.product_norm
        return product if norm is None else lambda state: norm(product(state))

    def product_bias(self) -> Tensor:
        """Return what is added to U s' alone, (G*H,): of a GRU's candidate, b."""
        return self.weight.new_zeros(self.drive_size)

    def visible(self, state: Tensor) -> Tensor:
        """Return what readout and attention see of a state, (N, W) -> (N, H)."""
        return state[..., : self.hidden_size] if self.blocks > 1 else state

    def initial_bias(self) -> Tensor:
        """Return the bias (G*H,) with which the drive should start."""
        return torch.zeros(self.drive_size)


class TanhCell(Cell):
    """The simple recurrent cell."""

    name = "rnn"
    gates = 1
    grouped = (1,)

    def bind(self, dtype: torch.dtype, mask: Tensor | None = None) -> Move:
        """Return `rnn_step` on these weights."""
        return partial(rnn_step, pull=self.pull(dtype, mask))

    def _step(self) -> CellStep:
        return TanhStep()


class GRUCell(Cell):
    """The gated recurrent unit."""

    name = "gru"
    gates = 3
    grouped = (2, 1)

    def __init__(
        self, hidden_size: int, *, recurrent_dropout: float = 0.0, layer_norm: bool = False
    ) -> None:
        super().__init__(hidden_size, recurrent_dropout=recurrent_dropout, layer_norm=layer_norm)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def bind(self, dtype: torch.dtype, mask: Tensor | None = None) -> Move:
        """Return `gru_step` on these weights."""
        return partial(gru_step, pull=self.pull(dtype, mask), bias=self.bias)

    def product_bias(self) -> Tensor:
        """Return zeros, and the candidate's b."""
        return F.pad(self.bias, (self.drive_size - self.hidden_size, 0))

    def _step(self) -> CellStep:
        return GRUStep(self.bias)


class LSTMCell(Cell):
    """The long short-term memory; its state is [visible, memory]."""

    name = "lstm"
    gates = 4
    grouped = (4,)
    blocks = 2

    def __init__(
        self, hidden_size: int, *, recurrent_dropout: float = 0.0, layer_norm: bool = False
    ) -> None:
        super().__init__(hidden_size, recurrent_dropout=recurrent_dropout, layer_norm=layer_norm)
        self.memory_norm = GateNorm([hidden_size], torch.zeros(hidden_size)) if layer_norm else None

    def bind(self, dtype: torch.dtype, mask: Tensor | None = None) -> Move:
        """Return `lstm_step` on these weights."""
        norm, pull = self.memory_norm, self.pull(dtype, mask)
        if norm is None:
            return partial(lstm_step, pull=pull)
        return partial(lstm_step, pull=pull, look=lambda memory: tanh(norm(memory)))

    def _step(self) -> CellStep:
        return LSTMStep(self.memory_norm.step() if self.memory_norm else None)

    def initial_bias(self) -> Tensor:
        """Return zeros, but 1 for the forget gate."""
        bias = super().initial_bias()
        bias[self.hidden_size : 2 * self.hidden_size] = 1.0
        return bias


CELLS: Final[dict[CellName, type[Cell]]] = {
    each.name: each for each in (TanhCell, GRUCell, LSTMCell)
}


def orthogonal_blocks_(weight: Tensor) -> None:
    """Make every (H, H) block of a recurrent weight (G*H, H) orthogonal, in place."""
    for block in weight.detach().chunk(weight.shape[0] // weight.shape[1]):
        nn.init.orthogonal_(block)
