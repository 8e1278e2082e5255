"""Pairs of texts in files: two line-aligned files, or one table with a column for each side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from datamodules._encoded import Pair
from datamodules._errors import DataFormatError, DataMissingError
from datamodules._files import (
    TABLES,
    digest_of,
    find_file,
    lines_of,
    table_rows,
    texts_in,
    what_is_there,
)


@dataclass(frozen=True)
class PairFiles:
    """The files of one split: two of lines, or one table."""

    paths: tuple[Path, ...]
    #: Language suffixes or column names of source and target.
    columns: tuple[str, str]

    def read(self) -> Iterator[Pair]:
        """Yield all pairs. Raise DataFormatError for the first thing that is wrong."""
        if len(self.paths) == 2:
            return _read_lines(*self.paths)
        return _read_table(self.paths[0], self.columns)

    def digest(self) -> str:
        """Return a digest of what the files hold."""
        return digest_of(self.paths)


def find_pairs(
    folder: Path, split: str, columns: tuple[str, str], roots: Sequence[Path]
) -> PairFiles:
    """Return the files of a split: lines before tables, plain before gzip.

    Raise DataMissingError where there are none, DataPathError where they lead out of the roots.
    """
    sides = [find_file(folder / f"{split}.{column}", roots) for column in columns]
    source, target = sides
    if source and target:
        return PairFiles((source, target), columns)
    for suffix in TABLES:
        if table := find_file(folder / f"{split}{suffix}", roots):
            return PairFiles((table,), columns)
    raise DataMissingError(_missing(folder, split, columns, [side for side in sides if side]))


def _missing(folder: Path, split: str, columns: Sequence[str], half: Sequence[Path]) -> str:
    lines = " and ".join(f"{split}.{column}" for column in columns)
    tables = ", ".join(f"{split}{suffix}" for suffix in TABLES)
    there = what_is_there(folder, f"{split}.")
    only = f"; of the two only {half[0].name} is there" if half else ""
    return (
        f"{folder} has no split {split!r}: looked for {lines}, or one of {tables}, each with or"
        f" without .gz{only} (the folder holds: {there})"
    )


def _read_lines(source: Path, target: Path) -> Iterator[Pair]:
    for one, other in zip_longest(lines_of(source), lines_of(target)):
        if one is None or other is None:
            sources, targets = (sum(1 for _ in lines_of(path)) for path in (source, target))
            raise DataFormatError(
                f"{source} has {sources} lines but {target} has {targets}: line n of one must be"
                " the translation of line n of the other"
            )
        yield one, [other]


def _read_table(path: Path, columns: tuple[str, str]) -> Iterator[Pair]:
    source, target = columns
    empty = True
    for where, row in table_rows(path):
        text, references = " ".join(texts_in(where, row, source)), texts_in(where, row, target)
        if not references:
            raise DataFormatError(f"{where}, column {target!r} holds a list without any text")
        yield text, references
        empty = False
    if empty:
        raise DataFormatError(f"{path} holds no rows")
