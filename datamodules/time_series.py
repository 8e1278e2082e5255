"""Series of numbers in the order of time: what comes next, from a window of what was."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from torch import Tensor

from datamodules._base import Answer, LineData, Task, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared, cached, key_of
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import check_encoding, digest_of
from datamodules._learned import LearnedData
from datamodules._moments import Cycle, phases
from datamodules._paths import find_folder
from datamodules._refusals import Refusal, misfit
from datamodules._series import (
    Cut,
    Division,
    Missing,
    Range,
    SeriesTable,
    Windows,
    find_table,
    only_table,
    window_of,
)
from datamodules._values import BEFORE, Scaling, ValueData, value_answer

#: Part of the cache's key: to be raised when the same file and settings give other values.
_VERSION: Final = 2
_log = logging.getLogger(__name__)

#: Deviations from the mean of training that are still read: their squares, which losses are made
#: of, fit into single precision.
_REACH: Final = 1e18

Share = Annotated[float, Interval(ge=0, lt=1)]


class TimeSeries(LearnedData[Scaling, Windows], ValueData, LineData):
    """A table with a row for each moment, from which windows are cut as they are needed.

    A model reads `window` rows of the input columns and tells the next `horizon` rows of the
    target columns. Every column is scaled to mean 0 and deviation 1 of the training rows. With
    `relative`, what is read and told is the difference from the newest value. Rows are read one by
    one, or a `segment` of them side by side as one step, which makes long windows cheap (Lin et al.
    2023, "SegRNN: segment recurrent neural network for long-term time series forecasting").

    The table is `root/train`: CSV, TSV, JSONL or Parquet, gzip or not. Splits without a file of
    their own are cut off its end: rows 1 to n are train, those behind them val, then test. Their
    windows may begin in the rows before the split (`look_back`), as forecasts are scored in the
    literature; what is told never lies in two splits.

    A line for `unroll predict` is a JSON list of at least `window` rows, the oldest first, of which
    the newest are read; each row is an object with a number for each column, or a list of numbers:
    the input columns in their order, then those target columns that are not among them; where the
    calendar is read, its time before all others.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        train: table to learn from; if not given, the only one in the folder
        val: table to choose models by; if not given, it is cut off
        test: table to score the best model on; if not given, it is cut off
        time: column of the time; empty if there is none and the rows are in its order
        time_format: how times are written, as strptime has it; empty for ISO 8601 and for numbers
        inputs: columns that are read; all but the time if not given
        targets: columns that are told; those that are read if not given
        window: rows that are read
        horizon: rows that are told
        segment: rows that are read side by side as one step; the window is a multiple of it
        relative: whether values are differences from the newest one
        calendar: cycles whose phase at each row is read beside the columns, as sine and cosine
        rows: how many rows are train, then val, then test, of those without a file of their own;
            by share if not given
        val_share: part of the rows that is val, where it is cut off by share
        test_share: part of the rows that is test, where it is cut off by share; 0 for none
        look_back: whether windows of splits that are cut off may begin before their split
        stride: rows from the beginning of one training window to that of the next
        missing: what is done where a value is missing
        encoding: how the files are encoded

    """

    gives: ClassVar[frozenset[Task]] = frozenset({("frames", "value")})
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 3072}
    monitor = ("val/mse", "min")
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            when={"time": ("",)},
            unless={"calendar": ([],)},
            because="'calendar' needs the column of the time: name it in 'time'",
        ),
    )

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        time: str = "date",
        time_format: str = "",
        inputs: list[str] = [],  # noqa: B006 - a default in a catalogue; never changed
        targets: list[str] = [],  # noqa: B006 - likewise
        window: Annotated[int, Ge(1)] = 96,
        horizon: Annotated[int, Ge(1)] = 24,
        segment: Annotated[int, Ge(1)] = 1,
        relative: bool = True,
        calendar: list[Cycle] = [],  # noqa: B006 - likewise
        rows: list[Annotated[int, Ge(1)]] = [],  # noqa: B006 - likewise
        val_share: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
        test_share: Share = 0.2,
        look_back: bool = True,
        stride: Annotated[int, Ge(1)] = 1,
        missing: Missing = "refuse",
        encoding: str = "utf-8",
    ) -> None:
        super().__init__()
        self._root = root
        self._names = {"train": train, "val": val, "test": test}
        self._table = SeriesTable(time, time_format, missing, check_encoding(encoding))
        self._inputs, self._targets = list(inputs), list(targets)
        self._sizes = window, horizon, segment
        if window % segment:
            raise DataError(f"'window' is {window}, which is no multiple of 'segment', {segment}")
        self._relative = relative
        self._calendar = list(calendar)
        if line := misfit(self.refusals, {"time": time, "calendar": list(calendar)}):
            raise DataError(line)
        shares = {"val": val_share, "test": test_share}
        self._division = Division.of(self._names, rows, shares)
        self._look_back = look_back
        self._stride = stride
        for name, columns in (("inputs", inputs), ("targets", targets)):
            if len(set(columns)) < len(columns):
                raise DataError(f"'{name}' has a column twice: {', '.join(columns)}")

    # --- preparing

    def prepare(self, workspace: Workspace) -> None:
        """Find, read, check and scale all splits, or take their values from the cache.

        With a loaded scaling none is computed, and a file may be missing until it is used.
        """
        self._workspace = workspace
        found = self._find(workspace)
        if not self._inputs and "train" in found:
            self._inputs = self._table.columns(found["train"])
        self._targets = self._targets or self._inputs
        read = {split: self._read(path, workspace) for split, path in found.items()}
        ranges = {split: (0, len(values)) for split, (values, _) in read.items()}
        if "train" in found:
            values = read["train"][0]
            ranges |= self._division.ranges(found["train"], len(values))
            low, high = ranges["train"]
            self._learned = self._learned or self._scaled(values[low:high], found["train"])
        digests = {split: digest_of([path]) for split, path in found.items()}
        read_as = [self._columns, *self._sizes, self._table.time, self._table.missing]
        self._origins = {
            split: [digests.get(split) or digests["train"], *rows, *read_as]
            for split, rows in ranges.items()
        }
        scaled = {split: self._seen(*read[split], str(path)) for split, path in found.items()}
        self._splits = {}
        for split, rows in ranges.items():
            source = split if split in found else "train"
            self._splits[split] = self._windows(split, scaled[source], rows, found[source])

    def _find(self, workspace: Workspace) -> dict[str, Path]:
        """Return the files: that of training, and those of the splits that have their own."""
        folder = find_folder(self._root, workspace.roots)
        found: dict[str, Path] = {}
        self._absent = {}
        for split, name in self._names.items():
            try:
                if name:
                    found[split] = find_table(folder, name, workspace.roots)
                elif split == "train":
                    others = [each for each in self._names.values() if each]
                    found[split] = only_table(folder, others, workspace.roots)
            except DataMissingError as error:
                if split != "test" and self._learned is None:
                    raise
                self._absent[split] = error
        return found

    def _read(
        self, path: Path, workspace: Workspace
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return values (n, C) and what the clock showed (n,)."""
        table = self._table
        settings = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "file": digest_of([path]),
            "read": [table.time, table.time_format, table.missing, table.encoding],
            "columns": self._columns,
        }
        build = partial(_prepared, table, path, self._columns)
        made = cached(workspace.cache / "series", key_of(settings), build)
        if gaps := made.facts["gaps"]:
            _log.warning("%s: %s", path, gaps)
        return made.arrays["values"], made.arrays["shown"]

    def _seen(
        self, values: NDArray[np.float64], shown: NDArray[np.float64], where: str
    ) -> NDArray[np.float32]:
        """Return scaled values, and behind them the phases of the calendar, (n, C + 2K)."""
        scaled = self._in_reach(values, where)
        if not self._calendar:
            return scaled
        if np.isnan(shown).any():
            raise DataFormatError(
                f"{where}: the times in column {self._table.time!r} are numbers, of which"
                " 'calendar' knows no day, week or year: leave it out"
            )
        return np.concatenate([scaled, phases(shown, self._calendar)], axis=1)

    def _in_reach(self, values: NDArray[np.float64], where: str) -> NDArray[np.float32]:
        """Return scaled values. Raise DataFormatError for one that would be lost in errors."""
        with np.errstate(over="ignore"):
            scaled = self._known(values)
        far = np.argwhere(abs(scaled) > _REACH)
        if len(far):
            row, column = far[0]
            raise DataFormatError(
                f"{where}: {values[row, column]:g} in column {self._columns[column]!r} is too far"
                " from all that was trained on: correct it, or fill it in"
            )
        return scaled

    def _scaled(self, rows: NDArray[np.float64], path: Path) -> Scaling:
        """Return the scaling of the training rows. Raise DataFormatError for a constant target."""
        if not len(rows):
            raise DataFormatError(f"{path} leaves no rows to train on: lower the other shares")
        for column in self._targets:
            values = rows[:, self._columns.index(column)]
            if values.min() == values.max():
                raise DataFormatError(
                    f"{path}: column {column!r} is {values[0]:g} in all {len(rows)} rows to train"
                    " on: there is nothing to forecast"
                )
        return Scaling.of(rows)

    def _windows(self, split: str, values: NDArray[np.float32], rows: Range, path: Path) -> Windows:
        stride = self._stride if split == "train" else 1
        found = self._windowing.windows(values, rows, stride=stride, look_back=self._look_back)
        if not len(found):
            window, horizon, _ = self._sizes
            raise DataFormatError(
                f"{path}: rows {rows[0] + 1} to {rows[1]} (split {split!r}) are too few for a"
                f" window of {window} rows and a horizon of {horizon}: lower these, or give more"
            )
        return found

    # --- what the trainer asks for

    @property
    def _columns(self) -> list[str]:
        """The columns of the array: those that are read, then those that are only told."""
        return [*self._inputs, *(name for name in self._targets if name not in self._inputs)]

    @property
    def _windowing(self) -> Cut:
        places = {name: place for place, name in enumerate(self._columns)}
        return Cut(
            *self._sizes,
            tuple(places[name] for name in self._inputs),
            tuple(places[name] for name in self._targets),
            tuple(len(places) + place for place in range(2 * len(self._calendar))),
            self._relative,
        )

    @property
    def value_scale(self) -> Sequence[float]:
        """Return the standard deviation in training of each target column."""
        return [self._known.scale[place] for place in self._windowing.targets]

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many features go in and values come out, and how many rows are told."""
        return {
            "feature_size": self._windowing.features,
            "value_size": len(self._targets),
            "value_steps": self._sizes[1],
        }

    def sizes(self, split: str) -> Sizes:
        """Return the steps that are read and told, the same for all windows, (N, 2)."""
        cut = self._windowing
        sizes = np.array([cut.steps, cut.horizon], dtype=np.int64)
        return np.tile(sizes, (len(self._split(split)), 1))

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return these windows, cut out of the series."""
        windows = self._split(split)
        starts = windows.starts(rows)
        return self._batch(windows.values, starts, torch.tensor(rows, dtype=torch.int64), told=True)

    def _batch(
        self,
        values: NDArray[np.float32],
        starts: NDArray[np.int64],
        index: Tensor,
        *,
        told: bool,
    ) -> Batch:
        cut = self._windowing
        base = torch.from_numpy(cut.base(values, starts))  # (B, V)
        full = torch.full_like(index, 1)
        return Batch(
            inputs=torch.from_numpy(cut.inputs_of(values, starts)),
            lengths=full * cut.steps,
            targets=torch.from_numpy(cut.targets_of(values, starts)) if told else None,
            target_lengths=full * cut.horizon if told else None,
            extras={"index": index, BEFORE: torch.zeros_like(base) if cut.relative else base},
        )

    # --- lines in, values out

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of windows given as JSON. Raise DataError for a line that is none."""
        windows = np.concatenate([self._seen(*self._window_of(line), line[:40]) for line in lines])
        ends = (np.arange(len(lines), dtype=np.int64) + 1) * self._sizes[0]
        return self._batch(windows, ends, torch.arange(len(lines)), told=False)

    def _window_of(self, line: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        table = self._table if self._calendar else replace(self._table, time="")
        return window_of(line, table, self._columns, self._sizes[0])

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:  # noqa: ARG002 (there is one)
        """Return the next rows of each target column in the unit of the file; (T, V) in."""
        scaling, cut = self._known, self._windowing
        places = list(cut.targets)
        told = output.double().numpy()
        if self._relative:
            told = told + scaling(self._window_of(line)[0])[-1, places]
        whole = np.zeros((len(told), len(scaling.mean)))
        whole[:, places] = told
        return [value_answer(scaling.undo(whole)[:, places], self._targets)]

    # --- what the checkpoint keeps

    def _state(self) -> dict[str, Any]:
        return {
            "inputs": list(self._inputs),
            "targets": list(self._targets),
            "sizes": list(self._sizes),
            "relative": self._relative,
            "calendar": list(self._calendar),
            "time": [self._table.time, self._table.time_format],
            "scaling": self._known.state(),
        }

    def _reading(self) -> dict[str, Any]:
        columns = {"inputs": self._inputs, "targets": self._targets}  # empty: the file decides
        return {
            **{name: each for name, each in columns.items() if each},
            **dict(zip(("window", "horizon", "segment"), self._sizes, strict=True)),
            "relative": self._relative,
            "calendar": self._calendar,
            "time": self._table.time,
            "time_format": self._table.time_format,
        }

    def _take_over(self, state: dict[str, Any]) -> None:
        self._inputs, self._targets = list(state["inputs"]), list(state["targets"])
        window, horizon, segment = state["sizes"]
        self._sizes = window, horizon, segment
        self._relative = state["relative"]
        self._calendar = list(state["calendar"])
        time, time_format = state["time"]
        self._table = replace(self._table, time=time, time_format=time_format)
        self._learned = Scaling.from_state(state["scaling"])

    def _split(self, split: str) -> Windows:
        if split in self._splits:
            return self._splits[split]
        source = "train" if split in self._division.splits else split
        if source in self._absent:
            raise self._absent[source]
        known = ", ".join(self._splits) or "none; it was not prepared"
        mend = "; name a file for it or set test_share" if split == "test" else ""
        raise DataError(f"this data has no split {split!r} (it has: {known}){mend}")


def _prepared(table: SeriesTable, path: Path, columns: Sequence[str]) -> Prepared:
    values, shown, gaps = table.read(path, columns)
    return Prepared({"values": values, "shown": shown}, {"gaps": gaps})
