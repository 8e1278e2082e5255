"""What a model is to say of frames, once training has been read: it travels with the checkpoint.

Shapes: B sequences, S frames, V values, K labels of which a frame may have several, N rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules._base import Answer
from datamodules._base import Written as WrittenIds
from datamodules._classes import MISSED, UNKNOWN_CLASS
from datamodules._errors import DataError, DataFormatError
from datamodules._rows import Rows
from datamodules._tags import Index, Tagging, likeliest
from datamodules._targets import LabelTargets, TextTargets, targets_from_state
from datamodules._values import Scaling, value_answer


@dataclass(frozen=True)
class Padded:
    """The part of a batch that is to be learned."""

    targets: Tensor
    lengths: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class FrameTargets(ABC):
    """What answers look like to a model."""

    @property
    @abstractmethod
    def dims(self) -> dict[str, int | bool]:
        """Return the values of `FromData` parameters that depend on the answers."""

    @abstractmethod
    def encode(self, said: Sequence[Any]) -> Rows:
        """Return each answer as ids or numbers."""

    @abstractmethod
    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return the chosen rows as a batch holds them."""

    def unknown(self, rows: Rows) -> NDArray[np.int64]:
        """Return how many labels of each row training did not have, (N,)."""
        return np.zeros(len(rows), dtype=np.int64)

    @abstractmethod
    def answers(self, output: Any, count: int) -> list[Answer]:
        """Return at most `count` answers, the best first, as a person reads them."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything as plain values, its class's name as `kind`."""


@dataclass(frozen=True)
class OneOf(FrameTargets):
    """A label for the whole sequence."""

    targets: LabelTargets

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many classes there are."""
        return self.targets.dims

    def encode(self, said: Sequence[str]) -> Rows:
        """Return the place of each label."""
        return self.targets.encode(said)

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return classes, int64 (B,)."""
        return Padded(*self.targets.padded(rows, chosen))

    def unknown(self, rows: Rows) -> NDArray[np.int64]:
        """Return 1 where the label is one that training did not have."""
        return _count(rows, rows.values == UNKNOWN_CLASS)

    def answers(self, output: Tensor, count: int) -> list[Answer]:
        """Return the likeliest labels, of log-probabilities (C,)."""
        return self.targets.answers(output, count)

    def state(self) -> dict[str, Any]:
        """Return the labels."""
        return {"kind": "label", **self.targets.state()}


@dataclass(frozen=True)
class Written(FrameTargets):
    """A text."""

    targets: TextTargets

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many symbols there are."""
        return self.targets.dims

    def encode(self, said: Sequence[str]) -> Rows:
        """Return the ids of each text."""
        return self.targets.encode(said)

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return ids, int64 (B, T)."""
        return Padded(*self.targets.padded(rows, chosen))

    def answers(self, output: Sequence[WrittenIds], count: int) -> list[Answer]:
        """Return the best texts of a search."""
        return [
            Answer(self.targets.vocabulary.decode(each.ids), each.score) for each in output[:count]
        ]

    def state(self) -> dict[str, Any]:
        """Return vocabulary and form."""
        return {"kind": "text", **self.targets.state()}


@dataclass(frozen=True)
class OneEach(FrameTargets):
    """A label for each frame."""

    labels: tuple[str, ...]

    @classmethod
    def learn(cls, said: Iterable[Sequence[str]]) -> "OneEach":
        """Take the labels of training. Raise DataFormatError where there is only one."""
        labels = sorted({label for row in said for label in row})
        if len(labels) < 2:
            raise DataFormatError(
                f"all frames to train on have the label {labels[0]!r}: there is nothing to tell"
                " apart"
            )
        return cls(tuple(labels))

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many labels there are."""
        return {"num_tags": len(self.labels)}

    def encode(self, said: Sequence[Sequence[str]]) -> Rows:
        """Return the place of each frame's label."""
        index = Index(self.labels)
        return Rows.of_ids((index.ids(row) for row in said), ended=False)

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return labels, int64 (B, S)."""
        return Padded(*rows.padded(chosen))

    def unknown(self, rows: Rows) -> NDArray[np.int64]:
        """Return how many frames have a label that training did not have."""
        return _count(rows, rows.values == UNKNOWN_CLASS)

    def answers(self, output: Tagging, count: int) -> list[Answer]:
        """Return the likeliest rows of labels; the score is their probability."""
        found = []
        for ids, score in likeliest(output.tags, count):
            labels = [self.labels[each] for each in ids]
            found.append(Answer(" ".join(labels), score, {"labels": labels}))
        return found

    def state(self) -> dict[str, Any]:
        """Return the labels."""
        return {"kind": "tags", "labels": list(self.labels)}


@dataclass(frozen=True)
class AnyOf(FrameTargets):
    """For each frame which labels it has, none, one or several."""

    labels: tuple[str, ...]

    @classmethod
    def learn(cls, said: Iterable[Sequence[Sequence[str]]]) -> "AnyOf":
        """Take the labels of training. Raise DataFormatError where there are none."""
        labels = sorted({label for row in said for step in row for label in step})
        if not labels:
            raise DataFormatError("no frame to train on has any label: there is nothing to learn")
        return cls(tuple(labels))

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many labels there are."""
        return {"label_size": len(self.labels)}

    def encode(self, said: Sequence[Sequence[Sequence[str]]]) -> Rows:
        """Return 0 or 1 for each label, and behind them how many more a frame has, (S, K + 1)."""
        return Rows.of_frames((self._marked(row) for row in said), len(self.labels) + 1)

    def _marked(self, row: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        places = {label: place for place, label in enumerate(self.labels)}
        marked = np.zeros((len(row), len(places) + 1), dtype=np.float32)
        for step, labels in enumerate(row):
            for label in set(labels):
                if label in places:
                    marked[step, places[label]] = 1
                else:
                    marked[step, -1] += 1
        return marked

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return labels, float32 (B, S, K), and beside them how many are missed."""
        marked, lengths = rows.padded_frames(chosen)
        return Padded(marked[..., :-1], lengths, {MISSED: marked[..., -1].long()})

    def unknown(self, rows: Rows) -> NDArray[np.int64]:
        """Return how many labels of each row training did not have."""
        return _count(rows, rows.values[:, -1])

    def answers(self, output: Tensor, count: int) -> list[Answer]:  # noqa: ARG002 (there is one)
        """Return the labels that are likelier than not, of probabilities (S, K)."""
        holds = output > 0.5
        labels = [
            [label for label, it in zip(self.labels, step, strict=True) if it]
            for step in holds.tolist()
        ]
        text = " ".join("+".join(step) or "-" for step in labels)
        score = float(output.where(holds, 1 - output).double().prod())
        return [Answer(text, score, {"labels": labels})]

    def state(self) -> dict[str, Any]:
        """Return the labels."""
        return {"kind": "labels", "labels": list(self.labels)}


@dataclass(frozen=True)
class Measured(FrameTargets):
    """Values, of the whole sequence or of each frame; models see scaled ones."""

    scaling: Scaling
    #: Whether each frame has its own.
    each: bool

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many values there are."""
        return {"value_size": len(self.scaling.mean)} | ({} if self.each else {"value_steps": 1})

    def encode(self, said: Sequence[NDArray[np.floating]]) -> Rows:
        """Return scaled values."""
        return Rows.of_frames(map(self.scaling, said), len(self.scaling.mean))

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return values, float32 (B, S, V), or (B, 1, V) of the whole sequence."""
        return Padded(*rows.padded_frames(chosen))

    def answers(self, output: Tensor, count: int) -> list[Answer]:  # noqa: ARG002 (there is one)
        """Return values (S, V) in the unit of the file."""
        names = ["value"]
        if len(self.scaling.mean) > 1:
            names = [f"value {place}" for place in range(len(self.scaling.mean))]
        return [value_answer(self.scaling.undo(output.numpy()), names)]

    def state(self) -> dict[str, Any]:
        """Return the scaling."""
        return {"kind": "values", "each": self.each, **self.scaling.state()}


@dataclass(frozen=True)
class NextFrame(FrameTargets):
    """The frame that follows each."""

    scaling: Scaling
    #: Whether all features that training has are 0 or 1.
    binary: bool

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return whether frames are 0 and 1."""
        return {"binary_frames": self.binary}

    def encode(self, said: Sequence[None]) -> Rows:
        """Return nothing: frames are their own answers."""
        return Rows.of_ids(([] for _ in said), ended=False)

    def padded(self, rows: Rows, chosen: Sequence[int]) -> Padded:
        """Return nothing, (B, 0): windows of frames hold their targets."""
        return Padded(*rows.padded(chosen))

    def answers(self, output: Tensor, count: int) -> list[Answer]:  # noqa: ARG002 (there is one)
        """Return the next frame in the unit of the file, or the chance of each of its features."""
        frame = self.scaling.undo(output.numpy()).tolist()
        return [Answer(_line(frame), 0.0, {"frame": frame})]

    def continued(self, written: Tensor, score: float) -> Answer:
        """Return frames (S, F) in the unit of the file, a line for each."""
        frames = self.scaling.undo(written.numpy()).tolist()
        return Answer("\n".join(map(_line, frames)), score, {"frames": frames})

    def state(self) -> dict[str, Any]:
        """Return the scaling."""
        return {"kind": "next", "binary": self.binary, **self.scaling.state()}


def _line(frame: Iterable[float]) -> str:
    return " ".join(f"{each:.6g}" for each in frame)


def frame_targets_from_state(state: Mapping[str, Any]) -> FrameTargets:
    """Return the targets of which `state` was taken."""
    kind = state["kind"]
    if kind in {"tags", "labels"}:
        return (OneEach if kind == "tags" else AnyOf)(tuple(state["labels"]))
    if kind == "values":
        return Measured(Scaling.from_state(state), state["each"])
    if kind == "next":
        return NextFrame(Scaling.from_state(state), state["binary"])
    targets = targets_from_state(state)
    if isinstance(targets, LabelTargets):
        return OneOf(targets)
    if isinstance(targets, TextTargets):
        return Written(targets)
    raise DataError(f"this checkpoint holds targets of a kind this version cannot read: {kind!r}")


def _count(rows: Rows, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the sum of one number for each value (V,) over each row, (N,)."""
    sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    return sums[rows.offsets[1:]] - sums[rows.offsets[:-1]]
