"""Texts with a label each, as they lie in files, and how a set without splits is cut into some."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from datamodules._errors import DataFormatError, DataMissingError
from datamodules._files import (
    TABLES,
    cell_of,
    check_encoding,
    checked_text,
    digest_of,
    find_any,
    lines_of,
    table_rows,
    text_cell,
    what_is_there,
)
from datamodules._paths import inside, is_file

Layout = Literal["splits", "classes"]

_LINES: Final = ".txt"


@dataclass(frozen=True)
class Example:
    """One text and its label."""

    text: str
    label: str
    #: Where it stands, for the reader of an error.
    where: str


@dataclass(frozen=True)
class LabelledFiles:
    """How a folder holds labelled text: one file a split, or one file a class."""

    layout: Layout
    #: Columns of a table with the text and with the label.
    columns: tuple[str, str]
    #: The sign that ends the label at the head of a line; empty: the first blank.
    label_until: str
    encoding: str

    def __post_init__(self) -> None:
        """Refuse an encoding that there is not."""
        check_encoding(self.encoding)

    def find(self, folder: Path, split: str, roots: Sequence[Path]) -> tuple[Path, ...]:
        """Return the files of a split: a table before lines, plain before gzip.

        Raise DataMissingError where there are none, DataPathError where they lead out of the roots.
        """
        if self.layout == "classes":
            return _class_files(folder, roots)
        return (find_any(folder, split, (*TABLES, _LINES), roots),)

    def digest(self, paths: Sequence[Path]) -> str:
        """Return a digest of what is read from the files, their names where these are labels."""
        names = [path.name for path in paths] if self.layout == "classes" else []
        return " ".join([digest_of(paths), *names])

    def read(self, paths: Sequence[Path], form: Callable[[str], str]) -> list[Example]:
        """Return all examples, their text in this form.

        Raise DataFormatError for the first thing that is wrong.
        """
        examples = []
        for path in paths:
            for where, text, label in self._rows(path):
                if not text.strip():
                    raise DataFormatError(f"{where} has no text to go with the label {label!r}")
                if not label:
                    raise DataFormatError(f"{where} has no label")
                examples.append(Example(form(text), label, where))
        if not examples:
            raise DataFormatError(f"{', '.join(map(str, paths))}: no rows")
        return examples

    def _rows(self, path: Path) -> list[tuple[str, str, str]]:
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        if self.layout == "splits" and plain.suffix in TABLES:
            return self._table(path)
        places = enumerate(lines_of(path, self.encoding), 1)
        lines = [(f"{path}, line {number}", line) for number, line in places]
        if self.layout == "classes":
            return [(where, line, plain.stem) for where, line in lines]
        return [(where, *self._parted(where, line)) for where, line in lines]

    def _table(self, path: Path) -> list[tuple[str, str, str]]:
        text, label = self.columns
        return [
            (where, text_cell(where, row, text), _label(cell_of(where, row, label), where))
            for where, row in table_rows(path, self.encoding)
        ]

    def _parted(self, where: str, line: str) -> tuple[str, str]:
        """Return text and label of a line that begins with its label."""
        head, _, text = line.partition(" ")
        if self.label_until and self.label_until not in head:
            raise DataFormatError(
                f"{where} begins with {head!r}: a label must stand there, up to a"
                f" {self.label_until!r} ('label_until')"
            )
        return text, head.partition(self.label_until)[0] if self.label_until else head


def _label(value: object, where: str) -> str:
    # A class may well be a number; a table with types then holds no text.
    named = str(value) if isinstance(value, int) else value
    return checked_text(named, f"{where}, as label,")


def _class_files(folder: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith((_LINES, f"{_LINES}.gz")) and is_file(inside(path, roots))
    ]
    if len(paths) < 2:
        raise DataMissingError(
            f"{folder} must hold a {_LINES} file for each class, at least two (it holds:"
            f" {what_is_there(folder, '')})"
        )
    return tuple(paths)


def cut_off(
    examples: Sequence[Example], shares: Mapping[str, float], seed: int
) -> dict[str, list[Example]]:
    """Cut splits off from `train`, each class by itself, and return all of them.

    Each pair of a text and a label is taken once, so that no split holds one of another. As much
    of each class as its share says, but at least one entry, goes to each split as long as one is
    left for training. Raise DataFormatError for a class with a single entry.
    """
    once = list({(each.text, each.label): each for each in reversed(examples)}.values())[::-1]
    rows_of: dict[str, list[int]] = {}
    for row, each in enumerate(once):
        rows_of.setdefault(each.label, []).append(row)
    chance = np.random.default_rng(seed)
    split_of = np.full(len(once), "train", dtype=object)
    for label in sorted(rows_of):
        rows = chance.permutation(rows_of[label])
        if len(rows) == 1:
            raise DataFormatError(
                f"{once[rows[0]].where} is the only example of the class {label!r}: it cannot be in"
                " training and in another split; add examples, or leave the class out"
            )
        left = len(rows)
        for split, share in shares.items():
            count = min(max(1, round(share * len(rows))), left - 1)
            split_of[rows[left - count : left]] = split
            left -= count
    names = ("train", *shares)
    return {
        name: [each for each, its in zip(once, split_of, strict=True) if its == name]
        for name in names
    }


def classes_of(examples: Sequence[Example]) -> list[str]:
    """Return the labels, sorted. Raise DataFormatError where there is only one."""
    counts = Counter(each.label for each in examples)
    if len(counts) < 2:
        only = examples[0]
        raise DataFormatError(
            f"all {len(examples)} examples to train on have the label {only.label!r} (such as"
            f" {only.where}): there is nothing to tell apart"
        )
    return sorted(counts)
