"""Pairs of texts in files: two line-aligned files, or one table with a column for each side.

A line ends at a line feed, or a carriage return and a line feed, and at nothing else: Unicode's
other separators are text. A byte order mark at the head of a file is dropped. Everything that is
wrong is one DataError with the file and the line.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from datamodules._errors import DataFormatError, DataMissingError, DataPathError
from datamodules._paths import inside, is_file

#: The texts of both sides, equally many.
Pairs = tuple[list[str], list[str]]
#: Where a row stands, for the reader of an error, and what it holds by column.
_Row = tuple[str, Mapping[str, Any]]

_CHUNK: Final = 1 << 20
_SHOWN: Final = 8


@dataclass(frozen=True)
class PairFiles:
    """The files of one split: two of lines, or one table."""

    paths: tuple[Path, ...]
    #: Language suffixes or column names of source and target.
    columns: tuple[str, str]

    def read(self) -> Pairs:
        """Return all pairs. Raise DataFormatError for the first thing that is wrong."""
        if len(self.paths) == 2:
            return _read_lines(*self.paths)
        return _read_table(self.paths[0], self.columns)

    def digest(self) -> str:
        """Return a digest of what the files hold."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            digest.update(f"{path.suffixes} {_size(path)} ".encode())
            for chunk in _chunks(path):
                digest.update(chunk)
        return digest.hexdigest()


def find_pairs(
    folder: Path, split: str, columns: tuple[str, str], roots: Sequence[Path]
) -> PairFiles:
    """Return the files of a split: lines before tables, plain before gzip.

    Raise DataMissingError where there are none, DataPathError where they lead out of the roots.
    """
    sides = [_present(folder / f"{split}.{column}", roots) for column in columns]
    source, target = sides
    if source and target:
        return PairFiles((source, target), columns)
    for suffix in _TABLES:
        if table := _present(folder / f"{split}{suffix}", roots):
            return PairFiles((table,), columns)
    raise DataMissingError(_missing(folder, split, columns, [side for side in sides if side]))


def _present(path: Path, roots: Sequence[Path]) -> Path | None:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if is_file(inside(candidate, roots)):
            return candidate
    return None


def _missing(folder: Path, split: str, columns: Sequence[str], half: Sequence[Path]) -> str:
    lines = " and ".join(f"{split}.{column}" for column in columns)
    tables = ", ".join(f"{split}{suffix}" for suffix in _TABLES)
    names = sorted(path.name for path in folder.iterdir() if is_file(path))
    near = [name for name in names if name.startswith(f"{split}.")] or names
    there = ", ".join(near[:_SHOWN]) or "nothing"
    only = f"; of the two only {half[0].name} is there" if half else ""
    return (
        f"{folder} has no split {split!r}: looked for {lines}, or one of {tables}, each with or"
        f" without .gz{only} (the folder holds: {there})"
    )


def _read_lines(source: Path, target: Path) -> Pairs:
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise DataFormatError(
            f"{source} has {len(sources)} lines but {target} has {len(targets)}: line n of one"
            " must be the translation of line n of the other"
        )
    return sources, targets


def _read_table(path: Path, columns: tuple[str, str]) -> Pairs:
    reader = _TABLES[path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix]
    sides: Pairs = ([], [])
    for where, row in reader(path):
        for side, column in zip(sides, columns, strict=True):
            if column not in row:
                raise DataFormatError(f"{where} has no column {column!r}{_offer(column, row)}")
            side.append(_checked(row[column], f"{where}, column {column!r}"))
    if not sides[0]:
        raise DataFormatError(f"{path} holds no rows")
    return sides


def _offer(column: str, row: Mapping[str, Any]) -> str:
    near = get_close_matches(column, list(row), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f" (it has: {', '.join(list(row)[:_SHOWN])}){hint}"


def _checked(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise DataFormatError(f"{where} holds {json.dumps(value, default=repr)} and not text")
    if "\0" in value:
        raise DataFormatError(f"{where} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise DataFormatError(f"{where} holds text that is not Unicode") from error
    return value


def _tsv(path: Path) -> Iterator[_Row]:
    return _with_header(path, ((i, line.split("\t")) for i, line in enumerate(_lines(path), 1)))


def _csv(path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise DataFormatError(f"{path}, line {reader.line_num}: {error}") from error
            if row is None:
                return
            yield reader.line_num, row

    return _with_header(path, rows())


def _with_header(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[_Row]:
    header: list[str] | None = None
    for line, cells in rows:
        if header is None:
            header = cells
        elif len(cells) != len(header):
            raise DataFormatError(
                f"{path}, line {line} has {len(cells)} cells where the header has {len(header)}"
            )
        else:
            yield f"{path}, line {line}", dict(zip(header, cells, strict=True))


def _jsonl(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataFormatError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataFormatError(f"{where} is not a JSON object with a key for each column")
        yield where, row


def _parquet(path: Path) -> Iterator[_Row]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few need it
    from pyarrow import parquet  # noqa: PLC0415 - likewise

    try:
        table = parquet.read_table(pa.BufferReader(_bytes(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataFormatError(f"{path} is not a Parquet file: {error}") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}, row {number}", row


#: How a table is read, by its suffix, in the order in which they are looked for.
_TABLES: Final[Mapping[str, Callable[[Path], Iterator[_Row]]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _lines(path: Path) -> list[str]:
    text = _text(path)
    if not text:
        raise DataFormatError(f"{path} is empty")
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _text(path: Path) -> str:
    content = _bytes(path)
    if (nul := content.find(b"\0")) >= 0:
        raise DataFormatError(
            f"{path}, line {_line_at(content, nul)} holds a NUL byte: it is damaged, or not UTF-8"
        )
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = _line_at(content, error.start)
        raise DataFormatError(f"{path}, line {line} is not valid UTF-8") from error


def _line_at(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataFormatError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataPathError(f"cannot read {path}: {error.strerror}") from error


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise DataPathError(f"cannot read {path}: {error.strerror}") from error


def _size(path: Path) -> int:
    return path.stat().st_size
