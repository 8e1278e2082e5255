"""Forecasts that need no network: the newest value, yesterday's values, a ridge regression.

Written with nothing of the project and numpy alone, so that the windows of the project's own series
are held against a second reading of the same file. Values are scaled by the training rows, and the
scores are means over every window whose targets lie in the split; windows reach back before it.

Shapes: n rows, N windows, S rows of a window, T rows of the horizon.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: From windows (N, S) to forecasts (N, T).
Forecast = Callable[[Array], Array]

_DAY: Final = 24
#: Of the ridge regression, on scaled values; on val anything from 1 to 100 scores alike.
_PENALTY: Final = 100.0


@dataclass(frozen=True)
class Task:
    """A column of a table, and how far one looks back and ahead."""

    column: str
    #: Rows of train, val and test.
    rows: tuple[int, int, int]
    window: int
    horizon: int


#: The oil temperature 24 hours ahead, in the splits of the literature: 12, 4 and 4 months.
ETT: Final = Task("OT", (8640, 2880, 2880), window=96, horizon=24)


def scaled(path: Path, task: Task) -> Array:
    """Return a column, mean 0 and deviation 1 in the training rows, (n,)."""
    with path.open(encoding="utf-8", newline="") as file:
        values = np.array([float(row[task.column]) for row in csv.DictReader(file)])
    train = values[: task.rows[0]]
    series: Array = (values - train.mean()) / train.std()
    return series


def windows(series: Array, task: Task, split: int) -> tuple[Array, Array]:
    """Return the windows of split 0, 1 or 2 (N, S), and what follows each (N, T)."""
    begin = max(sum(task.rows[:split]), task.window)
    end = sum(task.rows[: split + 1]) - task.horizon
    starts = np.arange(begin, end + 1)[:, None]
    return (
        series[starts + np.arange(-task.window, 0)],
        series[starts + np.arange(task.horizon)],
    )


def repeat_last(read: Array, horizon: int) -> Array:
    """Say that all stays as it is."""
    return read[:, -1:].repeat(horizon, axis=1)


def repeat_yesterday(read: Array, horizon: int) -> Array:
    """Say that each hour will be as it was a day before."""
    return np.stack([read[:, at % _DAY - _DAY] for at in range(horizon)], axis=1)


def ridge(read: Array, told: Array) -> Forecast:
    """Return a ridge regression of what is told on what is read, as changes from the newest value.

    Hoerl & Kennard 1970: W = (X'X + λI)⁻¹ X'Y for centred X and Y.
    """
    x, y = read - read[:, -1:], told - read[:, -1:]
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    square = (x - mean_x).T @ (x - mean_x) + _PENALTY * np.eye(x.shape[1])
    weights = np.linalg.solve(square, (x - mean_x).T @ (y - mean_y))

    def forecast(read: Array) -> Array:
        change: Array = (read - read[:, -1:] - mean_x) @ weights + mean_y
        return change + read[:, -1:]

    return forecast


def errors(forecast: Array, told: Array) -> dict[str, float]:
    """Return the mean square and the mean of what a forecast is off by."""
    off = forecast - told
    return {"mse": float((off**2).mean()), "mae": float(abs(off).mean())}


def naive(path: Path, task: Task = ETT, split: int = 2) -> dict[str, Mapping[str, float]]:
    """Return the errors of the three on a split, by name."""
    series = scaled(path, task)
    read, told = windows(series, task, split)
    regression = ridge(*windows(series, task, 0))
    return {
        "repeat last": errors(repeat_last(read, task.horizon), told),
        "repeat yesterday": errors(repeat_yesterday(read, task.horizon), told),
        f"ridge on {task.window} rows": errors(regression(read), told),
    }
