"""What preparing frames makes: sequences beside what is said of them, and what was learned of both.

Shapes: N sequences of a split, F features.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules._bucketing import Sizes
from datamodules._cache import Prepared
from datamodules._errors import DataFormatError
from datamodules._frame_answers import READERS, VALUES, TargetName
from datamodules._frame_files import Frames, Row, read_frames
from datamodules._frame_targets import (
    FrameTargets,
    Measured,
    NextFrame,
    frame_targets_from_state,
)
from datamodules._paths import Folder
from datamodules._rows import Rows, Texts, arrays_of, rows_of
from datamodules._values import Scaling


@dataclass(frozen=True)
class Learned:
    """What training has: the scale of its frames, and what is said of them."""

    scaling: Scaling
    targets: FrameTargets

    def state(self) -> dict[str, Any]:
        """Return both as plain values."""
        return {"scaling": self.scaling.state(), "targets": self.targets.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Learned":
        """Undo `state`."""
        targets = frame_targets_from_state(state["targets"])
        return cls(Scaling.from_state(state["scaling"]), targets)


@dataclass(frozen=True)
class Framed:
    """One split as its files have it, so that it is the same for whatever model."""

    #: Frames (S, F) of each sequence, not scaled.
    frames: Rows
    #: Its path.
    names: Texts
    #: What is said of it: values (n, V), or JSON as text.
    said: Rows
    values: bool

    @classmethod
    def read(
        cls, rows: Sequence[Row], folder: Folder, target: TargetName, features: int | None
    ) -> "Framed":
        """Read files and what is said of them. Raise DataError for the first that is not right."""
        reader, said, parts = READERS[target], [], []
        for row in rows:
            frames = read_frames(row.path, row.where, features)
            features = frames.shape[1]
            parts.append(frames)
            said.append(reader(row, folder, len(frames)))
        return cls(
            Rows.of_frames(parts, features or 1),
            Texts(Rows.of_texts(row.name for row in rows)),
            _values(said, rows) if target in VALUES else Rows.of_texts(map(json.dumps, said)),
            target in VALUES,
        )

    def answers(self) -> list[Any]:
        """Return what is said of each sequence."""
        if self.values:
            return list(_rows(self.said))
        return [json.loads(text) for text in Texts(self.said)]

    def require_like(self, learned: Learned) -> None:
        """Raise DataFormatError where a model of what training had cannot read this split.

        That is looked at here and not in the files: a cached split is the same for every model.
        """
        counts = [("features a frame", self.frames, learned.scaling)]
        if isinstance(learned.targets, Measured):
            counts.append(("values", self.said, learned.targets.scaling))
        for what, rows, scaling in counts:
            count, known = rows.values.shape[1], len(scaling.mean)
            if count != known:
                raise DataFormatError(
                    f"{self.names[0]} has {count} {what} where training has {known}"
                )
        if isinstance(learned.targets, NextFrame) and learned.targets.binary:
            self._require_binary()

    def _require_binary(self) -> None:
        for name, frames in zip(self.names, _rows(self.frames), strict=True):
            if not is_binary(frames):
                raise DataFormatError(
                    f"{name} holds other numbers than 0 and 1, which are all that training has:"
                    " train with scale = 'standard'"
                )

    def where(self, kept: NDArray[np.bool_]) -> "Framed":
        """Return only the sequences for which `kept` (N,) is true."""
        names = Texts(self.names.rows.where(kept))
        return replace(
            self, frames=self.frames.where(kept), names=names, said=self.said.where(kept)
        )


def is_binary(frames: Frames) -> bool:
    """Return whether all features are 0 or 1."""
    return bool(((frames == 0) | (frames == 1)).all())


def _values(said: Sequence[NDArray[np.float32]], rows: Sequence[Row]) -> Rows:
    columns = said[0].shape[1]
    for each, row in zip(said, rows, strict=True):
        if each.shape[1] != columns:
            raise DataFormatError(
                f"{row.where} has {each.shape[1]} values where the others have {columns}"
            )
    return Rows.of_frames(said, columns)


def _rows(rows: Rows) -> Iterator[Frames]:
    for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        yield rows.values[start:end]


def to_prepared(framed: Mapping[str, Framed]) -> Prepared:
    """Return all splits as arrays, and facts."""
    parts = {
        split: {"frames": each.frames, "names": each.names.rows, "said": each.said}
        for split, each in framed.items()
    }
    return Prepared(arrays_of(parts), {split: each.values for split, each in framed.items()})


def from_prepared(prepared: Prepared) -> dict[str, Framed]:
    """Undo `to_prepared`."""
    framed = {}
    for split, values in prepared.facts.items():
        parts = rows_of(prepared.arrays, split)
        framed[split] = Framed(parts["frames"], Texts(parts["names"]), parts["said"], values)
    return framed


@dataclass(frozen=True)
class FrameSplit:
    """One split as a model meets it."""

    framed: Framed
    #: What is said, encoded.
    said: Rows
    #: How many labels of each sequence training did not have, (N,).
    unknown: NDArray[np.int64]

    @classmethod
    def of(cls, framed: Framed, learned: Learned) -> "FrameSplit":
        """Return the split of these sequences. Raise DataFormatError as `require_like` does."""
        framed.require_like(learned)
        said = learned.targets.encode(framed.answers())
        return cls(framed, said, learned.targets.unknown(said))

    def where(self, kept: NDArray[np.bool_]) -> "FrameSplit":
        """Return only the sequences for which `kept` (N,) is true."""
        return FrameSplit(self.framed.where(kept), self.said.where(kept), self.unknown[kept])

    @property
    def sizes(self) -> Sizes:
        """How many frames there are, and how long what is said of them, int64 (N, 2)."""
        return np.stack([self.framed.frames.lengths, self.said.lengths], axis=1)
