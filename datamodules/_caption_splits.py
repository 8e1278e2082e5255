"""What preparing captions makes: vectors beside rows of ids, and what training knows.

Shapes: N sentences, F features of a vector.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from datamodules._captions import Caption, Inputs, Vector, checked_vector
from datamodules._encoded import encode_lines
from datamodules._errors import DataFormatError
from datamodules._meanings import Meaning
from datamodules._rows import Rows
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
        wide = vectors.astype(np.float64)
        shift, scale = wide.mean(axis=0), wide.std(axis=0)
        if not standardise:
            shift, scale = np.zeros_like(shift), np.ones_like(scale)
        scale[scale == 0] = 1
        return cls("vectors", form, (), tuple(shift.tolist()), tuple(scale.tolist()))

    def __len__(self) -> int:
        return len(self.features) or len(self.shift)

    def meaning(self, line: str, where: str = "the line") -> Meaning:
        """Return the meaning of a line in the form of all text. Raise DataFormatError."""
        return Meaning.parse(self.form(line), where)

    def indicators(self, meanings: Sequence[Meaning]) -> Vectors:
        """Return 1 where a meaning has a feature and 0 where not, (N, F)."""
        places = {feature: place for place, feature in enumerate(self.features)}
        vectors = np.zeros((len(meanings), len(self)), dtype=np.float32)
        for row, meaning in enumerate(meanings):
            known = [places[feature] for feature in meaning.features() if feature in places]
            vectors[row, known] = 1
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
            meant: Vector = self.indicators([self.meaning(line, "it")])[0]
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
    """The sentences of a split before they are encoded; values are out of those of meanings."""

    texts: list[str]
    #: One each of meanings; none of vectors.
    meanings: list[Meaning]
    #: The lines that spell the inputs.
    lines: Sequence[str]
    #: Of vectors, as they lie in the file (N, F).
    raw: Vectors

    @classmethod
    def of(cls, captions: Sequence[Caption], form: TextForm) -> "Sentences":
        """Return these captions. Raise DataFormatError for a vector of another width."""
        if isinstance(captions[0].said, str):
            lines = [form(str(each.said)).strip() for each in captions]
            meanings = [
                Meaning.parse(line, each.where) for line, each in zip(lines, captions, strict=True)
            ]
            texts = [
                meaning.delexicalise(form(each.text).strip())
                for meaning, each in zip(meanings, captions, strict=True)
            ]
            return cls(texts, meanings, lines, np.empty((len(lines), 0), np.float32))
        raw = _matrix(captions)
        return cls([form(each.text).strip() for each in captions], [], Spelled(raw), raw)

    def where(self, kept: Sequence[bool]) -> "Sentences":
        """Return only those for which `kept` is true."""
        rows = [row for row, keep in enumerate(kept) if keep]
        meanings = [self.meanings[row] for row in rows] if self.meanings else []
        raw = self.raw[rows]
        lines = Spelled(raw) if isinstance(self.lines, Spelled) else [self.lines[r] for r in rows]
        return Sentences([self.texts[row] for row in rows], meanings, lines, raw)

    def keys(self) -> list[object]:
        """Return for each what it shares with those that are written for the same."""
        if self.meanings:
            return [each.features() for each in self.meanings]
        return [row.tobytes() for row in self.raw]


def _matrix(captions: Sequence[Caption]) -> Vectors:
    first = captions[0]
    for each in captions:
        if len(each.said) != len(first.said):
            raise DataFormatError(
                f"{each.where} holds {len(each.said)} numbers where {first.where} holds"
                f" {len(first.said)}: all vectors must be as long"
            )
    return np.stack([np.asarray(each.said, dtype=np.float32) for each in captions])


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
    """One split: vectors as the model reads them, and ids that end with EOS."""

    vectors: Vectors
    symbols: Rows
    sentences: Sentences

    @classmethod
    def encode(cls, sentences: Sentences, learned: Learned) -> "CaptionSplit":
        """Return the split of these sentences. Raise DataFormatError."""
        reader = learned.reader
        if sentences.meanings:
            vectors = reader.indicators(sentences.meanings)
        elif sentences.raw.shape[1] != len(reader):
            raise DataFormatError(
                f"the vectors hold {sentences.raw.shape[1]} numbers where those of training hold"
                f" {len(reader)}"
            )
        else:
            vectors = reader.scaled(sentences.raw)
        return cls(vectors, encode_lines(learned.vocabulary, sentences.texts), sentences)

    def references(self) -> list[list[str]]:
        """Return for each sentence all that are written for the same, itself first, each once.

        Values stand in them as its own meaning has them.
        """
        keys, texts = self.sentences.keys(), self.sentences.texts
        together: dict[object, dict[str, None]] = {}
        for key, text in zip(keys, texts, strict=True):
            together.setdefault(key, {})[text] = None
        return [
            list(map(self._filled(row), dict.fromkeys([text, *together[key]])))
            for row, (key, text) in enumerate(zip(keys, texts, strict=True))
        ]

    def _filled(self, row: int) -> Callable[[str], str]:
        return self.sentences.meanings[row].relexicalise if self.sentences.meanings else str
