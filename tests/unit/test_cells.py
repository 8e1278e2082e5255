"""Cells obey their equations, and the library's loops read no padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules._cells import CELLS, CellName
from lightning_modules._layers import Layers, pieces_of

HIDDEN = 5
NAMES: list[CellName] = ["rnn", "gru", "lstm"]
LIBRARY = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rnn_unit(x: list[float], u: list[float], state: list[float]) -> list[float]:
    return [math.tanh(x[0] + u[0])]


def gru_unit(x: list[float], u: list[float], state: list[float]) -> list[float]:
    reset, update = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
    new = math.tanh(x[2] + reset * u[2])
    return [(1 - update) * new + update * state[0]]


def lstm_unit(x: list[float], u: list[float], state: list[float]) -> list[float]:
    enter, forget, new, leave = (a + b for a, b in zip(x, u, strict=True))
    memory = sigmoid(forget) * state[1] + sigmoid(enter) * math.tanh(new)
    return [sigmoid(leave) * math.tanh(memory), memory]


UNITS = {"rnn": rnn_unit, "gru": gru_unit, "lstm": lstm_unit}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_its_equation_unit_by_unit(name: CellName) -> None:
    torch.manual_seed(3)
    cell = CELLS[name](HIDDEN).double()
    if name == "gru":
        nn.init.normal_(cell.bias)
    drive = torch.randn(1, cell.drive_size, dtype=torch.float64)
    state = torch.randn(1, cell.state_size, dtype=torch.float64)
    moved = cell.bind(torch.float64)(drive, state)[0].tolist()
    recurrent = [
        sum(w * s for w, s in zip(row, cell.visible(state)[0].tolist(), strict=True))
        for row in cell.weight.tolist()
    ]
    if name == "gru":
        recurrent[2 * HIDDEN :] = [
            u + b for u, b in zip(recurrent[2 * HIDDEN :], cell.bias.tolist(), strict=True)
        ]
    for unit in range(HIDDEN):
        expected = UNITS[name](
            drive[0].tolist()[unit::HIDDEN],
            recurrent[unit::HIDDEN],
            state[0].tolist()[unit::HIDDEN],
        )
        assert moved[unit::HIDDEN] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_the_librarys_cell(name: CellName) -> None:
    torch.manual_seed(4)
    cell, library = CELLS[name](HIDDEN), LIBRARY[name](3, HIDDEN)
    with torch.no_grad():
        library.weight_hh.copy_(cell.weight)
        library.bias_hh.zero_()
        if name == "gru":
            library.bias_hh[2 * HIDDEN :] = cell.bias.normal_()
    inputs, state = torch.randn(4, 3), torch.randn(4, cell.state_size)
    drive = inputs @ library.weight_ih.T + library.bias_ih
    moved = cell.bind(torch.float32)(drive, state)
    if name == "lstm":
        expected = torch.cat(library(inputs, state.chunk(2, dim=1)), dim=1)
    else:
        expected = library(inputs, state)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("name", NAMES)
def test_recurrent_blocks_start_orthogonal(name: CellName) -> None:
    cell, layers = CELLS[name](HIDDEN), Layers(name, 3, HIDDEN, layers=2, bidirectional=True)
    weights = [cell.weight, *(w for n, w in layers.rnn.named_parameters() if "weight_hh" in n)]
    assert len(weights) == 5
    for weight in weights:
        for block in weight.detach().split(HIDDEN):
            torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)


def test_only_an_lstms_forget_gate_starts_open() -> None:
    opened = [0.0] * HIDDEN + [1.0] * HIDDEN + [0.0] * 2 * HIDDEN
    assert CELLS["lstm"](HIDDEN).initial_bias().tolist() == opened
    rnn = Layers("lstm", 3, HIDDEN).rnn
    assert (rnn.bias_ih_l0 + rnn.bias_hh_l0).tolist() == opened
    for name in ("rnn", "gru"):
        assert not CELLS[name](HIDDEN).initial_bias().any()


@st.composite
def padded(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    extra = draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    inputs = torch.randn(len(lengths), max(lengths) + extra, 3, generator=generator)
    return inputs, torch.tensor(lengths)


@pytest.mark.parametrize("name", NAMES)
@given(batch=padded())
@settings(max_examples=15, deadline=None)
def test_padding_is_never_read(name: CellName, batch: tuple[Tensor, Tensor]) -> None:
    inputs, lengths = batch
    torch.manual_seed(5)
    layers = Layers(name, 3, HIDDEN, layers=2, bidirectional=True)
    outputs, state = layers(inputs, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, last = layers(inputs[row : row + 1, :length])
        torch.testing.assert_close(outputs[row, :length], alone[0])
        assert not outputs[row, length:].any()
        torch.testing.assert_close(state[row], last[0])
        forward, backward = alone[0, -1, :HIDDEN], alone[0, 0, HIDDEN:]
        torch.testing.assert_close(layers.top(state)[row], torch.cat([forward, backward]))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_pieces_hold_every_position_of_every_row_once(lengths: list[int]) -> None:
    lengths.sort(reverse=True)
    read = [0] * len(lengths)
    at = 0
    for begin, end, rows in pieces_of(lengths):
        assert begin == at < end
        for row in range(rows):
            read[row] += end - begin
        at = end
    assert read == lengths


@pytest.mark.parametrize("rows", [1, 4, 50])
@pytest.mark.parametrize("name", NAMES)
def test_unequal_rows_give_what_packed_rows_give(name: CellName, rows: int) -> None:
    torch.manual_seed(7)
    layers = Layers(name, 3, HIDDEN, layers=2, bidirectional=True).double()
    inputs, state = torch.randn(rows, 6, 3).double(), torch.randn(rows, layers.state_size).double()
    lengths = torch.randint(1, 6, (rows,))
    found = []
    for run in (layers, layers._packed):
        given = inputs.clone().requires_grad_(), state.clone().requires_grad_()
        outputs, last = run(given[0], lengths, given[1])
        loss = (outputs**2).sum() + (last**3).sum()
        grads = torch.autograd.grad(loss, [*given, *layers.parameters()])
        found.append([outputs, last, *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_carries_everything_over(name: CellName) -> None:
    torch.manual_seed(6)
    layers, inputs = Layers(name, 3, HIDDEN, layers=2), torch.randn(2, 7, 3)
    whole, end = layers(inputs)
    first, state = layers(inputs[:, :4])
    assert state.shape == (2, layers.state_size)
    second, last = layers(inputs[:, 4:], state=state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, end)
