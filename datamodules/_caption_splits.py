"""What preparing captions makes: vectors beside rows of ids, and what training knows.

Shapes: N sentences, F features of a vector.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from datamodules._captions import Caption, Inputs, Vector, checked_vector
from datamodules._encoded import encode_lines
from datamodules._errors import DataFormatError
from datamodules._meanings import Meaning
from datamodules._rows import Rows, Texts, TextSpool
from datamodules._spool import Spool
from datamodules._values import Scaling
from datamodules._vocab import TextForm, Vocabulary, from_state

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Reader:
    """Turn what sentences are written for into vectors; it travels with the checkpoint."""

    inputs: Inputs
    form: TextForm
    #: Of meanings: what may be in one (`Meaning.features`), in the order of the vector.
    features: tuple[str, ...] = ()
    #: Of vectors: what is taken from each feature, and what that is divided by; 0 and 1 if nothing.
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def of_meanings(cls, meanings: Iterable[Meaning], form: TextForm) -> "Reader":
        """Take every feature that occurs."""
        return cls(
            "meanings", form, tuple(sorted({f for each in meanings for f in each.features()}))
        )

    @classmethod
    def of_vectors(cls, vectors: Vectors, form: TextForm, *, standardise: bool) -> "Reader":
        """Bring every feature to mean 0 and deviation 1 if asked; a constant one only to 0."""
        width = vectors.shape[1]
        if not standardise:
            return cls("vectors", form, (), (0.0,) * width, (1.0,) * width)
        scaling = Scaling.of(vectors)
        return cls("vectors", form, (), scaling.mean, scaling.scale)

    def __len__(self) -> int:
        return len(self.features) or len(self.shift)

    def meaning(self, line: str, where: str = "the line") -> Meaning:
        """Return the meaning of a line in the form of all text. Raise DataFormatError."""
        return Meaning.parse(self.form(line), where)

    def places(self, meanings: Iterable[Meaning]) -> Rows:
        """Return which features each meaning has, of those that training has."""
        places = {feature: place for place, feature in enumerate(self.features)}
        known = ([places[each] for each in m.features() if each in places] for m in meanings)
        return Rows.of_ids(known, ended=False)

    def indicators(self, places: Rows, rows: Sequence[int]) -> Vectors:
        """Return 1 where these meanings have a feature and 0 where not, (B, F)."""
        columns, lengths = (each.numpy() for each in places.padded(rows))
        inside = np.arange(columns.shape[1]) < lengths[:, None]
        vectors = np.zeros((len(rows), len(self)), dtype=np.float32)
        vectors[inside.nonzero()[0], columns[inside]] = 1
        return vectors

    def scaled(self, vectors: Vectors) -> Vectors:
        """Return vectors (N, F) as the model reads them."""
        scaled: Vectors = (vectors - np.array(self.shift)) / np.array(self.scale)
        return scaled.astype(np.float32)

    def unknown(self, meanings: Sequence[Meaning]) -> int:
        """Return how many meanings have something that training has in none."""
        known = set(self.features)
        return sum(not known.issuperset(each.features()) for each in meanings)

    def encode(self, lines: Sequence[str]) -> Vectors:
        """Return the vectors of lines, (N, F): zero of a blank one. Raise DataFormatError."""
        vectors = np.zeros((len(lines), len(self)), dtype=np.float32)
        for row, line in enumerate(lines):
            if line.strip():
                vectors[row] = self._encoded(line)
        return vectors

    def _encoded(self, line: str) -> Vector:
        where = f"{line[:40]!r}"
        if self.inputs == "meanings":
            meant: Vector = self.indicators(self.places([self.meaning(line, "it")]), [0])[0]
            return meant
        try:
            held = json.loads(line)
        except (ValueError, RecursionError):
            held = line
        vector = checked_vector(held, where)
        if len(vector) != len(self):
            raise DataFormatError(
                f"{where} holds {len(vector)} numbers where the model was trained on {len(self)}"
            )
        scaled: Vector = self.scaled(vector[None])[0]
        return scaled

    def state(self) -> dict[str, Any]:
        """Return everything as plain values."""
        plain = {"inputs": self.inputs, "form": self.form.state(), "features": list(self.features)}
        return plain | {"shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Reader":
        """Undo `state`."""
        form = TextForm(**state["form"])
        parts = (tuple(state[name]) for name in ("features", "shift", "scale"))
        return cls(state["inputs"], form, *parts)


@dataclass(frozen=True)
class Learned:
    """What training has: how its inputs are read, and the symbols of its sentences."""

    reader: Reader
    vocabulary: Vocabulary

    def state(self) -> dict[str, Any]:
        """Return both as plain values."""
        return {"reader": self.reader.state(), "vocabulary": self.vocabulary.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Learned":
        """Undo `state`."""
        return cls(Reader.from_state(state["reader"]), from_state(state["vocabulary"]))


@dataclass(frozen=True)
class Sentences:
    """The sentences of a split before they are encoded; they need not fit into memory."""

    #: Values are out of those of meanings.
    text: Rows
    #: The lines that spell meanings; none of vectors.
    spelled: Rows
    #: Of vectors, as they lie in the file: each a row of one value, (N, F).
    numbers: Rows

    @classmethod
    def of(cls, captions: Iterable[Caption], form: TextForm) -> "Sentences":
        """Return these captions. Raise DataFormatError for a vector of another width."""
        texts, lines, numbers = TextSpool(), TextSpool(), Spool("f")
        first: Caption | None = None
        for each in captions:
            text = form(each.text).strip()
            if isinstance(each.said, str):
                line = form(each.said).strip()
                lines.append(line)
                text = Meaning.parse(line, each.where).delexicalise(text)
            else:
                first = first or each
                _check_width(each, first)
                numbers.extend_bytes(np.asarray(each.said, dtype=np.float32).tobytes())
            texts.append(text)
        width = len(first.said) if first else 1
        raw = numbers.array().reshape(-1, width)
        return cls(texts.rows(), lines.rows(), Rows(raw, np.arange(len(raw) + 1)))

    @property
    def texts(self) -> Texts:
        """The sentences."""
        return Texts(self.text)

    @property
    def raw(self) -> Vectors:
        """The vectors (N, F); none of meanings."""
        return self.numbers.values

    @property
    def meanings(self) -> "Meanings":
        """One each of meanings; none of vectors."""
        return Meanings(Texts(self.spelled))

    @property
    def lines(self) -> Sequence[str]:
        """The lines that spell the inputs."""
        return Texts(self.spelled) if len(self.spelled) else Spelled(self.raw)

    def where(self, kept: NDArray[np.bool_]) -> "Sentences":
        """Return only those for which `kept` (N,) is true."""
        spelled, numbers = (
            each.where(kept) if len(each) else each for each in (self.spelled, self.numbers)
        )
        return Sentences(self.text.where(kept), spelled, numbers)

    def keys(self) -> Iterator[object]:
        """Yield for each what it shares with those that are written for the same."""
        if self.meanings:
            return (each.features() for each in self.meanings)
        return (row.tobytes() for row in self.raw)


def _check_width(caption: Caption, first: Caption) -> None:
    if len(caption.said) != len(first.said):
        raise DataFormatError(
            f"{caption.where} holds {len(caption.said)} numbers where {first.where} holds"
            f" {len(first.said)}: all vectors must be as long"
        )


class Meanings(Sequence[Meaning]):
    """Read meanings from the lines that spell them, each when it is asked for."""

    def __init__(self, lines: Texts) -> None:
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> Meaning: ...
    @overload
    def __getitem__(self, place: slice) -> list[Meaning]: ...
    def __getitem__(self, place: int | slice) -> Meaning | list[Meaning]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return Meaning.parse(self._lines[place], "it")

    def __iter__(self) -> Iterator[Meaning]:
        return (Meaning.parse(line, "it") for line in self._lines)


class Spelled(Sequence[str]):
    """Read vectors as the lines that spell them, each when it is asked for."""

    def __init__(self, raw: Vectors) -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        # The shortest decimals that are read back as the same 32 bits.
        return json.dumps([float(str(value)) for value in self.raw[place]])


@dataclass(frozen=True)
class CaptionSplit:
    """One split: what the model reads of vectors or meanings, and ids that end with EOS."""

    reader: Reader
    #: Of meanings: which features each has.
    places: Rows
    symbols: Rows
    sentences: Sentences

    @classmethod
    def encode(cls, sentences: Sentences, learned: Learned) -> "CaptionSplit":
        """Return the split of these sentences. Raise DataFormatError."""
        reader, meanings, width = learned.reader, sentences.meanings, sentences.raw.shape[1]
        if not meanings and width != len(reader):
            raise DataFormatError(
                f"the vectors hold {width} numbers where those of training hold {len(reader)}"
            )
        symbols = encode_lines(learned.vocabulary, sentences.texts)
        return cls(reader, reader.places(meanings), symbols, sentences)

    def vectors(self, rows: Sequence[int]) -> Vectors:
        """Return what the model reads of these rows (B, F)."""
        if len(self.places):
            return self.reader.indicators(self.places, rows)
        return self.reader.scaled(self.sentences.raw[np.asarray(rows, dtype=np.int64)])

    def where(self, kept: NDArray[np.bool_]) -> "CaptionSplit":
        """Return only the sentences for which `kept` (N,) is true."""
        places = self.places.where(kept) if len(self.places) else self.places
        return CaptionSplit(
            self.reader, places, self.symbols.where(kept), self.sentences.where(kept)
        )

    def references(self) -> list[list[str]]:
        """Return for each sentence all that are written for the same, itself first, each once.

        Values stand in them as its own meaning has them.
        """
        keys, texts = list(self.sentences.keys()), self.sentences.texts
        together: dict[object, dict[str, None]] = {}
        for key, text in zip(keys, texts, strict=True):
            together.setdefault(key, {})[text] = None
        return [
            list(map(self._filled(row), dict.fromkeys([text, *together[key]])))
            for row, (key, text) in enumerate(zip(keys, texts, strict=True))
        ]

    def _filled(self, row: int) -> Callable[[str], str]:
        return self.sentences.meanings[row].relexicalise if self.sentences.meanings else str
