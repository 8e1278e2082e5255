"""What preparing labelled text makes: rows of ids with the class of each, and what was learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._cache import Prepared
from datamodules._encoded import encode_lines
from datamodules._labelled_texts import LabelledTexts
from datamodules._rows import Rows
from datamodules._vocab import Vocabulary, from_state

#: The class of a row whose label training did not have.
UNKNOWN_CLASS: Final = -1

#: Name of the extra that says how many true labels of each step training did not have, where a step
#: may have several: int64 (B, S).
MISSED: Final = "missed"


@dataclass(frozen=True)
class Learned:
    """What training has: its symbols and its labels. It travels with the checkpoint."""

    vocabulary: Vocabulary
    labels: tuple[str, ...]

    def state(self) -> dict[str, Any]:
        """Return both as plain values."""
        return {"vocabulary": self.vocabulary.state(), "labels": list(self.labels)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Learned":
        """Undo `state`."""
        return cls(from_state(state["vocabulary"]), tuple(state["labels"]))


@dataclass(frozen=True)
class ClassSplit:
    """One split: ids that end with EOS, and the class of each row."""

    symbols: Rows
    #: Places in the list of labels, int64 (N,), or UNKNOWN_CLASS.
    classes: NDArray[np.int64]

    @classmethod
    def encode(cls, labelled: LabelledTexts, learned: Learned) -> "ClassSplit":
        """Return the split of these texts."""
        places = {label: place for place, label in enumerate(learned.labels)}
        known = np.array([places.get(each, UNKNOWN_CLASS) for each in labelled.labels], np.int64)
        return cls(encode_lines(learned.vocabulary, labelled.texts), known[labelled.classes])

    def where(self, kept: NDArray[np.bool_]) -> "ClassSplit":
        """Return the split with only the rows for which `kept` (N,) is true."""
        return ClassSplit(self.symbols.where(kept), self.classes[kept])

    @property
    def unknown(self) -> int:
        """How many rows have a label that training did not have."""
        return int((self.classes == UNKNOWN_CLASS).sum())

    def learnable(self, max_length: int) -> "tuple[ClassSplit, dict[str, int]]":
        """Return what can be trained on, and how many rows are left out, by reason."""
        long = self.symbols.lengths > max_length + 1  # the end symbol
        unknown = (self.classes == UNKNOWN_CLASS) & ~long
        left_out = {"too_long": int(long.sum()), "unknown_label": int(unknown.sum())}
        return self.where(~long & ~unknown), left_out


@dataclass(frozen=True)
class ClassSet:
    """All that preparing makes, in the form in which it is used."""

    splits: Mapping[str, ClassSplit]
    learned: Learned
    #: How many training rows were left out, by reason.
    left_out: Mapping[str, int]

    def to_prepared(self) -> Prepared:
        """Return arrays named SPLIT.values, SPLIT.offsets and SPLIT.classes, and facts."""
        arrays: dict[str, NDArray[Any]] = {}
        for split, each in self.splits.items():
            arrays[f"{split}.values"] = each.symbols.values
            arrays[f"{split}.offsets"] = each.symbols.offsets
            arrays[f"{split}.classes"] = each.classes
        facts = {
            "splits": list(self.splits),
            "learned": self.learned.state(),
            "left_out": dict(self.left_out),
        }
        return Prepared(arrays, facts)

    @classmethod
    def from_prepared(cls, prepared: Prepared) -> "ClassSet":
        """Undo `to_prepared`."""
        arrays, facts = prepared.arrays, prepared.facts
        splits = {
            split: ClassSplit(
                Rows(arrays[f"{split}.values"], arrays[f"{split}.offsets"]),
                arrays[f"{split}.classes"],
            )
            for split in facts["splits"]
        }
        return cls(splits, Learned.from_state(facts["learned"]), facts["left_out"])
