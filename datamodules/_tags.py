"""What kinds of data with one tag a symbol share: names and their ids, and how answers are read.

Shapes: S symbols of a sequence, K tags, C labels.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules._base import Answer, LineData, Task
from datamodules._classes import UNKNOWN_CLASS


class Index:
    """Number names from `first` on; a name that is not among them has the id `unknown`."""

    def __init__(
        self, names: Sequence[str], *, first: int = 0, unknown: int = UNKNOWN_CLASS
    ) -> None:
        self.names = list(names)
        self._first, self._unknown = first, unknown
        self._ids = {name: first + place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        return self._first + len(self.names)

    def ids(self, names: Iterable[str]) -> list[int]:
        """Return the id of each of these."""
        return [self._ids.get(name, self._unknown) for name in names]


@dataclass(frozen=True)
class Tagging:
    """What a model says to one sequence."""

    #: Log-probabilities of all tags at each step, float32 (S, K).
    tags: Tensor
    #: Log-probabilities of all labels of the whole sequence, float32 (C,), where it has one.
    label: Tensor | None = None


class TagData(LineData):
    """A kind of data whose target is one tag for each symbol, and at most one label for all."""

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "tags")})

    @property
    @abstractmethod
    def tag_names(self) -> Sequence[str]:
        """The tags that can be predicted, by id."""

    @property
    @abstractmethod
    def label_names(self) -> Sequence[str]:
        """The labels that can be predicted, by id; none where sequences have no label."""

    @abstractmethod
    def true_tags(self, split: str) -> Sequence[Sequence[str]]:
        """Return the tags of every row, those that cannot be predicted among them."""

    @abstractmethod
    def words(self, line: str) -> list[str]:
        """Return what gets a tag in a line that is given to `encode`."""

    def answers(self, output: Tagging, line: str, count: int) -> list[Answer]:
        """Return the most likely rows of tags, each with the most likely label.

        The score is the probability of the tags.
        """
        steps = len(self.words(line))
        label = {} if output.label is None else {"label": self._best_label(output.label)}
        return [self._answer(*each, label) for each in likeliest(output.tags[:steps], count)]

    def _answer(self, ids: Sequence[int], score: float, label: Mapping[str, Any]) -> Answer:
        tags = [self.tag_names[each] for each in ids]
        return Answer(" ".join(tags), score, {"tags": tags, **label})

    def _best_label(self, scores: Tensor) -> str:
        return self.label_names[int(scores.argmax())]


def likeliest(scores: Tensor, count: int) -> list[tuple[list[int], float]]:
    """Return the `count` most likely rows of tags with their probabilities, the best first.

    Given the input the steps are independent, so that the best of a row begin with the best of
    its shorter part: scores (S, K) are added up step by step, and only the best sums kept.
    """
    sums = torch.zeros(1, dtype=torch.float64)  # (n,)
    chosen = torch.zeros(1, 0, dtype=torch.int64)  # (n, steps so far)
    for step in scores.double():
        grown = (sums[:, None] + step).flatten()
        sums, places = grown.topk(min(count, len(grown)))
        before, tag = places // len(step), places % len(step)
        chosen = torch.cat([chosen[before], tag[:, None]], dim=1)
    return list(zip(chosen.tolist(), sums.exp().tolist(), strict=True))
