"""Sentences beside what they were written for, as they lie in files.

Shapes: N sentences, F features of a vector.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataFormatError, DataMissingError, DataPathError
from datamodules._files import (
    TABLES,
    cell_of,
    checked_text,
    find_file,
    lines_of,
    table_rows,
    text_cell,
    text_of,
    what_is_there,
)
from datamodules._paths import inside, is_file

#: What a sentence is written for: the text of a meaning, or a vector of features.
Inputs = Literal["meanings", "vectors"]

Vector = NDArray[np.float32]

_COMMENT: Final = "#"
#: Meaning and sentence; what stands behind them is left alone.
_PARTS: Final = 2


@dataclass(frozen=True)
class Caption:
    """One sentence, and what it was written for."""

    said: str | Vector
    text: str
    #: Where it stands, for the reader of an error.
    where: str


@dataclass(frozen=True)
class CaptionFiles:
    """How a folder holds sentences, and where it lies."""

    folder: Path
    roots: Sequence[Path]
    inputs: Inputs
    #: Columns of a table with the input and with the sentence or sentences.
    columns: tuple[str, str]

    def find(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split. Raise DataMissingError where there are none."""
        if self.inputs == "meanings" and (found := self._file(f"{split}.json")):
            return (found,)
        for suffix in TABLES:
            if found := self._file(f"{split}{suffix}"):
                return (found,)
        both = self._file(f"{split}.npy"), self._file(f"{split}.txt")
        if self.inputs == "vectors" and both[0] and both[1]:
            return both[0], both[1]
        more = f"{split}.json" if self.inputs == "meanings" else f"{split}.npy beside {split}.txt"
        tables = ", ".join(f"{split}{suffix}" for suffix in TABLES)
        raise DataMissingError(
            f"{self.folder} has no split {split!r}: looked for {more}, or one of {tables}"
            f" (the folder holds: {what_is_there(self.folder, split)})"
        )

    def read(self, paths: Sequence[Path]) -> Iterator[Caption]:
        """Yield all sentences of a split. Raise DataFormatError for the first that is wrong."""
        empty = True
        for each in self._captions(paths):
            yield each
            empty = False
        if empty:
            raise DataFormatError(f"{paths[0]} holds no sentences")

    def _captions(self, paths: Sequence[Path]) -> Iterator[Caption]:
        if len(paths) == 2:
            return self._matrix(*paths)
        return _triples(paths[0]) if ".json" in paths[0].suffixes else self._table(paths[0])

    def _file(self, name: str) -> Path | None:
        return find_file(self.folder / name, self.roots)

    def _table(self, path: Path) -> Iterator[Caption]:
        for where, row in table_rows(path):
            said = self._input(where, row)
            for text in _texts(where, row, self.columns[1]):
                yield Caption(said, text, where)

    def _input(self, where: str, row: Mapping[str, Any]) -> str | Vector:
        column = self.columns[0]
        if self.inputs == "meanings":
            return text_cell(where, row, column)
        held = cell_of(where, row, column)
        where = f"{where}, column {column!r}"
        if isinstance(held, str):
            path = self.folder / held
            return checked_vector(_array(path, where, self.roots), f"{where}: {path}")
        return checked_vector(held, where)

    def _matrix(self, vectors: Path, texts: Path) -> Iterator[Caption]:
        matrix = _array(vectors, str(vectors), self.roots)
        lines = sum(1 for _ in lines_of(texts))
        if matrix.ndim != 2 or len(matrix) != lines:
            raise DataFormatError(
                f"{vectors} holds an array of shape {matrix.shape} beside {lines} lines in"
                f" {texts}: it must have a row of features for each line"
            )
        for number, (vector, text) in enumerate(zip(matrix, lines_of(texts), strict=True), 1):
            yield Caption(checked_vector(vector, f"{vectors}, row {number}"), text, str(vectors))


def checked_vector(held: object, where: str) -> Vector:
    """Return a vector of finite numbers (F,). Raise DataFormatError where there is none."""
    try:
        vector = np.asarray(held, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if isinstance(held, str | bool) or vector.ndim != 1 or not len(vector):
        raise DataFormatError(f"{where} must hold a list of numbers, or the path of such a file")
    if not np.isfinite(vector).all():
        place = int(np.flatnonzero(~np.isfinite(vector))[0]) + 1
        raise DataFormatError(f"{where} holds a number that is not finite, at place {place}")
    return vector


def _array(path: Path, where: str, roots: Sequence[Path]) -> NDArray[Any]:
    """Return the only array of a .npy or .npz file."""
    if not is_file(inside(path, roots)):
        raise DataPathError(f"{where} names {path}, which is not there")
    try:
        # Mapped, where it is .npy: it may be larger than memory.
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise DataFormatError(f"{path} must hold one array, not {len(loaded.files)}")
            only: NDArray[Any] = loaded[loaded.files[0]]
            return only
    except (OSError, ValueError, EOFError) as error:
        raise DataFormatError(f"{path} is not an array that NumPy can read: {error}") from error


def _texts(where: str, row: Mapping[str, Any], column: str) -> list[str]:
    """Return the sentences of one cell: one, or a list of them."""
    held = cell_of(where, row, column)
    texts = held if isinstance(held, list) else [held]
    if not texts:
        raise DataFormatError(f"{where}, column {column!r} holds an empty list: a sentence is due")
    return [checked_text(text, f"{where}, column {column!r}") for text in texts]


def _triples(path: Path) -> Iterator[Caption]:
    """Yield what a JSON list of [meaning, sentence, ...] holds, behind comments at its head."""
    lines = text_of(path).split("\n")
    head = next((n for n, line in enumerate(lines) if not line.startswith(_COMMENT)), len(lines))
    try:
        rows = json.loads("\n".join(lines[head:]))
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{path} is not JSON behind its {head} comments: {error}") from error
    if not isinstance(rows, list):
        raise DataFormatError(f"{path} must hold a list of [meaning, sentence] and holds no list")
    for number, row in enumerate(rows, 1):
        where = f"{path}, entry {number}"
        if not isinstance(row, list) or len(row) < _PARTS:
            raise DataFormatError(f"{where} is not a list that begins with meaning and sentence")
        meaning, text = (checked_text(part, where) for part in row[:_PARTS])
        yield Caption(meaning, text, where)
