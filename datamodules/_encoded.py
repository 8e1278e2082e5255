"""What preparing text makes: vocabularies, and rows of ids beside the text they were made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._bucketing import Sizes
from datamodules._cache import Prepared
from datamodules._rows import Rows, Texts, TextSpool, arrays_of, rows_of
from datamodules._vocab import Vocabulary, from_state

#: Part of every cache key: to be raised when `Encoded.to_prepared` names or holds things otherwise.
LAYOUT: Final = 3

#: An input, and one or more references.
Pair = tuple[str, Sequence[str]]

#: Turn lines into rows of ids without an end symbol.
Reader = Callable[[Sequence[str]], list[list[int]]]

#: Between the references of a row: no text has it (`_files.checked_text`).
_BETWEEN: Final = "\0"

#: Lines encoded at once: enough to keep all cores busy, too few to fill the memory.
_PART: Final = 10_000
_CHARACTERS: Final = 1 << 20


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
class TextRows:
    """The text of one split as UTF-8; rows are made strings when they are asked for."""

    source_text: Rows
    #: All references of a row in one.
    reference_text: Rows

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> "TextRows":
        """Keep these pairs; they need not fit into memory."""
        sources, references = TextSpool(), TextSpool()
        for source, choices in pairs:
            sources.append(source)
            references.append(_BETWEEN.join(choices))
        return cls(sources.rows(), references.rows())

    @property
    def sources(self) -> Texts:
        """The input of every row."""
        return Texts(self.source_text)

    @property
    def references(self) -> Iterator[list[str]]:
        """The references of every row."""
        return (text.split(_BETWEEN) for text in Texts(self.reference_text))


@dataclass(frozen=True)
class PairSplit(TextRows):
    """One split: the text, and rows of ids made of it that end with EOS."""

    source: Rows
    #: The first reference of each row.
    target: Rows

    @classmethod
    def encode(
        cls, texts: TextRows, vocabularies: Vocabularies, read: Reader | None = None
    ) -> "PairSplit":
        """Return the split of this text.

        `read` turns sources into ids; if not given the vocabulary does.
        """
        firsts = (choices[0] for choices in texts.references)
        return cls(
            texts.source_text,
            texts.reference_text,
            read_lines(read or vocabularies.source.encode, texts.sources),
            encode_lines(vocabularies.target, firsts),
        )

    def parts(self) -> dict[str, Rows]:
        """Return the four parts by name; `PairSplit(**parts)` undoes it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def where(self, kept: NDArray[np.bool_]) -> "PairSplit":
        """Return the split with only the rows for which `kept` (N,) is true."""
        return PairSplit(**{name: rows.where(kept) for name, rows in self.parts().items()})

    @property
    def sizes(self) -> Sizes:
        """The lengths of both sides (N, 2)."""
        sizes = np.empty((len(self.source), 2), dtype=np.int32)
        for column, rows in zip(sizes.T, (self.source, self.target), strict=True):
            np.subtract(rows.offsets[1:], rows.offsets[:-1], out=column, casting="same_kind")
        return sizes


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


def encode_lines(vocabulary: Vocabulary, lines: Iterable[str]) -> Rows:
    """Return the ids of every line, each with EOS behind it."""
    return read_lines(vocabulary.encode, lines)


def read_lines(read: Reader, lines: Iterable[str]) -> Rows:
    """Return the ids that `read` makes of every line, each with EOS behind it."""
    return Rows.of_ids(chain.from_iterable(map(read, _parts(lines))))


def _parts(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield lines some at a time: fewer of them where they are long, as documents are."""
    part: list[str] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line)
        if len(part) >= _PART or size >= _CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part
