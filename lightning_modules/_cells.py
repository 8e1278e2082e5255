"""Recurrent cells: one step each for the loop that attends, and the library's fused loops.

Shapes: N rows (sentences, or sentences times beam), S positions, I inputs, H hidden units,
G*H the drive of a cell (one block for each gate), W the width of its state.

A cell's state is one tensor (N, W) whatever the cell: beam search reorders it, the readout sees
`visible(state)` (N, H), and only the cell knows that an LSTM keeps its memory behind those H
columns. What the input contributes (W x + b of every gate: the *drive*) is computed outside, for
all steps at once where the input is known.

Initial weights: every recurrent block is orthogonal (Saxe et al. 2014), so that a state neither
dies out nor explodes over many steps; input weights are Xavier-uniform, biases zero, but an LSTM's
forget gate starts at 1 (Gers et al. 2000; Jozefowicz et al. 2015), so that it remembers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CellName = Literal["rnn", "gru", "lstm"]

#: s_i = move(drive (N, G*H), s_{i-1} (N, W)) -> (N, W)
Move = Callable[[Tensor, Tensor], Tensor]


def _product(state: Tensor, weight: Tensor) -> Tensor:
    return F.linear(state.to(weight.dtype), weight)


def rnn_step(drive: Tensor, state: Tensor, *, weight: Tensor) -> Tensor:
    """Return s = tanh(x + U s'), Elman 1990."""
    return torch.tanh((drive + _product(state, weight)).to(state.dtype))


def gru_step(drive: Tensor, state: Tensor, *, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the next state of a gated recurrent unit (Cho et al. 2014, in cuDNN's variant).

    r = σ(x_r + U_r s'),  z = σ(x_z + U_z s'),  n = tanh(x_n + r ∘ (U_n s' + b)),
    s = (1 - z) ∘ n + z ∘ s'.
    """
    hidden = state.shape[-1]
    gates, candidate = _product(state, weight).split_with_sizes([2 * hidden, hidden], dim=-1)
    drive_gates, drive_candidate = drive.split_with_sizes([2 * hidden, hidden], dim=-1)
    reset, update = torch.sigmoid((drive_gates + gates).to(state.dtype)).chunk(2, dim=-1)
    new = torch.tanh(drive_candidate + reset * (candidate + bias))
    return torch.lerp(new, state, update)


def lstm_step(drive: Tensor, state: Tensor, *, weight: Tensor) -> Tensor:
    """Return the next state [h, c] of an LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    i, f, o = σ(x + U h'),  g = tanh(x_g + U_g h'),  c = f ∘ c' + i ∘ g,  h = o ∘ tanh(c);
    the blocks of weight and drive lie in the order i, f, g, o.
    """
    visible, memory = state.chunk(2, dim=-1)
    total = (drive + _product(visible, weight)).to(state.dtype)
    enter, forget, new, leave = total.chunk(4, dim=-1)
    memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(new)
    return torch.cat([torch.sigmoid(leave) * torch.tanh(memory), memory], dim=-1)


class Cell(nn.Module, ABC):
    """Hold the recurrent weights of one cell."""

    #: Blocks of H columns in the drive.
    gates: ClassVar[int]
    #: Blocks of H columns in the state; the first is what the outside sees.
    blocks: ClassVar[int] = 1

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.drive_size = self.gates * hidden_size
        self.state_size = self.blocks * hidden_size
        self.weight = nn.Parameter(torch.empty(self.drive_size, hidden_size))
        orthogonal_blocks_(self.weight)

    @abstractmethod
    def bind(self, dtype: torch.dtype) -> Move:
        """Return the step with its weights cast to `dtype` once, for every step of a sentence."""

    def visible(self, state: Tensor) -> Tensor:
        """Return what readout and attention see of a state, (N, W) -> (N, H)."""
        return state[..., : self.hidden_size] if self.blocks > 1 else state

    def initial_bias(self) -> Tensor:
        """Return the bias (G*H,) with which the drive should start."""
        return torch.zeros(self.drive_size)


class TanhCell(Cell):
    """The simple recurrent cell."""

    gates = 1

    def bind(self, dtype: torch.dtype) -> Move:
        """Return `rnn_step` on these weights."""
        return partial(rnn_step, weight=self.weight.to(dtype))


class GRUCell(Cell):
    """The gated recurrent unit."""

    gates = 3

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def bind(self, dtype: torch.dtype) -> Move:
        """Return `gru_step` on these weights."""
        return partial(gru_step, weight=self.weight.to(dtype), bias=self.bias)


class LSTMCell(Cell):
    """The long short-term memory; its state is [visible, memory]."""

    gates = 4
    blocks = 2

    def bind(self, dtype: torch.dtype) -> Move:
        """Return `lstm_step` on these weights."""
        return partial(lstm_step, weight=self.weight.to(dtype))

    def initial_bias(self) -> Tensor:
        """Return zeros, but 1 for the forget gate."""
        bias = super().initial_bias()
        bias[self.hidden_size : 2 * self.hidden_size] = 1.0
        return bias


CELLS: Final[dict[CellName, type[Cell]]] = {"rnn": TanhCell, "gru": GRUCell, "lstm": LSTMCell}
_FUSED: Final[dict[CellName, type[nn.RNN | nn.GRU | nn.LSTM]]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def orthogonal_blocks_(weight: Tensor) -> None:
    """Make every (H, H) block of a recurrent weight (G*H, H) orthogonal, in place."""
    for block in weight.detach().chunk(weight.shape[0] // weight.shape[1]):
        nn.init.orthogonal_(block)


class FusedRNN(nn.Module):
    """Run the library's loop over whole sequences; right-padded input is packed, never read.

    Its state is one tensor (N, W) as a cell's, W = blocks * layers * directions * H.
    """

    def __init__(
        self,
        cell: CellName,
        input_size: int,
        hidden_size: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.layers = layers
        self.hidden_size = hidden_size
        self.blocks = CELLS[cell].blocks
        self.output_size = self.directions * hidden_size
        self.state_size = self.blocks * layers * self.directions * hidden_size
        self.rnn = _FUSED[cell](
            input_size,
            hidden_size,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self._initialise(cell)

    def _initialise(self, cell: CellName) -> None:
        for name, weight in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                orthogonal_blocks_(weight)
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)
            if cell == "lstm" and name.startswith("bias_ih"):
                nn.init.ones_(weight.detach()[self.hidden_size : 2 * self.hidden_size])

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (N, S, directions * H), zero behind `lengths`, and the last state (N, W).

        Without `lengths` every position of inputs (N, S, I) is read.
        """
        start = None if state is None else self._to_library(state)
        if lengths is None:
            outputs, last = self.rnn(inputs, start)
            return outputs, self._from_library(last)
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed, start)
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        return padded, self._from_library(last)

    def top(self, state: Tensor) -> Tensor:
        """Return the visible state of the highest layer, its directions side by side."""
        parts = state.view(-1, self.blocks, self.layers, self.output_size)
        return parts[:, 0, -1]

    def _from_library(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        parts = state if isinstance(state, tuple) else (state,)
        # Each part is (layers * directions, N, H).
        return torch.stack(parts, dim=0).permute(2, 0, 1, 3).flatten(1)

    def _to_library(self, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts = state.view(state.shape[0], self.blocks, -1, self.hidden_size)
        unpacked = parts.permute(1, 2, 0, 3).contiguous().unbind(0)
        return unpacked[0] if self.blocks == 1 else cast("tuple[Tensor, Tensor]", unpacked)
