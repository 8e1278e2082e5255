"""What is in a file, as lines of text or as rows of a table; what is wrong with it, and where.

A line ends at a line feed, or a carriage return and a line feed, and at nothing else: Unicode's
other separators are text. A byte order mark at the head of a file is dropped. Everything that is
wrong is one DataError with the file and the line.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from datamodules._errors import DataError, DataFormatError, DataMissingError, DataPathError
from datamodules._paths import inside, is_file

#: Where a row stands, for the reader of an error, and what it holds by column.
Row = tuple[str, Mapping[str, Any]]

#: How text is encoded where nobody says otherwise.
UTF8: Final = "utf-8"

_CHUNK: Final = 1 << 20
_SHOWN: Final = 8
#: Rows of a table that are held at once.
_ROWS: Final = 256


def find_file(path: Path, roots: Sequence[Path]) -> Path | None:
    """Return the file of this name, or the same with .gz behind it, or None.

    Raise DataPathError where it leads out of the roots.
    """
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if is_file(inside(candidate, roots)):
            return candidate
    return None


def find_any(folder: Path, split: str, suffixes: Sequence[str], roots: Sequence[Path]) -> Path:
    """Return the file of a split that has the first of these suffixes, plain before gzip.

    Raise DataMissingError where there is none, DataPathError where it leads out of the roots.
    """
    for suffix in suffixes:
        if path := find_file(folder / f"{split}{suffix}", roots):
            return path
    names = ", ".join(f"{split}{suffix}" for suffix in suffixes)
    raise DataMissingError(
        f"{folder} has no split {split!r}: looked for one of {names}, each with or without"
        f" .gz (the folder holds: {what_is_there(folder, f'{split}.')})"
    )


def what_is_there(folder: Path, beginning: str) -> str:
    """Name some files of a folder, those that begin so if there are any, for an error's reader."""
    names = sorted(path.name for path in folder.iterdir() if is_file(path))
    near = [name for name in names if name.startswith(beginning)] or names
    return ", ".join(near[:_SHOWN]) or "nothing"


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of what the files hold."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.suffixes} {_size(path)} ".encode())
        for chunk in _chunks(path, unpacked=False):
            digest.update(chunk)
    return digest.hexdigest()


def check_encoding(name: str) -> str:
    """Return the name of an encoding. Raise DataError where there is none of this name."""
    try:
        b" ".decode(name, "ignore")
    except (LookupError, ValueError) as error:
        raise DataError(
            f"no text encoding is called {name!r}; usual ones: utf-8, latin-1, cp1252, utf-16"
        ) from error
    return name


def is_table(path: Path) -> bool:
    """Say whether a file is named as a table that can be read."""
    return plain_suffix(path) in TABLES


def table_rows(path: Path, encoding: str = UTF8) -> Iterator[Row]:
    """Yield the rows of a table. Raise DataFormatError for the first thing that is wrong."""
    return TABLES[plain_suffix(path)](path, encoding)


def plain_suffix(path: Path) -> str:
    """Return the suffix of a file's name, that of what is inside where it is gzip."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def cell_of(where: str, row: Mapping[str, Any], column: str) -> object:
    """Return what one cell holds. Raise DataFormatError where there is no such column."""
    if column not in row:
        raise DataFormatError(f"{where} has no column {column!r}{_offer(column, row)}")
    return row[column]


def text_cell(where: str, row: Mapping[str, Any], column: str) -> str:
    """Return the text in one cell. Raise DataFormatError where there is none."""
    return checked_text(cell_of(where, row, column), f"{where}, column {column!r}")


def list_cell(where: str, row: Mapping[str, Any], column: str) -> list[str]:
    """Return the texts in one cell that holds a list. Raise DataFormatError for anything else."""
    place, cell = f"{where}, column {column!r}", cell_of(where, row, column)
    if not isinstance(cell, list):
        raise DataFormatError(f"{place} holds {json.dumps(cell, default=repr)} and not a list")
    return [checked_text(each, place) for each in cell]


def texts_in(where: str, row: Mapping[str, Any], column: str) -> list[str]:
    """Return the texts in one cell: one, or a list of them."""
    if isinstance(cell_of(where, row, column), list):
        return list_cell(where, row, column)
    return [text_cell(where, row, column)]


def _offer(column: str, row: Mapping[str, Any]) -> str:
    near = get_close_matches(column, list(row), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f" (it has: {', '.join(list(row)[:_SHOWN])}){hint}"


def checked_text(value: object, where: str) -> str:
    """Return the value if it is text that can be kept. Raise DataFormatError."""
    if not isinstance(value, str):
        raise DataFormatError(f"{where} holds {json.dumps(value, default=repr)} and not text")
    if "\0" in value:
        raise DataFormatError(f"{where} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise DataFormatError(f"{where} holds text that is not Unicode") from error
    return value


def _tsv(path: Path, encoding: str) -> Iterator[Row]:
    return _with_header(
        path, ((i, line.split("\t")) for i, line in enumerate(lines_of(path, encoding), 1))
    )


def _csv(path: Path, encoding: str) -> Iterator[Row]:
    reader = csv.reader(_with_ends(path, encoding), strict=True)

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


def _with_ends(path: Path, encoding: str) -> Iterator[str]:
    """Yield the lines of a file with their ends, of which a carriage return alone is one."""
    line = ""
    for part in _text_parts(path, encoding):
        *lines, line = io.StringIO(f"{line}{part}", newline="").readlines()
        yield from lines
    if line:
        yield line


def _with_header(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in rows:
        if header is None:
            header = cells
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise DataFormatError(
                    f"{path}, line {line} names the column {twice[0]!r} twice: rename one"
                )
        elif len(cells) != len(header):
            raise DataFormatError(
                f"{path}, line {line} has {len(cells)} cells where the header has {len(header)}"
            )
        else:
            yield f"{path}, line {line}", dict(zip(header, cells, strict=True))


def _jsonl(path: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path, encoding), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataFormatError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataFormatError(f"{where} is not a JSON object with a key for each column")
        yield where, row


def _parquet(path: Path, _encoding: str) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few need it
    from pyarrow import parquet  # noqa: PLC0415 - likewise

    number = 0
    with _seekable(path) as file:
        try:
            opened = parquet.ParquetFile(file, buffer_size=_CHUNK, pre_buffer=False)
            for batch in opened.iter_batches(_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
        except (pa.ArrowException, OSError) as error:
            raise DataFormatError(f"{path} is not a Parquet file: {error}") from error


def _seekable(path: Path) -> IO[bytes]:
    """Open a file, what is inside where it is gzip, to be read at any place."""
    if path.suffix == ".gz":
        file = TemporaryFile()  # noqa: SIM115 - closed by who asked for it
        file.writelines(_chunks(path, unpacked=True))
        file.seek(0)
        return file
    try:
        return path.open("rb")
    except OSError as error:
        raise DataPathError(f"cannot read {path}: {error.strerror}") from error


#: How a table is read, by its suffix, in the order in which they are looked for.
TABLES: Final[Mapping[str, Callable[[Path, str], Iterator[Row]]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def lines_of(path: Path, encoding: str = UTF8) -> Iterator[str]:
    """Yield the lines of a file, at least one, without ever holding more than a part of it."""
    line = None
    for part in _text_parts(path, encoding):
        *lines, line = f"{line or ''}{part}".split("\n")
        yield from (each.removesuffix("\r") for each in lines)
    if line is None:
        raise DataFormatError(f"{path} is empty")
    if line:  # the last one has no line end
        yield line.removesuffix("\r")


def text_of(path: Path, encoding: str = UTF8) -> str:
    """Return what a file holds. Raise DataFormatError for what is no text in this encoding."""
    return "".join(_text_parts(path, encoding))


def _text_parts(path: Path, encoding: str) -> Iterator[str]:
    """Yield what a file holds in parts none of which is empty, a byte order mark left out."""
    decoder = codecs.getincrementaldecoder(encoding)()
    name, line, begun = encoding.upper(), 1, False
    for content in chain(_chunks(path, unpacked=True), [b""]):
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise DataFormatError(f"{path}, line {line} is not valid {name}") from error
        if (nul := text.find("\0")) >= 0:
            line += text.count("\n", 0, nul)
            raise DataFormatError(
                f"{path}, line {line} holds a NUL byte: it is damaged, or not {name}"
            )
        line += text.count("\n")
        part = text if begun else text.removeprefix("\ufeff")
        begun = begun or bool(text)
        if part:
            yield part


def _chunks(path: Path, *, unpacked: bool) -> Iterator[bytes]:
    """Yield what a file holds, or what is inside where it is gzip and to be `unpacked`."""
    try:
        with gzip.open(path) if unpacked and path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataFormatError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataPathError(f"cannot read {path}: {error.strerror}") from error


def _size(path: Path) -> int:
    return path.stat().st_size
