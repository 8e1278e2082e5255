"""What preparing speech makes: frames beside what is said, and what was learned of both.

Shapes: S frames, F numbers of a frame, N recordings of a split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules._audio import read_head, read_samples
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared
from datamodules._classes import UNKNOWN_CLASS
from datamodules._errors import DataFormatError
from datamodules._labelled import Example
from datamodules._mel import Frames, Listening
from datamodules._recordings import Recording, Spelling
from datamodules._rows import Rows, Texts, arrays_of, rows_of
from datamodules._targets import LabelTargets, Targets, targets_from_state
from datamodules._values import Scaling


@dataclass(frozen=True)
class Learned:
    """What training has: how it sounds, and what is said in it. It travels with the checkpoint."""

    listening: Listening
    scaling: Scaling
    targets: Targets

    def state(self) -> dict[str, Any]:
        """Return all as plain values."""
        return {
            "listening": self.listening.state(),
            "scaling": self.scaling.state(),
            "targets": self.targets.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Learned":
        """Undo `state`."""
        return cls(
            Listening(**state["listening"]),
            Scaling.from_state(state["scaling"]),
            targets_from_state(state["targets"]),
        )


@dataclass(frozen=True)
class Heard:
    """The recordings of one split: how they sound, what they are called and what is said."""

    #: Not yet scaled, so that they are the same for whatever model.
    frames: Rows
    names: Texts
    said: Texts
    #: How many more there were.
    too_long: int = 0

    @classmethod
    def of(
        cls, recordings: Sequence[Recording], listening: Listening, spelling: Spelling
    ) -> "Heard":
        """Listen to recordings. Raise DataError for the first that is not right."""
        said = Rows.of_texts([spelling.of(each) for each in recordings])
        return cls(
            Rows.of_frames((listen(each, listening) for each in recordings), listening.size),
            Texts(Rows.of_texts(each.name for each in recordings)),
            Texts(said),
        )

    @property
    def examples(self) -> list[Example]:
        """The name of each recording, and what is said in it."""
        pairs = zip(self.names, self.said, strict=True)
        return [Example(name, text, name) for name, text in pairs]

    def where(self, kept: NDArray[np.bool_]) -> "Heard":
        """Return only the recordings for which `kept` (N,) is true."""
        names, said = (Texts(each.rows.where(kept)) for each in (self.names, self.said))
        return replace(self, frames=self.frames.where(kept), names=names, said=said)


def listen(recording: Recording, listening: Listening) -> Frames:
    """Return the frames of a recording (S, F). Raise DataError where it is not right."""
    return listening(read_samples(recording.path, recording.where, listening.rate))


def not_too_long(recordings: Sequence[Recording], seconds: float) -> list[Recording]:
    """Return the recordings of at most so many seconds. Raise DataFormatError if there is none."""
    short = [each for each in recordings if read_head(each.path, each.where).seconds <= seconds]
    if not short:
        raise DataFormatError(
            f"{recordings[0].where} and all other recordings to train on are longer than"
            f" {seconds:g} seconds ('max_seconds')"
        )
    return short


def to_prepared(heard: Mapping[str, Heard]) -> Prepared:
    """Return all splits as arrays, and facts."""
    parts = {
        split: {"frames": each.frames, "names": each.names.rows, "said": each.said.rows}
        for split, each in heard.items()
    }
    return Prepared(arrays_of(parts), {split: each.too_long for split, each in heard.items()})


def from_prepared(prepared: Prepared) -> dict[str, Heard]:
    """Undo `to_prepared`."""
    heard = {}
    for split, too_long in prepared.facts.items():
        parts = rows_of(prepared.arrays, split)
        texts = Texts(parts["names"]), Texts(parts["said"])
        heard[split] = Heard(parts["frames"], *texts, too_long)
    return heard


@dataclass(frozen=True)
class SpeechSplit:
    """One split as a model meets it."""

    heard: Heard
    #: The ids of each answer.
    answers: Rows
    #: How many rows have a label that training did not have.
    unknown: int = 0

    @classmethod
    def of(cls, heard: Heard, targets: Targets) -> "SpeechSplit":
        """Return the split of these recordings."""
        answers = targets.encode(heard.said)
        if not isinstance(targets, LabelTargets):
            return cls(heard, answers)
        return cls(heard, answers, int((answers.values == UNKNOWN_CLASS).sum()))

    def learnable(self) -> "SpeechSplit":
        """Return what can be trained on: all but labels that a loaded model does not have."""
        if not self.unknown:
            return self
        known = self.answers.values != UNKNOWN_CLASS
        return SpeechSplit(self.heard.where(known), self.answers.where(known))

    @property
    def sizes(self) -> Sizes:
        """How many frames there are, and ids of the answer, int64 (N, 2)."""
        return np.stack([self.heard.frames.lengths, self.answers.lengths], axis=1)
