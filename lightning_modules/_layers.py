"""Whole recurrent layers, by the faster of the library's loop and ours.

Shapes: N rows, S positions, I inputs, H hidden units, D directions, W the width of a state, G*H a
cell's drive, L positions of a piece, n rows of it.

On GPUs the library's loop is one kernel. On CPUs only its LSTM is (oneDNN's): a tanh RNN or a GRU
goes by operations there too, and adds up a small product a step for the gradient of each weight, so
that our loop (`_recurrence.py`) is the faster one.

Packed rows are slow on CPUs. The library reads rows of unequal length in pieces in which none ends:
sorted by length, the rows that are left read on together to where the next one ends. In batches of
like lengths there are two or three. Our loop takes such rows as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_modules._cells import (
    CELLS,
    Cell,
    CellName,
    orthogonal_blocks_,
    product_dtype,
)
from lightning_modules._products import linear
from lightning_modules._recurrence import Motion, Reading
from lightning_modules._steps import CellStep, GRUStep, TanhStep

_MODULES: Final[dict[CellName, type[nn.RNN | nn.GRU | nn.LSTM]]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
#: What these modules call.
_LOOPS: Final[dict[CellName, Callable[..., Any]]] = {
    "rnn": torch.rnn_tanh,
    "gru": torch.gru,
    "lstm": torch.lstm,
}
#: Where a piece begins and ends, and how many rows it has.
Piece = tuple[int, int, int]


class Recurrent(nn.Module, ABC):
    """Read whole sequences with one or more layers, in one direction or both.

    The state is one tensor (N, W) as a cell's, W = blocks * layers * directions * H: block by
    block, in each layer by layer, in each direction by direction.
    """

    def __init__(
        self, cell: CellName, hidden_size: int, *, layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.layers = layers
        self.hidden_size = hidden_size
        self.blocks = CELLS[cell].blocks
        self.output_size = self.directions * hidden_size
        self.state_size = self.blocks * layers * self.output_size

    @abstractmethod
    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (N, S, directions * H), zero behind `lengths`, and the last state (N, W).

        Without `lengths` every position of inputs (N, S, I) is read.
        """

    def top(self, state: Tensor) -> Tensor:
        """Return what the highest layer gave where each of its directions ended, side by side."""
        return self.by_layer(state)[:, 0, -1]

    def by_layer(self, state: Tensor) -> Tensor:
        """Return a state as (N, blocks, layers, directions * H)."""
        return state.view(-1, self.blocks, self.layers, self.output_size)


class Layers(Recurrent):
    """Run plain layers over whole sequences; padding is never read."""

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
        super().__init__(cell, hidden_size, layers=layers, bidirectional=bidirectional)
        self.rnn = _MODULES[cell](
            input_size,
            hidden_size,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        self._loop = _LOOPS[cell]
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
        """Do what `Recurrent.forward` says."""
        if lengths is not None and bool((lengths == inputs.shape[1]).all()):
            lengths = None
        if lengths is None and (inputs.is_cuda or self.rnn.mode == "LSTM"):
            outputs, last = self.rnn(inputs, None if state is None else self._to_library(state))
            return outputs, self._from_library(last)
        if lengths is None:
            ends = [inputs.shape[1]] * len(inputs)
            outputs, last = self._sorted(inputs.transpose(0, 1), ends, state)
            return outputs.transpose(0, 1), last
        if inputs.is_cuda:
            return self._packed(inputs, lengths, state)
        order = lengths.argsort(descending=True, stable=True)
        place = order.argsort()
        ends = lengths[order].tolist()
        values = inputs[:, : ends[0]].transpose(0, 1).index_select(1, order)  # (S, N, I)
        outputs, last = self._sorted(values, ends, None if state is None else state[order])
        outputs = outputs.index_select(1, place).transpose(0, 1)
        return F.pad(outputs, (0, 0, 0, inputs.shape[1] - ends[0])), last[place]

    def _packed(
        self, inputs: Tensor, lengths: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed, None if state is None else self._to_library(state))
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
        return padded, self._from_library(last)

    def _sorted(
        self, values: Tensor, ends: Sequence[int], state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (S, N, D * H) and the last state for (S, N, I), layer by layer.

        Rows end at `ends`, the longest first.
        """
        read = self._in_pieces if self.rnn.mode == "LSTM" else self._by_steps
        starts, last = self._starts(values, state), []
        for layer in range(self.layers):
            if layer:
                values = F.dropout(values, self.rnn.dropout, self.training)
            outputs = []
            for backwards in (False, True)[: self.directions]:
                part = layer * self.directions + backwards
                weights = self.rnn.all_weights[part]
                output, end = read(values, ends, starts[part], weights, backwards=backwards)
                outputs.append(output)
                last.append(end)
            values = torch.cat(outputs, dim=-1)
        return values, torch.stack(last, dim=1).permute(2, 0, 1, 3).flatten(1)

    def _starts(self, values: Tensor, state: Tensor | None) -> Sequence[Tensor]:
        """Return s_0 of each layer and direction, (blocks, N, H), in float32 or wider."""
        parts = self.layers * self.directions
        wide = torch.promote_types(values.dtype, torch.float32)
        if state is None:
            blank = values.new_zeros(self.blocks, values.shape[1], self.hidden_size, dtype=wide)
            return [blank] * parts
        apart = state.to(wide).view(-1, self.blocks, parts, self.hidden_size)
        return apart.permute(2, 1, 0, 3).unbind(0)

    def _by_steps(
        self,
        values: Tensor,
        ends: Sequence[int],
        start: Tensor,
        weights: Sequence[Tensor],
        *,
        backwards: bool,
    ) -> tuple[Tensor, Tensor]:
        """Run one part of a layer by our loop."""
        weight, recurrent, bias, product_bias = weights
        step, added = self._step(product_bias)
        dtype = product_dtype(values.device, values.dtype)
        motion = Motion(step, recurrent.to(dtype), _counts(ends))
        drives = linear(values, weight, bias + added)
        states, last = Reading(motion, start[0], drives, backwards=backwards).run()
        return states, last[None]

    def _step(self, product_bias: Tensor) -> tuple[CellStep, Tensor]:
        """Return the step of a cell whose products have this bias, and what a drive has of it."""
        if self.rnn.mode != "GRU":
            return TanhStep(), product_bias
        hidden = self.hidden_size
        gates, candidate = product_bias.split_with_sizes([2 * hidden, hidden])
        return GRUStep(candidate), F.pad(gates, (0, hidden))

    def _in_pieces(
        self,
        values: Tensor,
        ends: Sequence[int],
        start: Tensor,
        weights: Sequence[Tensor],
        *,
        backwards: bool,
    ) -> tuple[Tensor, Tensor]:
        """Run one part of a layer by the library's loop."""
        read = self._read_backwards if backwards else self._read
        return read(values, pieces_of(ends), start, weights)

    def _read(
        self, values: Tensor, pieces: Iterable[Piece], state: Tensor, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run it from the first position to the last of each row."""
        outputs, ended = [], []
        for begin, end, rows in pieces:
            ended.append(state[:, rows:])
            output, state = self._run(values[begin:end, :rows], state[:, :rows], weights)
            outputs.append(_as_wide(output, values.shape[1]))
        return torch.cat(outputs), torch.cat([state, *reversed(ended)], dim=1)

    def _read_backwards(
        self, values: Tensor, pieces: Sequence[Piece], start: Tensor, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run it from the last position of each row to the first."""
        outputs, state = [], start[:, :0]
        for begin, end, rows in reversed(pieces):
            state = torch.cat([state, start[:, state.shape[1] : rows]], dim=1)
            output, state = self._run(values[begin:end, :rows].flip(0), state, weights)
            outputs.append(_as_wide(output.flip(0), values.shape[1]))
        return torch.cat(outputs[::-1]), state

    def _run(
        self, values: Tensor, state: Tensor, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Call the library: values (L, n, I), state (blocks, n, H)."""
        parts = state[:, None].unbind(0)  # each (1, n, H), as of a single layer
        start = parts[0] if self.blocks == 1 else parts
        output, *end = self._loop(values, start, weights, True, 1, 0.0, self.training, False, False)
        return output, torch.cat(end)

    def _from_library(self, state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        parts = state if isinstance(state, tuple) else (state,)
        # Each part is (layers * directions, N, H).
        return torch.stack(parts, dim=0).permute(2, 0, 1, 3).flatten(1)

    def _to_library(self, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts = state.view(state.shape[0], self.blocks, -1, self.hidden_size)
        unpacked = parts.permute(1, 2, 0, 3).contiguous().unbind(0)
        return unpacked[0] if self.blocks == 1 else cast("tuple[Tensor, Tensor]", unpacked)


def run_library(cell: Cell, inputs: Tensor, drive: nn.Linear, state: Tensor) -> Tensor:
    """Run the library's loop with the weights of a cell, and those of its drive.

    inputs (N, S, I), state (N, W); return what is visible of the states, (N, S, H).
    """
    weights = [drive.weight, cell.weight, drive.bias, cell.product_bias()]
    # Each part is (1, N, H), as of a single layer; autocast takes them only in one dtype with x.
    parts = state.to(inputs.dtype).view(1, len(state), cell.blocks, -1).unbind(2)
    start = parts[0].contiguous() if cell.blocks == 1 else [part.contiguous() for part in parts]
    loop = _LOOPS[cell.name]
    outputs, *_ = loop(inputs, start, weights, True, 1, 0.0, cell.training, False, True)
    return cast("Tensor", outputs)


def pieces_of(lengths: Sequence[int]) -> list[Piece]:
    """Return the pieces that rows of these lengths, longest first, are read in."""
    ends = sorted(set(lengths))
    begins = [0, *ends]
    return [
        (begin, end, sum(length >= end for length in lengths))
        for begin, end in zip(begins, ends, strict=False)
    ]


def _counts(ends: Sequence[int]) -> list[int]:
    """Return how many rows that end there, the longest first, have a symbol at each position."""
    counts: list[int] = (torch.tensor(ends)[:, None] > torch.arange(ends[0])).sum(dim=0).tolist()
    return counts


def _as_wide(values: Tensor, rows: int) -> Tensor:
    """Return values (L, n, H) with zeros for the rows that have ended, (L, rows, H)."""
    return F.pad(values, (0, 0, 0, rows - values.shape[1]))
