"""Scores of tags: spans as conlleval counts them, and what a split's steps and rows add up to.

conlleval is the script of the CoNLL shared tasks (Tjong Kim Sang & Buchholz 2000). seqeval, the
library people use instead, has had no release since 2020 and needs scikit-learn.

Shapes: B sequences, S steps, M steps that count, K tags, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torchmetrics import SumMetric

#: A kind with its first step and the step behind its last one.
Span = tuple[str, int, int]

_OUTSIDE: Final = ("O", None)
_MARKS: Final = frozenset("BIES")


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans that tags with marks B-, I- (and E-, S-) make.

    As conlleval has it, a span begins at a B, at the first step inside one, and where the kind
    changes: `O I-x I-y` holds two spans of one step.
    """
    found: set[Span] = set()
    begin, (last_mark, last_kind) = 0, _OUTSIDE
    for step, (mark, kind) in enumerate([*map(_parts, tags), _OUTSIDE]):
        if mark in {"B", "S"} or last_mark in {"E", "S"} or kind != last_kind:
            if last_kind is not None:
                found.add((last_kind, begin, step))
            begin = step
        last_mark, last_kind = mark, kind
    return found


def _parts(tag: str) -> tuple[str, str | None]:
    mark, _, kind = tag.partition("-")
    return (mark, kind) if mark in _MARKS else _OUTSIDE


def each_step(tags: Sequence[str]) -> set[Span]:
    """Return a span for each step: for tags without marks, such as parts of speech."""
    return {(tag, step, step + 1) for step, tag in enumerate(tags)}


def have_marks(tags: Sequence[str]) -> bool:
    """Say whether these tags, all that there are, mark spans.

    A mark has a kind behind it, `B-x`, or there are none but marks. What else is called B, I, E or
    S is a name like others: of parts of speech, of phones, of structures of proteins.
    """
    inside = {*tags} - {"O"}
    return any(_parts(tag)[1] for tag in inside) or (bool(inside) and inside <= _MARKS)


@dataclass(frozen=True)
class SpanCounts:
    """How many spans are right, how many were found, and how many there are."""

    correct: float = 0
    found: float = 0
    true: float = 0

    @classmethod
    def of(cls, found: set[Span], true: set[Span]) -> "SpanCounts":
        """Count the spans of one row."""
        return cls(len(found & true), len(found), len(true))

    def __add__(self, other: "SpanCounts") -> "SpanCounts":
        return SpanCounts(
            self.correct + other.correct, self.found + other.found, self.true + other.true
        )

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall (0-1); 0 where there are no spans at all."""
        return 2 * self.correct / (self.found + self.true) if self.found + self.true else 0.0


class Sums:
    """Add up numbers by name, exactly, on any number of ranks."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.device = device
        self._sums = {
            name: SumMetric(nan_strategy="disable").set_dtype(torch.float64).to(device)
            for name in names
        }
        self.add(**dict.fromkeys(names, 0.0))

    def add(self, **values: Tensor | float) -> None:
        """Add to some of the sums."""
        for name, value in values.items():
            self._sums[name].update(value)

    def compute(self) -> dict[str, float]:
        """Return all sums."""
        return {name: float(each.compute()) for name, each in self._sums.items()}
