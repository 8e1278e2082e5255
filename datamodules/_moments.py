"""When the rows of a table were: that their times go on, and where in a day, week or year they lie.

Shapes: n rows, K cycles.
"""

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataFormatError
from datamodules._files import cell_of

Cycle = Literal["day", "week", "year"]

#: A step of time that is so much longer than the usual one is a gap: a month is never.
_GAP: Final = 1.5
_DAY: Final = 86_400
#: The first of January 1970 was a Thursday.
_WEEK_BEGAN: Final = -3 * _DAY
_SHOWN: Final = 40

#: From a cell to its place in time, and to what the clock showed: seconds, that of 1970 being 0.
#: Times that are numbers have a unit of their own, and nothing is known of any clock (nan).
_Reader = Callable[[Any], tuple[float, float]]


@dataclass
class Clock:
    """Read the times of a table row by row; the first row decides how times are written."""

    column: str
    #: As strptime has it; empty: ISO 8601, or a number.
    form: str
    #: What a clock on the wall showed, (n,).
    shown: "array[float]" = field(default_factory=lambda: array("d"))
    _times: "array[float]" = field(default_factory=lambda: array("d"))
    _reader: _Reader | None = None

    def read(self, where: str, row: Mapping[str, Any]) -> None:
        """Take the time of a row. Raise DataFormatError unless it is after the one before."""
        cell = cell_of(where, row, self.column)
        try:
            self._reader = self._reader or _reader_of(cell, self.form)
            now, shown = self._reader(cell)
        except (TypeError, ValueError, OverflowError) as error:
            wanted = f"no time as {self.form!r}" if self.form else "neither ISO 8601 nor a number"
            raise DataFormatError(
                f"{where}, column {self.column!r} holds {str(cell)[:_SHOWN]!r}, which is {wanted}:"
                " say how times are written in 'time_format'"
            ) from error
        if self._times and not now > self._times[-1]:
            raise DataFormatError(
                f"{where}, column {self.column!r}: {str(cell)!r} is not after the time of the row"
                " before it; sort the rows by time, each time once"
            )
        self._times.append(now)
        self.shown.append(shown)

    def gaps(self) -> str:
        """Say how many steps are longer than most; nothing where none is."""
        steps = np.diff(np.array(self._times))
        gaps = (steps > _GAP * np.median(steps)).nonzero()[0] if len(steps) else steps
        if not len(gaps):
            return ""
        return (
            f"{len(gaps)} of {len(steps)} steps of time are longer than usual (the first before row"
            f" {gaps[0] + 2}): windows reach across them as if they were not"
        )


def _reader_of(cell: object, form: str) -> _Reader:
    if form:
        return lambda text: _moment(datetime.strptime(text, form))  # noqa: DTZ007 (see _moment)
    if isinstance(cell, date):
        return _moment
    for reader in (_iso, _number):
        try:
            reader(cell)
        except (TypeError, ValueError, OverflowError):
            continue
        return reader
    raise ValueError


def _iso(text: Any) -> tuple[float, float]:
    return _moment(datetime.fromisoformat(text))


def _number(cell: Any) -> tuple[float, float]:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError
    return number, math.nan


def _moment(when: date) -> tuple[float, float]:
    """Return a time without a zone as if it were UTC."""
    moment = when if isinstance(when, datetime) else datetime.combine(when, time())
    shown = moment.replace(tzinfo=UTC).timestamp()
    return moment.timestamp() if moment.tzinfo else shown, shown


def phases(shown: NDArray[np.float64], cycles: Sequence[Cycle]) -> NDArray[np.float32]:
    """Return sine and cosine of where in each cycle these times lie, (n, 2K)."""
    angles = [2 * np.pi * _SHARES[cycle](shown) for cycle in cycles]
    columns = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.array(columns, np.float32).reshape(len(columns), len(shown)).T


def _year(shown: NDArray[np.float64]) -> NDArray[np.float64]:
    years = shown.astype("datetime64[s]").astype("datetime64[Y]")
    begin, end = (each.astype("datetime64[s]").astype(np.float64) for each in (years, years + 1))
    share: NDArray[np.float64] = (shown - begin) / (end - begin)
    return share


_SHARES: Final[Mapping[Cycle, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "day": lambda shown: shown / _DAY % 1,
    "week": lambda shown: (shown - _WEEK_BEGAN) / (7 * _DAY) % 1,
    "year": _year,
}
