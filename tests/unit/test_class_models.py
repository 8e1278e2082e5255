"""Topologies with one output for the whole input, held to their equations as plain Python loops."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules._batch import Batch
from datamodules._vocab import PAD
from lightning_modules._errors import ModelError
from lightning_modules._goals import GoalTopology
from lightning_modules.many_to_one import ManyToOne
from lightning_modules.single_layer import SingleLayer

SYMBOLS, CLASSES, HIDDEN = 9, 4, 3
Vector = list[float]


def batch_of(rows: Sequence[Sequence[int]], extra: int = 0) -> Batch:
    longest = max(map(len, rows)) + extra
    return Batch(
        inputs=torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows]),
        lengths=torch.tensor([len(row) for row in rows]),
    )


ROWS = [[4, 5, 6, 2], [8, 2], [2], [7, 7, 3, 4, 5, 2]]
FEATURES = 2
#: One row for each of ROWS, and as long: what stands there instead of its symbols.
FRAMES = [[[math.sin(symbol), math.cos(3 * symbol)] for symbol in row] for row in ROWS]
#: What comes in and what goes out, by the parameters that the data fills in.
SYMBOLS_IN = {"vocabulary_size": SYMBOLS}
FRAMES_IN = {"feature_size": FEATURES}
CLASS_OUT = {"num_classes": CLASSES}
VALUES_OUT = {"value_size": 2, "value_steps": 3}
DEFAULT = SYMBOLS_IN | CLASS_OUT


def frames_of(rows: Sequence[Sequence[Vector]], extra: int = 0) -> Batch:
    longest = max(map(len, rows)) + extra
    padded = [[*row, *[[9.0] * FEATURES] * (longest - len(row))] for row in rows]
    return Batch(torch.tensor(padded, dtype=torch.float64), torch.tensor(list(map(len, rows))))


def many_to_one(dims: Mapping[str, Any] = DEFAULT, **parameters: Any) -> ManyToOne:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": HIDDEN, "embedding_size": 2}
    model = ManyToOne(**sizes, **parameters, **dims)
    for each in model.parameters():  # biases too: a zero would hide a term that is missing
        torch.nn.init.normal_(each, std=0.6)
    return model.double().eval()


# --- the reference: no tensors but to read the weights


def times(matrix: Tensor, vector: Vector) -> Vector:
    return [math.fsum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix.tolist()]


def plus(*vectors: Vector) -> Vector:
    return [math.fsum(values) for values in zip(*vectors, strict=True)]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def step(cell: str, x: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """Return h_j and, of an LSTM, c_j from W x + b and U h + d, gate by gate."""
    size = len(c)
    gates = [[part[g * size : (g + 1) * size] for part in (x, h)] for g in range(len(x) // size)]
    if cell == "rnn":
        return [math.tanh(a + b) for a, b in zip(*gates[0], strict=True)], c
    if cell == "gru":
        r, z = ([sigma(a + b) for a, b in zip(*gate, strict=True)] for gate in gates[:2])
        n = [math.tanh(a + k * b) for a, b, k in zip(*gates[2], r, strict=True)]
        return n, z
    i, f, o = ([sigma(a + b) for a, b in zip(*gates[g], strict=True)] for g in (0, 1, 3))
    new = [math.tanh(a + b) for a, b in zip(*gates[2], strict=True)]
    c = [k * old + e * n for k, old, e, n in zip(f, c, i, new, strict=True)]
    return [leave * math.tanh(each) for leave, each in zip(o, c, strict=True)], c


def run(rnn: Any, cell: str, suffix: str, inputs: list[Vector]) -> list[Vector]:
    weights = {k: getattr(rnn, f"{k}_{suffix}") for k in ("weight_ih", "weight_hh")}
    biases = {k: getattr(rnn, f"{k}_{suffix}").tolist() for k in ("bias_ih", "bias_hh")}
    h, c, states = [0.0] * HIDDEN, [0.0] * HIDDEN, []
    for x in inputs:
        drive = plus(times(weights["weight_ih"], x), biases["bias_ih"])
        pull = plus(times(weights["weight_hh"], h), biases["bias_hh"])
        new, rest = step(cell, drive, pull, c)
        if cell == "gru":  # rest is z
            h = [(1 - z) * n + z * old for n, z, old in zip(new, rest, h, strict=True)]
        else:
            h, c = new, rest
        states.append(h)
    return states


def read(model: ManyToOne, step: Any) -> Vector:
    """Return x_j of a symbol, or of a frame."""
    if isinstance(model.inputs.map, torch.nn.Linear):
        return plus(times(model.inputs.map.weight, step), model.inputs.map.bias.tolist())
    found: Vector = model.inputs.map.weight[step].tolist()
    return found


def annotations(model: ManyToOne, cell: str, row: Sequence[Any]) -> tuple[list[Vector], Vector]:
    """Return h_j of the highest layer, and what each direction knows at its end."""
    states = [read(model, step) for step in row]
    for layer in range(model.encoder.layers):
        inputs = states
        states = run(model.encoder.rnn, cell, f"l{layer}", inputs)
        last = states[-1]
        if model.encoder.directions == 2:
            backward = run(model.encoder.rnn, cell, f"l{layer}_reverse", inputs[::-1])[::-1]
            last = last + backward[0]
            states = [a + b for a, b in zip(states, backward, strict=True)]
    return states, last


def pooled(model: ManyToOne, states: list[Vector], last: Vector) -> Vector:
    units = list(zip(*states, strict=True))
    if model.pooling == "last":
        return last
    if model.pooling == "mean":
        return [math.fsum(values) / len(values) for values in units]
    if model.pooling == "max":
        return [max(values) for values in units]
    assert model.attention is not None
    key, question = model.attention.key, model.attention.vector.weight
    energies = [
        times(question, [math.tanh(u) for u in plus(times(key.weight, h), key.bias.tolist())])[0]
        for h in states
    ]
    total = math.fsum(map(math.exp, energies))
    return [
        math.fsum(math.exp(e) / total * v for e, v in zip(energies, values, strict=True))
        for values in units
    ]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize(("layers", "bidirectional"), list(product([1, 2], [False, True])))
def test_many_to_one_is_its_equations(
    cell: Any, pooling: Any, layers: int, bidirectional: bool
) -> None:
    model = many_to_one(cell=cell, pooling=pooling, layers=layers, bidirectional=bidirectional)
    held_to_the_loops(model, cell, ROWS, model(batch_of(ROWS)))


@pytest.mark.parametrize("goes_out", [CLASS_OUT, VALUES_OUT])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_many_to_one_on_frames_is_its_equations(cell: Any, goes_out: dict[str, int]) -> None:
    model = many_to_one(FRAMES_IN | goes_out, cell=cell, pooling="attention")
    held_to_the_loops(model, cell, FRAMES, model(frames_of(FRAMES, extra=2)))


def held_to_the_loops(model: ManyToOne, cell: str, rows: Sequence[Any], outputs: Tensor) -> None:
    for row, found in zip(rows, outputs.tolist(), strict=True):
        c = pooled(model, *annotations(model, cell, row))
        expected = plus(times(model.output.weight, c), model.output.bias.tolist())
        assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("goes_in", [SYMBOLS_IN, FRAMES_IN])
@pytest.mark.parametrize("goes_out", [CLASS_OUT, VALUES_OUT])
@pytest.mark.parametrize("reads", ["counts", "shares", "last"])
def test_a_single_layer_is_its_equation(
    reads: Any, goes_in: dict[str, int], goes_out: dict[str, int]
) -> None:
    model = single_layer(goes_in | goes_out, reads=reads, window=3)
    symbols = goes_in is SYMBOLS_IN
    outputs = model(batch_of(ROWS, extra=1) if symbols else frames_of(FRAMES, extra=1))
    for row, frames, found in zip(ROWS, FRAMES, outputs.tolist(), strict=True):
        steps = [one_hot(symbol) for symbol in row] if symbols else frames
        if reads == "last":
            empty = [[0.0] * len(steps[0])] * 3
            x = [value for step in [*steps[::-1], *empty][:3] for value in step]
        else:
            x = [value / (len(row) if reads == "shares" else 1) for value in plus(*steps)]
        expected = plus(times(model.weight.T, x), model.bias.tolist())
        assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)


def one_hot(symbol: int) -> Vector:
    return [float(place == symbol) for place in range(SYMBOLS)]


def single_layer(dims: Mapping[str, Any] = DEFAULT, **parameters: Any) -> SingleLayer:
    torch.manual_seed(1)
    model = SingleLayer(**parameters, **dims)
    for each in model.parameters():
        torch.nn.init.normal_(each)
    return model.double()


# --- what must not matter, and what must


MODELS = [
    *(many_to_one(cell=c, pooling=p) for c, p in product(["rnn", "lstm"], ["last", "attention"])),
    *(many_to_one(pooling=p, layers=2) for p in ("mean", "max")),
    *(single_layer(reads=r, window=2) for r in ("counts", "shares", "last")),
]


@given(
    rows=st.lists(st.lists(st.integers(1, SYMBOLS - 1), min_size=1, max_size=6), min_size=2),
    extra=st.integers(0, 5),
    which=st.integers(0, len(MODELS) - 1),
)
@settings(max_examples=40, deadline=None)
def test_neither_padding_nor_company_changes_a_result(
    rows: list[list[int]], extra: int, which: int
) -> None:
    model = MODELS[which]
    together = model(batch_of(rows, extra))
    for row, logits in zip(rows, together, strict=True):
        torch.testing.assert_close(model(batch_of([row]))[0], logits, atol=1e-12, rtol=1e-12)


ON_FRAMES = [
    make(FRAMES_IN | VALUES_OUT, **options)
    for make, options in (
        (many_to_one, {"pooling": "last"}),
        (single_layer, {"reads": "last", "window": 2}),
        (single_layer, {"reads": "shares"}),
    )
]


@pytest.mark.parametrize("model", [*MODELS, *ON_FRAMES], ids=lambda model: f"{model.hparams}")
def test_gradients_are_those_of_finite_differences(model: GoalTopology) -> None:
    batch = frames_of(FRAMES) if model in ON_FRAMES else batch_of(ROWS)
    names, values = zip(*model.named_parameters(), strict=True)

    def logits(*parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        result: Tensor = torch.func.functional_call(model, state, (batch,))
        return result

    inputs = tuple(each.detach().clone().requires_grad_() for each in values)
    assert torch.autograd.gradcheck(logits, inputs, fast_mode=True)


def test_reading_backwards_sees_what_reading_forwards_does_not() -> None:
    """The last state of a forward reader knows nothing that comes after; a backward one does."""
    row, other = [4, 5, 6, 2], [4, 5, 7, 2]
    for bidirectional in (False, True):
        model = many_to_one(pooling="last", bidirectional=bidirectional)
        states = [
            model.encoder(model.inputs(batch_of([each])), torch.tensor([4]))[0]
            for each in (row, other)
        ]
        assert torch.equal(states[0][0, 0], states[1][0, 0]) is not bidirectional


def test_answers_are_log_probabilities_on_the_cpu() -> None:
    outputs = many_to_one().predict(batch_of(ROWS))
    assert len(outputs) == len(ROWS)
    for output in outputs:
        assert output.shape == (CLASSES,)
        assert output.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("make", [many_to_one, single_layer])
def test_values_are_answered_step_by_step(make: Any) -> None:
    model = make(FRAMES_IN | VALUES_OUT)
    outputs = model.predict(frames_of(FRAMES))
    assert [output.shape for output in outputs] == [(3, 2)] * len(FRAMES)
    torch.testing.assert_close(outputs[1].flatten(), model(frames_of(FRAMES))[1].float())


@pytest.mark.parametrize("make", [many_to_one, single_layer])
@pytest.mark.parametrize(
    ("dims", "why"),
    [
        (SYMBOLS_IN, "a class .* and gives neither"),
        (SYMBOLS_IN | CLASS_OUT | VALUES_OUT, "a class .* not both"),
        (CLASS_OUT, "must give symbols .* or frames"),
        (SYMBOLS_IN | FRAMES_IN | CLASS_OUT, "must give symbols .* or frames"),
    ],
)
def test_the_data_must_give_one_thing_to_read_and_one_to_learn(
    make: Any, dims: dict[str, int], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        make(dims)


@pytest.mark.parametrize("make", [many_to_one, single_layer])
def test_only_classes_are_smoothed(make: Any) -> None:
    with pytest.raises(ModelError, match=r"label_smoothing .* no classes .* leave it out"):
        make(SYMBOLS_IN | VALUES_OUT, label_smoothing=0.1)
