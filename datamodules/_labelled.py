"""Texts with a label each, as they lie in files, and how a set without splits is cut into some."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

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
    #: The sign that ends the label at the head of a line; empty: the first blank. One that is no
    #: white space leaves out what follows it up to the first blank: a finer label, "DESC:manner".
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

    def read(self, paths: Sequence[Path], form: Callable[[str], str]) -> Iterator[Example]:
        """Yield all examples, their text in this form.

        Raise DataFormatError for the first thing that is wrong.
        """
        empty = True
        for path in paths:
            for where, text, label in self._rows(path):
                if not text.strip():
                    raise DataFormatError(f"{where} has no text to go with the label {label!r}")
                if not label:
                    raise DataFormatError(f"{where} has no label")
                yield Example(form(text), label, where)
                empty = False
        if empty:
            raise DataFormatError(f"{', '.join(map(str, paths))}: no rows")

    def _rows(self, path: Path) -> Iterator[tuple[str, str, str]]:
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        if self.layout == "splits" and plain.suffix in TABLES:
            yield from self._table(path)
            return
        for number, line in enumerate(lines_of(path, self.encoding), 1):
            where = f"{path}, line {number}"
            if self.layout == "classes":
                yield where, line, plain.stem
            else:
                yield where, *self._parted(where, line)

    def _table(self, path: Path) -> Iterator[tuple[str, str, str]]:
        text, label = self.columns
        for where, row in table_rows(path, self.encoding):
            yield where, text_cell(where, row, text), _label(cell_of(where, row, label), where)

    def _parted(self, where: str, line: str) -> tuple[str, str]:
        """Return text and label of a line that begins with its label."""
        until = self.label_until
        head, _, text = line.partition(" ")
        if not until:
            return text, head
        label, found, _ = head.partition(until)
        if any(map(str.isspace, until)):  # the label ends there, and so does the head
            label, found, text = line.partition(until)
        if not found:
            raise DataFormatError(
                f"{where} begins with {head!r}: a label must stand there, up to a"
                f" {until!r} ('label_until')"
            )
        return text, label


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
    places: dict[str, str] = {}
    for each in once:
        places.setdefault(each.label, each.where)
    number_of = {label: number for number, label in enumerate(places)}
    classes = np.array([number_of[each.label] for each in once])
    split_of = divided(classes, list(places), list(places.values()), shares, seed).tolist()
    cut: dict[str, list[Example]] = {name: [] for name in ("train", *shares)}
    names = list(cut)
    for each, number in zip(once, split_of, strict=True):
        cut[names[number]].append(each)
    return cut


def divided(
    classes: NDArray[np.integer[Any]],
    labels: Sequence[str],
    places: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
) -> NDArray[np.int8]:
    """Return where each row goes: 0 is training, n the n-th of the shares (N,).

    Given is the class of each row (N,), and of each class its label and where one of it stands.
    """
    chance = np.random.default_rng(seed)
    split_of = np.zeros(len(classes), dtype=np.int8)
    counts = np.bincount(classes, minlength=len(labels))
    rows_of = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    for number in sorted(range(len(labels)), key=labels.__getitem__):
        rows = chance.permutation(rows_of[number])
        if len(rows) == 1:
            raise DataFormatError(
                f"{places[number]} is the only example of the class {labels[number]!r}: it cannot"
                " be in training and in another split; add examples, or leave the class out"
            )
        left = len(rows)
        for split, share in enumerate(shares.values(), 1):
            count = min(max(1, round(share * len(rows))), left - 1)
            split_of[rows[left - count : left]] = split
            left -= count
    return split_of


def classes_of(examples: Sequence[Example]) -> list[str]:
    """Return the labels, sorted. Raise DataFormatError where there is only one."""
    labels = {each.label for each in examples}
    refuse_one_class(len(labels), len(examples), examples[0].label, examples[0].where)
    return sorted(labels)


def refuse_one_class(labels: int, examples: int, label: str, where: str) -> None:
    """Raise DataFormatError where there are not two labels, given one and where it stands."""
    if labels < 2:
        raise DataFormatError(
            f"all {examples} examples to train on have the label {label!r} (such as"
            f" {where}): there is nothing to tell apart"
        )
