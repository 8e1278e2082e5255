"""A series as it lies in a table, and the windows that are cut out of it.

Shapes: n rows in the order of time, C columns, N windows, B windows of a batch, S steps in which a
window is read, T rows of the horizon, F features of a step, V target columns.
"""

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import cell_of, find_file, is_table, table_rows, what_is_there
from datamodules._moments import Clock
from datamodules._paths import inside, is_file

Missing = Literal["refuse", "previous"]
#: First row of a split in its file, and the row behind its last.
Range = tuple[int, int]

#: What stands in a table of text where there is no number.
_NOTHING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
#: Characters of a cell or a line that an error shows.
_SHOWN: Final = 40
_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class SeriesTable:
    """How a table holds a series."""

    #: Column of the time; empty: there is none, the rows are in its order.
    time: str
    #: How a time is written, as strptime has it; empty: ISO 8601, or a number.
    time_format: str
    missing: Missing
    encoding: str

    def columns(self, path: Path) -> list[str]:
        """Return the columns that hold values: all but the time. Raise DataFormatError."""
        _, first = next(iter(table_rows(path, self.encoding)), (None, None))
        if first is None:
            raise DataFormatError(f"{path} has no rows")
        if not (names := [name for name in first if name != self.time]):
            raise DataFormatError(f"{path} has no column of values, only {self.time!r}")
        return names

    def read(
        self, path: Path, columns: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
        """Return the values of these columns (n, C), what the clock showed (n,), and of its gaps.

        Without a column of the time it shows nothing (0,). Raise DataFormatError for the first
        thing that is wrong.
        """
        values, clock = array("d"), Clock(self.time, self.time_format)
        for where, row in table_rows(path, self.encoding):
            if self.time:
                clock.read(where, row)
            before = values[-len(columns) :]
            for place, column in enumerate(columns):
                number = number_of(cell_of(where, row, column), f"{where}, column {column!r}")
                if number is None:
                    number = self._filled(before, place, f"{where}, column {column!r}")
                values.append(number)
        shown = np.array(clock.shown)
        return np.array(values).reshape(-1, len(columns)), shown, clock.gaps()

    def _filled(self, before: Sequence[float], place: int, where: str) -> float:
        """Return the value before one that is missing, if that is wanted."""
        if self.missing == "refuse":
            raise DataFormatError(
                f"{where} has no value: fill it in, or set missing = 'previous' to go on with the"
                " one before it"
            )
        if not before:
            raise DataFormatError(
                f"{where} has no value, and there is none before it to go on with"
            )
        return before[place]


def number_of(value: object, where: str) -> float | None:
    """Return the number in a cell, or None where it holds none.

    Raise DataFormatError for what is no number, and for one that single precision cannot hold.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    try:
        number = math.nan if isinstance(value, bool | list | dict) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        if isinstance(value, float):
            return None
        raise DataFormatError(f"{where} holds {str(value)[:_SHOWN]!r} and not a number")
    if math.isinf(number):
        raise DataFormatError(f"{where} holds an infinite value")
    if abs(number) > _LARGEST:
        raise DataFormatError(f"{where} holds {number:g}, too large for single precision")
    return number


# --- files


def find_table(folder: Path, name: str, roots: Sequence[Path]) -> Path:
    """Return the table of this name, gzip or not. Raise DataPathError or DataFormatError."""
    found = find_file(folder / name, roots)
    if found is None:
        raise DataMissingError(
            f"{folder} has no file {name!r} (it holds: {what_is_there(folder, name[:1])})"
        )
    if not is_table(found):
        raise DataFormatError(f"{found} is not named as a table: .csv, .tsv, .jsonl or .parquet")
    return found


def only_table(folder: Path, others: Sequence[str], roots: Sequence[Path]) -> Path:
    """Return the one table of a folder beside these. Raise DataMissingError."""
    names = {name for other in others for name in (other, f"{other}.gz")}
    tables = [
        path
        for path in sorted(folder.iterdir())
        if is_table(path) and path.name not in names and is_file(inside(path, roots))
    ]
    if len(tables) != 1:
        raise DataMissingError(
            f"{folder} has {len(tables) or 'no'} tables to learn from: name one in 'train' (it"
            f" holds: {what_is_there(folder, '')})"
        )
    return tables[0]


# --- splits and windows


@dataclass(frozen=True)
class Division:
    """Which rows of the training file are whose: train first, then the splits that are cut off."""

    splits: tuple[str, ...]
    #: How many rows each has; none given: by share.
    rows: tuple[int, ...]
    #: Which part of all rows is that of each split but train.
    shares: Mapping[str, float]

    @classmethod
    def of(
        cls, own: Mapping[str, str | None], rows: Sequence[int], shares: Mapping[str, float]
    ) -> "Division":
        """Return the division among splits that have no file of their own. Raise DataError."""
        cut = [split for split in shares if not own[split] and (rows or shares[split])]
        splits = ("train", *cut)
        if rows and not (len(rows) <= len(splits) and ("val" not in cut or len(rows) > 1)):
            raise DataError(
                f"'rows' has {len(rows)} numbers; it needs one for each of {', '.join(splits)},"
                " which have no file of their own"
            )
        splits = splits[: len(rows) or None]
        if not rows and sum(shares[split] for split in cut) >= 1:
            raise DataError("'val_share' and 'test_share' leave nothing to train on: lower them")
        return cls(splits, tuple(rows), shares)

    def ranges(self, path: Path, count: int) -> dict[str, Range]:
        """Return the rows of each split, `count` in all. Raise DataFormatError for too few."""
        sizes = list(self.rows)
        if not sizes:
            held = [int(count * self.shares[split]) for split in self.splits[1:]]
            sizes = [count - sum(held), *held]
        if sum(sizes) > count:
            raise DataFormatError(
                f"{path} has {count} rows where 'rows' wants {' + '.join(map(str, sizes))}"
            )
        ends = np.cumsum([0, *sizes]).tolist()
        return {split: (ends[at], ends[at + 1]) for at, split in enumerate(self.splits)}


@dataclass(frozen=True)
class Windows:
    """The windows of one split. Window i ends before row `first + i * stride`, its first target."""

    #: The whole series, scaled, (n, C); shared by all splits of a file.
    values: NDArray[np.float32]
    first: int
    count: int
    stride: int

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.count

    def starts(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of the first target of these windows, (B,)."""
        return self.first + np.asarray(rows, dtype=np.int64) * self.stride


@dataclass(frozen=True)
class Cut:
    """How windows are cut, and what of them a model sees and is to tell."""

    window: int
    horizon: int
    #: How many rows are read as one step.
    segment: int
    #: Places of the columns that go in, and of those that are to be told (V,).
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    #: Places of columns of which a step reads only its last row, as it is. With the columns that go
    #: in, a segment of them side by side, they are the F features of a step.
    phases: tuple[int, ...]
    #: Whether all values are differences from the window's last row.
    relative: bool

    def windows(
        self, values: NDArray[np.float32], rows: Range, *, stride: int, look_back: bool
    ) -> Windows:
        """Return the windows whose targets lie in these rows; none where they are too few.

        With `look_back` what goes in may lie before the first of them.
        """
        low, high = rows
        first = max(low, self.window) if look_back else low + self.window
        count = (high - self.horizon - first) // stride + 1
        return Windows(values, first, max(0, count), stride)

    def inputs_of(
        self, values: NDArray[np.float32], starts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the windows before these rows, (B, S, F)."""
        places = starts[:, None] + np.arange(-self.window, 0)  # (B, S * segment)
        read: NDArray[np.float32] = values[places[..., None], np.array(self.inputs)]
        if self.relative:
            read -= read[:, -1:].copy()
        steps = read.reshape(len(starts), self.steps, -1)
        if not self.phases:
            return steps
        ends = places[:, self.segment - 1 :: self.segment]  # (B, S)
        return np.concatenate([steps, values[ends[..., None], np.array(self.phases)]], axis=-1)

    @property
    def steps(self) -> int:
        """How many steps a window is read in (S)."""
        return self.window // self.segment

    @property
    def features(self) -> int:
        """How many numbers a step reads (F)."""
        return self.segment * len(self.inputs) + len(self.phases)

    def targets_of(
        self, values: NDArray[np.float32], starts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the rows from these on, (B, T, V)."""
        places = starts[:, None] + np.arange(self.horizon)  # (B, T)
        told: NDArray[np.float32] = values[places[..., None], np.array(self.targets)]
        if self.relative:
            told -= self.base(values, starts)[:, None]
        return told

    def base(self, values: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the newest values of the target columns before these rows, (B, V)."""
        newest: NDArray[np.float32] = values[starts[:, None] - 1, np.array(self.targets)]
        return newest


# --- lines


def window_of(
    line: str, table: SeriesTable, columns: Sequence[str], window: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the newest rows of a JSON list of rows as `SeriesTable.read` does those of a file.

    Where the table has no column of time, the rows need none. Raise DataError for what is no such
    list.
    """
    shown = f"the line {line[:_SHOWN]!r}"
    try:
        rows = json.loads(line)
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list) or len(rows) < window:
        has = f" and has {len(rows)}" if isinstance(rows, list) else ""
        raise DataError(f"{shown} must be a JSON list of at least {window} rows{has}")
    clock, values = Clock(table.time, table.time_format), []
    for number, row in list(enumerate(rows, start=1))[-window:]:
        where = f"{shown}, row {number}"
        cells = _cells_of(row, [table.time, *columns] if table.time else columns, where)
        if table.time:
            clock.read(where, cells)
        values.append([_number_in(cells[name], f"{where}, column {name!r}") for name in columns])
    return np.array(values), np.array(clock.shown)


def _cells_of(row: object, names: Sequence[str], where: str) -> Mapping[str, Any]:
    """Return the cells of a row by name; a list holds them in the order of the names."""
    if isinstance(row, list) and len(row) == len(names):
        return dict(zip(names, row, strict=True))
    if isinstance(row, dict) and set(names) <= row.keys():
        return row
    raise DataError(f"{where} must hold {', '.join(names)}")


def _number_in(value: object, where: str) -> float:
    number = number_of(value, where)
    if number is None:
        raise DataError(f"{where} has no value")
    return number
