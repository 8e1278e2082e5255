"""Tagged text in files: a row a token, tokens and tags line for line, or lists in a table."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

from datamodules._errors import DataFormatError, DataMissingError
from datamodules._files import (
    digest_of,
    find_file,
    lines_of,
    list_cell,
    table_rows,
    text_cell,
)
from datamodules._rows import Rows, Texts, TextSpool

#: Between the parts of a row: neither lines nor tables have it (`_files.checked_text`).
_BETWEEN: Final = "\0"

#: How files of columns are named, in the order in which they are looked for.
SUFFIXES: Final = (".conllu", ".conll", ".iob", ".bio", ".txt", ".tsv")

#: What stands for the head of a document in the files of CoNLL-2003.
_DOCUMENT: Final = "-DOCSTART-"
#: A comment in files in which a token may be '#'.
_NOTE: Final = re.compile(r"# +[^\s=]+ +=( |$)")


@dataclass(frozen=True)
class Sentence:
    """Tokens with a tag each, and a label where they have one."""

    tokens: list[str]
    tags: list[str]
    label: str | None


class Sentences:
    """The sentences of a split, which need not fit into memory."""

    def __init__(self, sentences: Iterable[Sentence]) -> None:
        tokens, tags, labels = TextSpool(), TextSpool(), TextSpool()
        for each in sentences:
            tokens.append(_BETWEEN.join(each.tokens))
            tags.append(_BETWEEN.join(each.tags))
            if each.label is not None:
                labels.append(each.label)
        self.tokens, self.tags = _Parts(tokens.rows()), _Parts(tags.rows())
        #: One each, or none at all.
        self.labels = Texts(labels.rows())


class _Parts(Iterable[list[str]]):
    """The parts of each row, read anew each time."""

    def __init__(self, rows: Rows) -> None:
        self._texts = Texts(rows)

    def __iter__(self) -> Iterator[list[str]]:
        return (text.split(_BETWEEN) for text in self._texts)


@dataclass(frozen=True)
class Names:
    """What a person calls the parts of a file."""

    #: File names of parallel token and tag files.
    tokens: str = "seq.in"
    tags: str = "seq.out"
    #: File name, or key of a comment, of the label; None where there is none.
    label: str | None = None
    #: Columns, counted from 1; None for those that the format means.
    token_column: int | None = None
    tag_column: int | None = None


@dataclass(frozen=True)
class ParallelFiles:
    """A file with the tokens of a sequence in each line, one with its tags, one with its label."""

    tokens: Path
    tags: Path
    label: Path | None

    def read(self) -> Iterator[Sentence]:
        """Yield all sentences. Raise DataFormatError for the first thing that is wrong."""
        self._check_rows()
        named = (_label(*each) for each in _numbered(self.label)) if self.label else repeat(None)
        rows = zip(self._rows(self.tokens), self._rows(self.tags), named, strict=False)
        for number, (tokens, tags, label) in enumerate(rows, 1):
            if len(tokens) != len(tags):
                raise DataFormatError(
                    f"{self.tags}, line {number} has {_counted(len(tags), 'tag')} for the"
                    f" {_counted(len(tokens), 'token')} of that line in {self.tokens.name}"
                )
            yield Sentence(tokens, tags, label)

    def digest(self) -> str:
        """Return a digest of what the files hold."""
        return digest_of([self.tokens, self.tags, *([self.label] if self.label else [])])

    def _check_rows(self) -> None:
        paths = [self.tags, *([self.label] if self.label else [])]
        expected, *found = (sum(1 for _ in lines_of(path)) for path in (self.tokens, *paths))
        for path, rows in zip(paths, found, strict=True):
            if rows != expected:
                raise DataFormatError(
                    f"{path} has {rows} lines but {self.tokens} has {expected}: line n of one must"
                    " belong to line n of the other"
                )

    @staticmethod
    def _rows(path: Path) -> Iterator[list[str]]:
        for where, line in _numbered(path):
            if not (row := split_blanks(line)):
                raise DataFormatError(f"{where} is empty: each line must hold a whole sequence")
            yield row


@dataclass(frozen=True)
class ColumnFile:
    """A row for each token, its columns parted by tabs or blanks; an empty line between sequences.

    CoNLL-U (by its suffix) is read as its specification says: columns parted by tabs, comments
    after '#', and no token of their own for ranges (1-2) and empty nodes (1.1). In any of the
    formats `# KEY = VALUE` is a comment, such as the label above a sequence.
    """

    path: Path
    names: Names

    @property
    def is_universal(self) -> bool:
        """Whether the file is CoNLL-U."""
        return ".conllu" in self.path.suffixes

    def digest(self) -> str:
        """Return a digest of what the file holds."""
        return digest_of([self.path])

    def read(self) -> Iterator[Sentence]:
        """Yield all sentences. Raise DataFormatError for the first thing that is wrong."""
        empty = True
        for where, label, rows in self._blocks():
            tokens, tags = ([row[place] for row in rows] for place in (self._token, self._tag))
            if self.names.label is not None and label is None:
                raise DataFormatError(
                    f"{where} begins a sequence without a label: put '# {self.names.label} = ...'"
                    " above it"
                )
            yield Sentence(tokens, tags, label if self.names.label is not None else None)
            empty = False
        if empty:
            raise DataFormatError(f"{self.path} holds no sequence")

    def _blocks(self) -> Iterator[tuple[str, str | None, list[list[str]]]]:
        """Yield the sequences: where each begins, its label, the columns of its tokens."""
        label: str | None = None
        rows: list[list[str]] = []
        begin, width = "", 0
        for where, line in chain(_numbered(self.path), [("", "")]):
            if not line.strip():
                if rows:
                    yield begin, label, rows
                label, rows = None, []
            elif (comment := self._comment(line)) is not None:
                label = comment or label
            elif row := self._columns(line):
                width = width or self._checked_width(where, len(row))
                self._check_row(where, row, width)
                begin = begin if rows else where
                rows.append(row)

    def _comment(self, line: str) -> str | None:
        """Return the label in a comment, '' for another comment, None for what is none."""
        if not line.startswith("#"):
            return None
        key, equals, value = line[1:].partition("=")
        if self.names.label is not None and equals and key.strip() == self.names.label:
            return value.strip()
        return "" if self.is_universal or _NOTE.match(line) else None

    def _columns(self, line: str) -> list[str]:
        if self.is_universal:
            row = line.split("\t")
            return [] if "-" in row[0] or "." in row[0] else row
        row = line.split("\t") if "\t" in line else split_blanks(line)
        return [] if row[0] == _DOCUMENT else row

    @property
    def _token(self) -> int:
        return (self.names.token_column or (2 if self.is_universal else 1)) - 1

    @property
    def _tag(self) -> int:
        return (self.names.tag_column or (4 if self.is_universal else 0)) - 1

    def _checked_width(self, where: str, width: int) -> int:
        needed = max(2, self._token + 1, self._tag + 1)
        if width < needed:
            raise DataFormatError(
                f"{where} has {_counted(width, 'column')}, and at least {needed} are needed for"
                " a token and its tag"
            )
        return width

    def _check_row(self, where: str, row: Sequence[str], width: int) -> None:
        if len(row) != width:
            raise DataFormatError(
                f"{where} has {_counted(len(row), 'column')} where the first row has {width}"
            )
        for name, place in (("token", self._token), ("tag", self._tag)):
            if not row[place].strip():
                raise DataFormatError(f"{where} has an empty {name}")


@dataclass(frozen=True)
class TableFile:
    """A table whose rows hold a list of tokens and a list of tags, and a label if one is named."""

    path: Path
    names: Names

    def digest(self) -> str:
        """Return a digest of what the file holds."""
        return digest_of([self.path])

    def read(self) -> Iterator[Sentence]:
        """Yield all sentences. Raise DataFormatError for the first thing that is wrong."""
        empty, names = True, self.names
        for where, row in table_rows(self.path):
            tokens, tags = (self._texts(where, row, each) for each in (names.tokens, names.tags))
            if len(tags) != len(tokens):
                raise DataFormatError(
                    f"{where} has {_counted(len(tags), 'tag')} for {_counted(len(tokens), 'token')}"
                )
            named = names.label and _label(where, text_cell(where, row, names.label))
            yield Sentence(tokens, tags, named)
            empty = False
        if empty:
            raise DataFormatError(f"{self.path} holds no sequence")

    @staticmethod
    def _texts(where: str, row: Mapping[str, Any], column: str) -> list[str]:
        place = f"{where}, column {column!r}"
        texts = list_cell(where, row, column)
        if not all(texts):
            raise DataFormatError(f"{place} holds an empty text")
        if not texts:
            raise DataFormatError(f"{place} holds an empty list: each row must have a sequence")
        return texts


TagFiles = ParallelFiles | ColumnFile | TableFile

#: The tables whose cells can be lists.
_LISTS: Final = (".jsonl", ".parquet")


def find_tagged(folder: Path, split: str, names: Names, roots: Sequence[Path]) -> TagFiles:
    """Return the files of a split: parallel ones in a folder, else one of columns, else a table.

    Raise DataMissingError where there are none, DataPathError where they lead out of the roots.
    """
    place = folder / split
    wanted = [names.tokens, names.tags, *([names.label] if names.label else [])]
    there = {name: path for name in wanted if (path := find_file(place / name, roots))}
    if len(there) == len(wanted):
        label = there[names.label] if names.label else None
        return ParallelFiles(there[names.tokens], there[names.tags], label)
    if there:
        missing = ", ".join(name for name in wanted if name not in there)
        raise DataMissingError(f"{place} holds {', '.join(there)} but not {missing}")
    for suffix in (*SUFFIXES, *_LISTS):
        if path := find_file(folder / f"{split}{suffix}", roots):
            return TableFile(path, names) if suffix in _LISTS else ColumnFile(path, names)
    files = ", ".join(f"{split}{suffix}" for suffix in (*SUFFIXES, *_LISTS))
    raise DataMissingError(
        f"{folder} has no split {split!r}: looked for {' and '.join(wanted)} in {split}/, or one of"
        f" {files}, each with or without .gz"
    )


def split_blanks(line: str) -> list[str]:
    """Return what stands between blanks and tabs; Unicode's other separators are text."""
    return [word for word in line.replace("\t", " ").split(" ") if word]


def _numbered(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(path), 1):
        yield f"{path}, line {number}", line


def _label(where: str, line: str) -> str:
    if not (label := line.strip()):
        raise DataFormatError(f"{where} is empty: each line must hold a label")
    return label


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
