"""What preparing text makes: vocabularies, and rows of ids beside the text they were made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._bucketing import Sizes
from datamodules._cache import Prepared
from datamodules._rows import Rows, Texts, arrays_of, rows_of
from datamodules._vocab import Vocabulary, from_state

#: Part of every cache key: to be raised when `Encoded.to_prepared` names or holds things otherwise.
LAYOUT: Final = 3

#: Turn lines into rows of ids without an end symbol.
Reader = Callable[[Sequence[str]], list[list[int]]]

#: Between the references of a row: no text has it (`_files.checked_text`).
_BETWEEN: Final = "\0"

#: Lines encoded at once: enough to keep all cores busy, too few to fill the memory.
_PART: Final = 10_000


@dataclass(frozen=True)
class Vocabularies:
    """The vocabulary of each side; where both are one, it is one object."""

    source: Vocabulary
    target: Vocabulary

    @property
    def shared(self) -> bool:
        """Whether both sides use the same ids."""
        return self.source is self.target

    def state(self) -> dict[str, Any]:
        """Return both as plain values, a shared one once."""
        source = self.source.state()
        return {"source": source, "target": None if self.shared else self.target.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Vocabularies":
        """Undo `state`."""
        source = from_state(state["source"])
        return cls(source, source if state["target"] is None else from_state(state["target"]))


@dataclass(frozen=True)
class PairSplit:
    """One split: rows of ids that end with EOS, and the text they were made of as UTF-8."""

    source: Rows
    #: The first reference of each row.
    target: Rows
    source_text: Rows
    #: All references of a row in one.
    reference_text: Rows

    @classmethod
    def encode(
        cls,
        sources: Sequence[str],
        references: Sequence[Sequence[str]],
        vocabularies: Vocabularies,
        read: Reader | None = None,
    ) -> "PairSplit":
        """Return the split of these lines, each with one or more references.

        `read` turns sources into ids; if not given the vocabulary does.
        """
        return cls(
            read_lines(read or vocabularies.source.encode, sources),
            encode_lines(vocabularies.target, [choices[0] for choices in references]),
            Rows.of_texts(sources),
            Rows.of_texts(map(_BETWEEN.join, references)),
        )

    @property
    def references(self) -> list[list[str]]:
        """The references of every row."""
        return [text.split(_BETWEEN) for text in Texts(self.reference_text)]

    def parts(self) -> dict[str, Rows]:
        """Return the four parts by name; `PairSplit(**parts)` undoes it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def where(self, kept: NDArray[np.bool_]) -> "PairSplit":
        """Return the split with only the rows for which `kept` (N,) is true."""
        return PairSplit(**{name: rows.where(kept) for name, rows in self.parts().items()})

    @property
    def sizes(self) -> Sizes:
        """The lengths of both sides (N, 2)."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1)


@dataclass(frozen=True)
class Encoded:
    """All that preparing makes, in the form in which it is used."""

    splits: Mapping[str, PairSplit]
    vocabularies: Vocabularies
    #: Plain facts for the kind of data itself.
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_prepared(self) -> Prepared:
        """Return the arrays of all splits, and facts."""
        arrays = arrays_of({split: pairs.parts() for split, pairs in self.splits.items()})
        facts = {
            "splits": list(self.splits),
            "vocabularies": self.vocabularies.state(),
            "notes": dict(self.notes),
        }
        return Prepared(arrays, facts)

    @classmethod
    def from_prepared(cls, prepared: Prepared) -> "Encoded":
        """Undo `to_prepared`."""
        facts = prepared.facts
        splits = {split: PairSplit(**rows_of(prepared.arrays, split)) for split in facts["splits"]}
        return cls(splits, Vocabularies.from_state(facts["vocabularies"]), facts["notes"])


def encode_lines(vocabulary: Vocabulary, lines: Sequence[str]) -> Rows:
    """Return the ids of every line, each with EOS behind it."""
    return read_lines(vocabulary.encode, lines)


def read_lines(read: Reader, lines: Sequence[str]) -> Rows:
    """Return the ids that `read` makes of every line, each with EOS behind it."""
    return Rows.of_ids(
        row for start in range(0, len(lines), _PART) for row in read(lines[start : start + _PART])
    )
