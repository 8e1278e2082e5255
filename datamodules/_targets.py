"""What an input that is not text is to be turned into: one of several labels, or a text.

Both are kept as rows of ids. What was learned of training's answers travels with the checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from datamodules._base import Answer
from datamodules._classes import UNKNOWN_CLASS
from datamodules._encoded import encode_lines
from datamodules._labelled import Example, classes_of
from datamodules._rows import Rows
from datamodules._vocab import KINDS, TextForm, Tokens, Vocabulary, from_state

TargetName = Literal["label", "text"]


class Targets(ABC):
    """What answers look like to a model."""

    #: What they are called in the state.
    name: ClassVar[TargetName]

    @property
    @abstractmethod
    def dims(self) -> dict[str, int | bool]:
        """Return the values of `FromData` parameters that depend on the answers."""

    @abstractmethod
    def encode(self, answers: Sequence[str]) -> Rows:
        """Return the ids of each answer."""

    @abstractmethod
    def padded(self, rows: Rows, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return targets and their lengths, as a batch holds them, of the chosen rows."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything as plain values; `targets_from_state` undoes it."""


@dataclass(frozen=True)
class LabelTargets(Targets):
    """One of the labels that training has."""

    labels: tuple[str, ...]

    name: ClassVar[TargetName] = "label"

    @classmethod
    def learn(cls, examples: Sequence[Example]) -> "LabelTargets":
        """Take the labels of training. Raise DataFormatError where there is only one."""
        return cls(tuple(classes_of(examples)))

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many classes there are."""
        return {"num_classes": len(self.labels)}

    def encode(self, answers: Sequence[str]) -> Rows:
        """Return the place of each label, or UNKNOWN_CLASS."""
        places = {label: place for place, label in enumerate(self.labels)}
        return Rows.of_ids(([places.get(each, UNKNOWN_CLASS)] for each in answers), ended=False)

    def padded(self, rows: Rows, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the classes, int64 (B,), and a length of 1 for each."""
        classes, lengths = rows.padded(chosen)
        return classes[:, 0], lengths

    def answers(self, log_probabilities: Tensor, count: int) -> list[Answer]:
        """Return the likeliest labels with their probabilities; log-probabilities (C,) in."""
        best = torch.topk(log_probabilities.exp(), min(count, len(log_probabilities)))
        return [
            Answer(self.labels[place], score, {"label": self.labels[place]})
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Return the labels."""
        return {"target": self.name, "labels": list(self.labels)}


@dataclass(frozen=True)
class TextTargets(Targets):
    """A text of the symbols that training has."""

    vocabulary: Vocabulary
    form: TextForm

    name: ClassVar[TargetName] = "text"

    @classmethod
    def learn(
        cls, texts: Sequence[str], form: TextForm, tokens: Tokens, size: int
    ) -> "TextTargets":
        """Learn the symbols of training's texts, `size` at most."""
        return cls(KINDS[tokens].train([form(each) for each in texts], size), form)

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many symbols there are, and that none of them goes in."""
        return {
            "source_vocabulary_size": 0,
            "target_vocabulary_size": len(self.vocabulary),
            "shared_vocabulary": False,
        }

    def encode(self, answers: Sequence[str]) -> Rows:
        """Return the ids of each text, the end symbol behind them."""
        return encode_lines(self.vocabulary, [self.form(each) for each in answers])

    def padded(self, rows: Rows, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the ids, int64 (B, T), and their lengths."""
        return rows.padded(chosen)

    def state(self) -> dict[str, Any]:
        """Return vocabulary and form of the text."""
        return {
            "target": self.name,
            "form": self.form.state(),
            "vocabulary": self.vocabulary.state(),
        }


def targets_from_state(state: Mapping[str, Any]) -> Targets:
    """Return the targets of which `state` was taken."""
    if state["target"] == "label":
        return LabelTargets(tuple(state["labels"]))
    return TextTargets(from_state(state["vocabulary"]), TextForm(**state["form"]))
