"""Texts with a label each that need not fit into memory.

Shapes: N texts.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules._labelled import Example, divided, refuse_one_class
from datamodules._rows import Rows, Texts, TextSpool
from datamodules._spool import Spool


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of a split with the label of each."""

    rows: Rows
    #: Which of `labels` each has, int32 (N,).
    classes: NDArray[np.int32]
    #: All labels there were, and where each was met first.
    labels: Sequence[str]
    places: Sequence[str]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "LabelledTexts":
        """Keep these examples."""
        texts, classes = TextSpool(), Spool("i")
        met: dict[str, int] = {}
        places: list[str] = []
        for each in examples:
            texts.append(each.text)
            if each.label not in met:
                met[each.label] = len(met)
                places.append(each.where)
            classes.append(met[each.label])
        return cls(texts.rows(), classes.array(), list(met), places)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def texts(self) -> Texts:
        """The text of every row."""
        return Texts(self.rows)

    def where(self, kept: NDArray[np.bool_]) -> "LabelledTexts":
        """Return only the texts for which `kept` (N,) is true."""
        return replace(self, rows=self.rows.where(kept), classes=self.classes[kept])

    def label_names(self) -> list[str]:
        """Return the labels that occur, sorted. Raise DataFormatError where there is only one."""
        there = np.unique(self.classes)
        refuse_one_class(len(there), len(self), self.labels[there[0]], self.places[there[0]])
        return sorted(self.labels[each] for each in there)

    def cut_off(self, shares: Mapping[str, float], seed: int) -> "dict[str, LabelledTexts]":
        """Cut splits off, as `_labelled.cut_off` does, and return all of them."""
        once = np.flatnonzero(self._last_of_each())
        split_of = divided(self.classes[once], self.labels, self.places, shares, seed)
        cut = {}
        for number, split in enumerate(("train", *shares)):
            kept = np.zeros(len(self), dtype=np.bool_)
            kept[once[split_of == number]] = True
            cut[split] = self.where(kept)
        return cut

    def _last_of_each(self) -> NDArray[np.bool_]:
        """Say of each row whether none behind it has the same text and the same label (N,)."""
        spool = Spool("Q")
        for text, label in zip(self.texts, self.classes, strict=True):
            digest = hashlib.blake2b(text.encode(), digest_size=16, salt=label.tobytes())
            spool.extend_bytes(digest.digest())
        halves = spool.array().reshape(-1, 2).T
        order = np.lexsort(halves)  # rows that are the same stay in their order
        run = halves[:, order]
        last = np.ones(len(self), dtype=np.bool_)
        last[order[:-1]] = (run[:, :-1] != run[:, 1:]).any(axis=0)
        return last
