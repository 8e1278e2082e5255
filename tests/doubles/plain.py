"""The arithmetic of a network over Python lists, one number at a time."""

import math

from torch import nn

from lightning_modules._cells import CellName

Row = list[float]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def affine(layer: nn.Linear, x: Row) -> Row:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [dot(w, x) + b for w, b in rows]


def squash(values: Row) -> Row:
    return [math.tanh(v) for v in values]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def unit(name: CellName, x: Row, u: Row, state: Row) -> Row:
    """Return the next state of one unit from W x + b and U s + c, a number for each gate."""
    if name == "rnn":
        return [math.tanh(x[0] + u[0])]
    if name == "gru":
        r, z = sigmoid(x[0] + u[0]), sigmoid(x[1] + u[1])
        return [(1 - z) * math.tanh(x[2] + r * u[2]) + z * state[0]]
    i, f, g, o = (a + b for a, b in zip(x, u, strict=True))
    memory = sigmoid(f) * state[1] + sigmoid(i) * math.tanh(g)
    return [sigmoid(o) * math.tanh(memory), memory]
