"""Layers with all that one may choose for them are their equations, in whichever loop they run."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._attention import remember, scan
from lightning_modules._cells import Cell, CellName, GateNorm
from lightning_modules._dropout import Dropout
from lightning_modules._layers import Layers, Recurrent
from lightning_modules._orders import OrderName, make_order
from lightning_modules._recurrent import (
    PLAIN,
    Choices,
    Drives,
    Looped,
    Stack,
    layers_above,
    recurrent,
)
from lightning_modules._scores import ScoreSizes, make_score

HIDDEN, INPUTS = 3, 2
CHOICES = [
    Choices(variational=True),
    Choices(residual=True),
    Choices(recurrent_dropout=0.4),
    Choices(layer_norm=True),
    Choices(variational=True, recurrent_dropout=0.4, layer_norm=True, residual=True),
]
Row = list[float]

each_cell = pytest.mark.parametrize("name", get_args(CellName))
each_choice = pytest.mark.parametrize("choices", CHOICES, ids=str)
each_shape = pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])


def build(name: CellName, choices: Choices, **shape: Any) -> Recurrent:
    """Return small layers in float64 whose weights are all far from their first values."""
    torch.manual_seed(7)
    share = 0.5 if choices.variational else 0.0  # what is drawn anew at each step has no mask
    built = recurrent(name, INPUTS, HIDDEN, dropout=share, choices=choices, **shape).double()
    shake(built)
    return built


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def sequences(*lengths: int, extra: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    shape = (len(lengths), max(lengths) + extra, INPUTS)
    return torch.randn(shape, generator=generator, dtype=torch.float64), torch.tensor(lengths)


# The reference: Python lists, one number at a time.


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def normed(values: Row, norm: GateNorm | None, groups: tuple[int, ...]) -> Row:
    """Return γ (x - mean) / deviation + b, each group with a mean and a deviation of its own."""
    if norm is None:
        return values
    out: Row = []
    for blocks in groups:
        group = values[len(out) : len(out) + blocks * HIDDEN]
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in group) / len(group) + 1e-5)
        out += [(v - mean) / deviation for v in group]
    biases = [0.0] * len(out) if norm.bias is None else norm.bias.tolist()
    return [g * v + b for g, v, b in zip(norm.gain.tolist(), out, biases, strict=True)]


@dataclass
class Plain:
    """One layer in one direction, its weights as they stand in either loop."""

    name: CellName
    w: list[Row]
    b: Row
    u: list[Row]
    late: Row
    cell: Cell | None

    def step(self, drive: Row, state: list[Row], mask: Row) -> list[Row]:
        """Return the blocks of the next state from W x + b (with layer norm: W x)."""
        grouped = {"rnn": (1,), "gru": (2, 1), "lstm": (4,)}[self.name]
        norms = [
            self.cell and getattr(self.cell, f"{which}_norm") for which in ("drive", "product")
        ]
        seen = [s * m for s, m in zip(state[0], mask, strict=True)]
        x = normed(drive, norms[0], grouped)
        y = normed([dot(row, seen) for row in self.u], norms[1], grouped)
        gates = [(x[at::HIDDEN], y[at::HIDDEN]) for at in range(HIDDEN)]
        if self.name == "rnn":
            return [[math.tanh(a[0] + c[0]) for a, c in gates]]
        if self.name == "gru":
            moved = []
            for (a, c), late, before in zip(gates, self.late, state[0], strict=True):
                r, z = sigmoid(a[0] + c[0]), sigmoid(a[1] + c[1])
                moved.append((1 - z) * math.tanh(a[2] + r * (c[2] + late)) + z * before)
            return [moved]
        memory = [
            sigmoid(a[1] + c[1]) * before + sigmoid(a[0] + c[0]) * math.tanh(a[2] + c[2])
            for (a, c), before in zip(gates, state[1], strict=True)
        ]
        looked = normed(memory, self.cell and self.cell.memory_norm, (1,))
        opened = [sigmoid(a[3] + c[3]) for a, c in gates]
        return [[o * math.tanh(v) for o, v in zip(opened, looked, strict=True)], memory]

    def run(self, xs: list[Row], state: list[Row], mask: Row) -> tuple[list[Row], list[Row]]:
        """Return what is visible after each step, and the last state."""
        visible = []
        for x in xs:
            drive = [dot(row, x) + bias for row, bias in zip(self.w, self.b, strict=True)]
            state = self.step(drive, state, mask)
            visible.append(state[0])
        return visible, state


def plain_layer(name: CellName, part: Recurrent, layer: int, direction: int) -> Plain:
    if isinstance(part, Layers):
        end = f"l{layer}" + "_reverse" * direction
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, u, b, c = (getattr(part.rnn, f"{kind}_{end}").tolist() for kind in kinds)
        late = c[2 * HIDDEN :] if name == "gru" else []
        early = c[: 2 * HIDDEN] + [0.0] * HIDDEN if name == "gru" else c
        return Plain(name, w, [p + q for p, q in zip(b, early, strict=True)], u, late, None)
    cell, drive = part.cells[direction], part.drives[direction]
    bias = [0.0] * cell.drive_size if drive.bias is None else drive.bias.tolist()
    late = cell.bias.tolist() if name == "gru" else []
    return Plain(name, drive.weight.tolist(), bias, cell.weight.tolist(), late, cell)


def reference(
    name: CellName,
    rnn: Recurrent,
    xs: list[Row],
    starts: list[list[Row]],
    masks: Iterator[Row],
) -> tuple[list[Row], list[list[Row]]]:
    """Return one sequence's outputs, and the last states by block and by layer and direction."""
    choices, ends = rnn.choices if isinstance(rnn, Stack) else PLAIN, []
    parts = list(rnn.parts) if isinstance(rnn, Stack) else [rnn]
    places = [(part, layer) for part in parts for layer in range(part.layers)]
    for number, (part, layer) in enumerate(places):
        read = xs
        if number and choices.variational:
            kept = next(masks)
            read = [[a * m for a, m in zip(x, kept, strict=True)] for x in xs]
        sides = []
        for direction in range(rnn.directions):
            start = [block[number * rnn.directions + direction] for block in starts]
            mask = next(masks) if choices.recurrent_dropout else [1.0] * HIDDEN
            layer_of = plain_layer(name, part, layer, direction)
            turned, end = layer_of.run(read[::-1] if direction else read, start, mask)
            sides.append(turned[::-1] if direction else turned)
            ends.append(end)
        outputs = [list(chain(*rows)) for rows in zip(*sides, strict=True)]
        added = number and choices.residual
        xs = [
            [a + b for a, b in zip(o, x, strict=True)] if added else o
            for o, x in zip(outputs, xs, strict=True)
        ]
    return xs, [list(block) for block in zip(*ends, strict=True)]


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Keep every mask that is drawn: the dropout of ones."""
    drawn: list[Tensor] = []
    real = F.dropout

    def dropout(values: Tensor, *args: Any, **options: Any) -> Tensor:
        left = real(values, *args, **options)
        if bool((values == 1).all()):
            drawn.append(left)
        return left

    monkeypatch.setattr(F, "dropout", dropout)
    return drawn


@each_cell
@each_choice
@each_shape
def test_equals_a_plain_loop_over_numbers(
    name: CellName, choices: Choices, layers: int, bidirectional: bool, masks: list[Tensor]
) -> None:
    rnn = build(name, choices, layers=layers, bidirectional=bidirectional)
    inputs, lengths = sequences(4, 1, 5)
    start = torch.randn(3, rnn.state_size, dtype=torch.float64)
    outputs, last = rnn(inputs, lengths, start)
    for row, length in enumerate(lengths.tolist()):
        blocks = start[row].view(rnn.blocks, -1, HIDDEN).tolist()
        own = iter([mask[row].flatten().tolist() for mask in masks])
        expected, ends = reference(name, rnn, inputs[row, :length].tolist(), blocks, own)
        assert next(own, None) is None  # every mask had its place
        close(outputs[row, :length], expected)
        close(last[row].view(rnn.blocks, -1, HIDDEN), ends)
        assert not outputs[row, length:].any()
        top = expected[-1][:HIDDEN] + expected[0][HIDDEN:]
        close(rnn.top(last)[row], top)


def close(found: Tensor, expected: Any) -> None:
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@each_cell
@pytest.mark.parametrize("choices", [CHOICES[0], CHOICES[-1]], ids=str)
def test_gradients_agree_with_finite_differences(name: CellName, choices: Choices) -> None:
    rnn = build(name, choices, layers=2, bidirectional=True)
    inputs, lengths = sequences(3, 1)
    start = torch.randn(2, rnn.state_size, dtype=torch.float64)
    names, values = zip(*rnn.named_parameters(), strict=True)

    def read(inputs: Tensor, start: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)  # the same masks at every call
        bound = dict(zip(names, parameters, strict=True))
        found: tuple[Tensor, Tensor] = torch.func.functional_call(
            rnn, bound, (inputs, lengths, start)
        )
        return found

    arguments = (inputs.requires_grad_(), start.requires_grad_(), *values)
    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(read, arguments, fast_mode=True)


@each_cell
def test_our_loop_is_the_librarys(name: CellName) -> None:
    looped = Looped(name, INPUTS, HIDDEN, bidirectional=True).double()
    layers = Layers(name, INPUTS, HIDDEN, bidirectional=True).double()
    shake(looped)
    with torch.no_grad():
        for direction, end in enumerate(("l0", "l0_reverse")):
            cell, drive = looped.cells[direction], looped.drives[direction]
            getattr(layers.rnn, f"weight_ih_{end}").copy_(drive.weight)
            getattr(layers.rnn, f"weight_hh_{end}").copy_(cell.weight)
            getattr(layers.rnn, f"bias_ih_{end}").copy_(drive.bias)
            getattr(layers.rnn, f"bias_hh_{end}").zero_()
            if name == "gru":
                getattr(layers.rnn, f"bias_hh_{end}")[2 * HIDDEN :] = cell.bias
    inputs, lengths = sequences(5, 2, 3)
    state = torch.randn(3, layers.state_size, dtype=torch.float64)
    for start in (None, state):
        for one, other in zip(
            looped(inputs, lengths, start), layers(inputs, lengths, start), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("name", "choices"), list(zip(get_args(CellName), CHOICES[2:], strict=True))
)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), extra=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_padding_is_never_read(
    name: CellName, choices: Choices, lengths: list[int], extra: int
) -> None:
    rnn = build(name, choices, layers=2, bidirectional=True).eval()
    inputs, sizes = sequences(*lengths, extra=extra)
    padding = torch.arange(inputs.shape[1]) >= sizes[:, None]
    inputs[padding] = math.nan
    outputs, state = rnn(inputs, sizes)
    outputs.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rnn.parameters())
    for row, length in enumerate(lengths):
        alone, last = rnn(inputs[row : row + 1, :length])
        torch.testing.assert_close(outputs[row, :length], alone[0])
        torch.testing.assert_close(state[row], last[0])
        assert not outputs[row, length:].any()


@each_cell
@each_choice
def test_a_state_carries_everything_over_step_by_step(name: CellName, choices: Choices) -> None:
    rnn, (inputs, _) = build(name, choices, layers=3).eval(), sequences(6, 6)
    whole, end = rnn(inputs)
    state, steps = None, []
    for at in range(6):
        step, state = rnn(inputs[:, at : at + 1], state=state)
        steps.append(step)
    assert state.shape == (2, rnn.state_size)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    torch.testing.assert_close(state, end)


@each_cell
def test_layers_above_go_on_as_if_they_were_of_one_stack(name: CellName) -> None:
    whole = build(name, Choices(layer_norm=True, residual=True), layers=3).eval()
    rest = layers_above(name, HIDDEN, layers=2, dropout=0.5, choices=whole.choices).double().eval()
    rest.parts.load_state_dict(whole.parts[1:].state_dict())
    inputs, _ = sequences(5, 5)
    first, _ = whole.parts[0](inputs)
    torch.testing.assert_close(rest(first)[0], whole(inputs)[0])


@each_cell
def test_without_choices_layers_above_are_the_librarys_behind_dropout(name: CellName) -> None:
    torch.manual_seed(1)
    rest = layers_above(name, INPUTS, layers=2, dropout=0.5)
    (layers,) = rest.parts
    assert isinstance(layers, Layers)
    inputs = sequences(5, 5)[0].float()
    torch.manual_seed(2)
    found = rest(inputs)
    torch.manual_seed(2)
    for one, other in zip(found, layers(Dropout(0.5)(inputs)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_library_runs_all_that_it_can(layers: int) -> None:
    assert isinstance(recurrent("gru", 2, 3, layers=layers), Layers)
    for choices in CHOICES[:2]:
        built = recurrent("gru", 2, 3, layers=layers, choices=choices)
        parts = [built] if layers == 1 else list(built.parts)
        assert all(isinstance(part, Layers) for part in parts)
        assert len(parts) == layers


@each_cell
def test_first_weights_are_those_of_the_plain_cells(name: CellName) -> None:
    for choices in CHOICES[2:4]:
        looped = recurrent(name, INPUTS, HIDDEN, bidirectional=True, choices=choices).parts[0]
        for cell, drive in zip(looped.cells, looped.drives, strict=True):
            for block in cell.weight.detach().split(HIDDEN):
                torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)
            started = drive.bias if cell.drive_norm is None else cell.drive_norm.bias
            assert torch.equal(started, cell.initial_bias())
            assert bool(started.any()) is (name == "lstm")
            gains = [p for n, p in cell.named_parameters() if n.endswith("gain")]
            assert len(gains) == (2 + (name == "lstm") if choices.layer_norm else 0)
            assert all((gain == 1).all() for gain in gains)


@pytest.mark.parametrize("choices", CHOICES[2:])
def test_half_precision_products_change_little(choices: Choices) -> None:
    rnn = build("lstm", choices, layers=2, bidirectional=True).float().eval()
    inputs, lengths = sequences(4, 2)
    single = rnn(inputs.float(), lengths)
    with torch.autocast("cpu", torch.bfloat16):
        half = rnn(inputs.float(), lengths)
    for one, other in zip(half, single, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.05, rtol=0)


def test_what_is_dropped_is_drawn_anew_for_each_sequence_and_call() -> None:
    cell = Choices(recurrent_dropout=0.25).cell("gru", 400)
    first, second = cell.mask(3), cell.mask(3)
    assert first is not None
    assert second is not None
    assert first.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert first.bool().float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert cell.eval().mask(3) is None


# The loop that attends.


@each_cell
@pytest.mark.parametrize("order", get_args(OrderName))
@pytest.mark.parametrize("choices", CHOICES[2:], ids=str)
def test_the_loop_that_attends_takes_them_too(
    name: CellName, order: OrderName, choices: Choices, masks: list[Tensor]
) -> None:
    torch.manual_seed(9)
    cell = choices.cell(name, HIDDEN)
    parts = nn.ModuleList(
        [
            cell,
            make_score("additive", ScoreSizes(HIDDEN, 4, 5)),
            make_order(order, cell, 4),
            cell.driven_by(3),
        ]
    ).double()
    shake(parts)
    _, score, wiring, linear = parts
    values, inputs = (torch.randn(2, n, w).double() for n, w in ((6, 4), (5, 3)))
    drives = Drives(inputs, linear)
    memory = remember(score, values, torch.tensor([6, 4]))
    state = torch.randn(2, cell.state_size).double()
    found = scan(cell, score, wiring, memory=memory, drives=drives, state=state)
    kept = masks[0].tolist() if choices.recurrent_dropout else [[1.0] * HIDDEN] * 2
    late = cell.bias.tolist() if name == "gru" else []
    plain = Plain(name, [], [], cell.weight.tolist(), late, cell)
    fed = torch.zeros(2, HIDDEN).double()
    for at in range(5):
        context = found.contexts[:, at]  # how that comes about is no matter of the cell
        total = drives.product()[:, at]
        if order != "unfed":
            total = total + (context if order == "before" else fed) @ wiring.weight.T
        rows = zip(total.tolist(), state.view(2, -1, HIDDEN).tolist(), kept, strict=True)
        moved = [list(chain(*plain.step(*row))) for row in rows]
        state = torch.tensor(moved, dtype=torch.float64)
        close(found.states[:, at], cell.visible(state).tolist())
        if order == "after":
            both = torch.cat([context, cell.visible(state)], dim=1)
            fed = torch.tanh(both @ wiring.combine.weight.T + wiring.combine.bias)
