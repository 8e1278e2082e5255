"""Topologies that name a class, held to their equations written once more as plain Python loops."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from datamodules._batch import Batch
from datamodules._classes import UNKNOWN_CLASS
from datamodules._vocab import PAD, UNK
from lightning_modules._classes import ClassScores, ClassTopology
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


def many_to_one(**parameters: Any) -> ManyToOne:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": HIDDEN, "embedding_size": 2}
    model = ManyToOne(**sizes, **parameters, vocabulary_size=SYMBOLS, num_classes=CLASSES)
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


def annotations(model: ManyToOne, cell: str, row: Sequence[int]) -> tuple[list[Vector], Vector]:
    """Return h_j of the highest layer, and what each direction knows at its end."""
    states = [model.inputs.map.weight[x].tolist() for x in row]
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
    logits = model(batch_of(ROWS))
    for row, found in zip(ROWS, logits.tolist(), strict=True):
        c = pooled(model, *annotations(model, cell, row))
        expected = plus(times(model.output.weight, c), model.output.bias.tolist())
        assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("reads", ["counts", "shares", "last"])
def test_a_single_layer_is_its_equation(reads: Any) -> None:
    model = single_layer(reads=reads, window=3)
    for row, found in zip(ROWS, model(batch_of(ROWS)).tolist(), strict=True):
        x = [0.0] * len(model.weight)
        for back, symbol in enumerate(row[::-1]):
            if reads == "last" and back < 3:
                x[back * SYMBOLS + symbol] += 1
            elif reads != "last":
                x[symbol] += 1 if reads == "counts" else 1 / len(row)
        expected = plus(times(model.weight.T, x), model.bias.tolist())
        assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)


def single_layer(**parameters: Any) -> SingleLayer:
    torch.manual_seed(1)
    model = SingleLayer(**parameters, vocabulary_size=SYMBOLS, num_classes=CLASSES)
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


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.hparams}")
def test_gradients_are_those_of_finite_differences(model: ClassTopology) -> None:
    batch = batch_of(ROWS)
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


def test_symbols_are_hidden_in_training_only() -> None:
    model = many_to_one(symbol_dropout=0.5, embedding_dropout=0.0, dropout=0.0)
    batch = batch_of([[4] * 50])
    assert torch.equal(model(batch), model(batch))
    seen: list[Tensor] = []
    model.inputs.map.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.train()(batch)
    assert set(seen[0].flatten().tolist()) == {4, UNK}


def test_a_class_that_training_did_not_have_counts_as_wrong() -> None:
    scores = ClassScores(3, torch.device("cpu"))
    logits = torch.eye(3)[[0, 1, 2, 2, 0]] * 5
    targets = torch.tensor([0, 1, 2, UNKNOWN_CLASS, UNKNOWN_CLASS])
    scores.update(logits[:3], targets[:3])
    scores.update(logits[3:], targets[3:])
    scores.update(logits[:0], targets[:0])
    found = scores.compute()
    assert found["accuracy"] == pytest.approx(3 / 5)
    # By hand: F1 of 0, 1, 2 and of the unknown: 2/3, 1, 2/3, 0.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3 + 0) / 4)
    assert found["loss"] == pytest.approx(math.log(1 + 2 * math.exp(-5)))


def test_a_split_with_no_known_class_has_no_loss() -> None:
    scores = ClassScores(3, torch.device("cpu"))
    scores.update(torch.eye(3), torch.full((3,), UNKNOWN_CLASS))
    assert scores.compute() == {"accuracy": 0.0, "macro_f1": 0.0}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_macro_f1_is_the_mean_over_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    scores = ClassScores(3, torch.device("cpu"))
    for truth, said in pairs:
        scores.update(torch.eye(3)[[said]], torch.tensor([truth]))
    truths, saids = (torch.tensor(each) for each in zip(*pairs, strict=True))
    per_class = multiclass_f1_score(saids, truths, num_classes=3, average="none")
    occurring = sorted({*truths.tolist(), *saids.tolist()})
    assert scores.compute()["macro_f1"] == pytest.approx(per_class[occurring].mean().item())


def test_answers_are_log_probabilities_on_the_cpu() -> None:
    outputs = many_to_one().predict(batch_of(ROWS))
    assert len(outputs) == len(ROWS)
    for output in outputs:
        assert output.shape == (CLASSES,)
        assert output.exp().sum().item() == pytest.approx(1)
