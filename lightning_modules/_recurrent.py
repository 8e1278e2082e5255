"""Layers of recurrent networks with all that one may choose for them, by one factory.

What is chosen (`Choices`), for a stack whose layers give y_1 ... y_L at each step:

    variational        the dropout between layers drops the same units at all steps of a sequence;
                       Gal & Ghahramani 2016, "A theoretically grounded application of dropout in
                       recurrent neural networks"
    recurrent_dropout  so does one on the state that the recurrent product sees (`_cells.py`)
    layer_norm         what enters the gates is normalised (`_cells.py`); Ba, Kiros & Hinton 2016
    residual           y_l = f_l(drop(y_{l-1})) + y_{l-1} for every layer but the first; He et al.
                       2016, and in stacked recurrent networks Wu et al. 2016, section 3.1

Where none is chosen all layers run together, by the library's loop or ours, whichever is faster
(`_layers.py`). Where they must be told apart they run one by one, and what the library has no loop
for goes by ours: a step of `_cells.py` after the other, over everything that can be computed
without the state.

Shapes: N rows, S positions, I inputs, H hidden units, D directions, G*H a cell's drive, W the width
of a state.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, cast

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from typing_extensions import Doc

from lightning_modules._cells import CELLS, Cell, CellName, product_dtype
from lightning_modules._dropout import dropout_of
from lightning_modules._graphs import recorded, roomy, widened
from lightning_modules._layers import Layers, Recurrent, run_library
from lightning_modules._recurrence import Motion, Reading

Variational = Annotated[
    bool,
    Doc(
        "whether dropout of what a recurrent layer reads drops the same units at all steps of a "
        "sequence"
    ),
]
RecurrentDropout = Annotated[
    float,
    Ge(0),
    Lt(1),
    Doc(
        "share of the state that recurrent products miss in training, the same units at all steps "
        "of a sequence"
    ),
]
LayerNorm = Annotated[bool, Doc("whether what enters the gates of a cell is normalised")]
Residual = Annotated[bool, Doc("whether every recurrent layer but the first adds what it read")]


@dataclass(frozen=True)
class Choices:
    """Say what recurrent layers do beside the plain equations; the module says how."""

    variational: bool = False
    recurrent_dropout: float = 0.0
    layer_norm: bool = False
    residual: bool = False

    @property
    def own_loop(self) -> bool:
        """Whether they ask for what the library's loop cannot do."""
        return self.layer_norm or self.recurrent_dropout > 0

    def cell(self, name: CellName, hidden_size: int) -> Cell:
        """Return a cell of this kind with what is chosen for its step."""
        return CELLS[name](
            hidden_size, recurrent_dropout=self.recurrent_dropout, layer_norm=self.layer_norm
        )


PLAIN: Final = Choices()


def recurrent(  # noqa: PLR0913 (what every stack of layers is made of)
    cell: CellName,
    input_size: int,
    hidden_size: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    choices: Choices = PLAIN,
) -> Recurrent:
    """Return recurrent layers with what is chosen, and `dropout` between them."""
    apart = layers > 1 and (choices.variational or choices.residual)
    if not (apart or choices.own_loop):
        return Layers(
            cell,
            input_size,
            hidden_size,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
        )
    return Stack(
        cell,
        input_size,
        hidden_size,
        layers=layers,
        bidirectional=bidirectional,
        dropout=dropout,
        choices=choices,
    )


def layers_above(
    cell: CellName, hidden_size: int, *, layers: int, dropout: float, choices: Choices = PLAIN
) -> "Stack":
    """Return layers that go on from one of the same width: dropout, and a sum, before the first."""
    return Stack(
        cell,
        hidden_size,
        hidden_size,
        layers=layers,
        dropout=dropout,
        choices=choices,
        goes_on=True,
    )


class Stack(Recurrent):
    """Run layers one by one, with what stands between them."""

    def __init__(  # noqa: PLR0913 (what every stack of layers is made of)
        self,
        cell: CellName,
        input_size: int,
        hidden_size: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        choices: Choices = PLAIN,
        goes_on: bool = False,
    ) -> None:
        super().__init__(cell, hidden_size, layers=layers, bidirectional=bidirectional)
        self.choices = choices
        self.dropout = dropout_of(dropout, variational=choices.variational)
        #: The first part that reads what a layer gave.
        self.second = 0 if goes_on else 1
        widths = [input_size] + [self.output_size] * (layers - 1)
        if choices.own_loop:
            self.parts = nn.ModuleList(
                Looped(cell, width, hidden_size, bidirectional=bidirectional, choices=choices)
                for width in widths
            )
        elif choices == PLAIN:  # the library drops between layers by itself
            self.parts = nn.ModuleList(
                [
                    Layers(
                        cell,
                        input_size,
                        hidden_size,
                        layers=layers,
                        bidirectional=bidirectional,
                        dropout=dropout,
                    )
                ]
            )
        else:
            self.parts = nn.ModuleList(
                Layers(cell, width, hidden_size, bidirectional=bidirectional) for width in widths
            )

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do what `Recurrent.forward` says."""
        values, ends, layer = inputs, [], 0
        for at, part in enumerate(cast("Iterable[Recurrent]", self.parts)):
            start = (
                None if state is None else self.by_layer(state)[:, :, layer : layer + part.layers]
            )
            follows = at >= self.second
            outputs, end = part(
                self.dropout(values) if follows else values,
                lengths,
                None if start is None else start.flatten(1).to(values.dtype),
            )
            values = outputs + values if follows and self.choices.residual else outputs
            ends.append(part.by_layer(end))
            layer += part.layers
        return values, torch.cat(ends, dim=2).flatten(1)

    def top(self, state: Tensor) -> Tensor:
        """Return what the highest layer gave where each of its directions ended, side by side.

        With residual connections that is the sum of what all layers see of their states.
        """
        if not self.choices.residual:
            return super().top(state)
        return self.by_layer(state)[:, 0].sum(dim=1)


class Looped(Recurrent):
    """Run one layer by a loop of our own, in one direction or both; padding is read for nothing."""

    def __init__(
        self,
        cell: CellName,
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        choices: Choices = PLAIN,
    ) -> None:
        super().__init__(cell, hidden_size, bidirectional=bidirectional)
        cells = [choices.cell(cell, hidden_size) for _ in range(self.directions)]
        self.cells = nn.ModuleList(cells)
        self.drives = nn.ModuleList(each.driven_by(input_size) for each in cells)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Do what `Recurrent.forward` says."""
        rows, positions, _ = inputs.shape
        if lengths is None:
            lengths = torch.full((rows,), positions, device=inputs.device)
        at = torch.arange(positions, device=inputs.device)
        inside = at < lengths[:, None]  # (N, S)
        inputs = inputs.masked_fill(~inside[..., None], 0.0)
        backwards = torch.where(inside, lengths[:, None] - 1 - at, at)  # its own inverse
        starts = self._starts(inputs, state)
        outputs, ends = [], []
        cells = cast("Iterable[Cell]", self.cells)
        for number, (cell, drive) in enumerate(zip(cells, self.drives, strict=True)):
            read = _pick(inputs, backwards) if number else inputs
            states = run(cell, cast("nn.Linear", drive)(read), starts[number])
            seen = cell.visible(states)
            outputs.append(_pick(seen, backwards) if number else seen)
            # Padding comes after all that is read: no state up to the last one knows of it.
            ends.append(states[torch.arange(rows, device=at.device), lengths - 1])
        merged = torch.cat(outputs, dim=-1) * inside[..., None]
        last = torch.stack([end.view(rows, self.blocks, -1) for end in ends], dim=2)
        return merged, last.flatten(1)

    def _starts(self, inputs: Tensor, state: Tensor | None) -> list[Tensor]:
        """Return s_0 of each direction, (N, W / D), in float32 or wider."""
        wide = torch.promote_types(inputs.dtype, torch.float32)
        if state is None:
            blank = inputs.new_zeros(len(inputs), self.blocks * self.hidden_size, dtype=wide)
            return [blank] * self.directions
        parts = state.to(wide).view(len(inputs), self.blocks, self.directions, self.hidden_size)
        return [part.flatten(1) for part in parts.unbind(2)]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Return of each row of values (N, S, H) the positions of index (N, S)."""
    return values.gather(1, index[..., None].expand_as(values))


def run(cell: Cell, drives: Tensor, state: Tensor) -> Tensor:
    """Return the states after each step, (N, S, W), from drives W x + b (N, S, G*H) and s_0."""
    device, (count, length) = drives.device, drives.shape[:2]
    rows, steps = roomy(count, device), roomy(length, device)
    dtype = product_dtype(device, drives.dtype)
    ready = widened(cell.ready(drives).transpose(0, 1), steps, rows)
    mask, step = cell.mask(count), cell.step(raw=False)  # all is cast and drawn here, once
    mask = None if mask is None else widened(mask, rows)
    motion = Motion(step, cell.weight.to(dtype), [rows] * steps, mask)
    states, _ = recorded(Reading(motion, widened(state, rows), ready), cell).run()
    return states[:length, :count].transpose(0, 1)


@dataclass(frozen=True)
class Drives:
    """What drives a cell at every step, W x + b, not yet multiplied: the library does it itself."""

    #: x, (N, S, I).
    inputs: Tensor
    #: W and b, (G*H, I) and (G*H,).
    linear: nn.Linear

    @property
    def steps(self) -> int:
        """How many there are, S."""
        return self.inputs.shape[1]

    def product(self) -> Tensor:
        """Return W x + b of all steps, (N, S, G*H)."""
        return cast("Tensor", self.linear(self.inputs))


def run_driven(cell: Cell, drives: Drives, state: Tensor) -> Tensor:
    """Return what is visible of the states after each step, (N, S, H), for s_0 (N, W).

    By the library's loop where that has what the cell does, and is the faster one: on CPUs for an
    LSTM alone, on GPUs for all, where our loop launches every operation.
    """
    own = cell.product_norm is not None or (cell.training and cell.recurrent_dropout > 0)
    if own or not (cell.name == "lstm" or state.is_cuda):
        return cell.visible(run(cell, drives.product(), state))
    return run_library(cell, drives.inputs, drives.linear, state)
