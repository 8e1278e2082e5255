"""Forecasts without a network, on series whose errors can be told by hand or in loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._base import Feed, Workspace
from datamodules.time_series import TimeSeries
from tests.benchmarks.baselines import ett
from tests.benchmarks.forecasts import (
    Task,
    errors,
    repeat_last,
    repeat_yesterday,
    ridge,
    windows,
)


def write(path: Path, values: np.ndarray) -> Path:
    rows = [f"{at},{value}" for at, value in enumerate(values.tolist())]
    path.write_text("\n".join(["date,OT", *rows]) + "\n")
    return path


def test_what_repeats_is_told_without_an_error() -> None:
    days = np.tile(np.sin(np.arange(24.0)), 3)[None]
    assert errors(repeat_yesterday(days, 30), np.tile(days, 2)[:, :30]) == {"mse": 0, "mae": 0}
    assert errors(repeat_last(days, 2), days[:, -1:] + [[1.0, -3.0]]) == {"mse": 5, "mae": 2}


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_a_ridge_regression_tells_what_is_nearly_linear(seed: int) -> None:
    chance = np.random.default_rng(seed)
    read = chance.normal(size=(5000, 3))
    told = read @ np.array([[1.0, 0.5], [0.0, 0.5], [0.0, 0.0]]) + 2
    forecast = ridge(read, told)
    assert errors(forecast(read), told)["mse"] < 0.01 < told.var()


def test_windows_are_those_of_the_series(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    path = write(tmp_path / "x.csv", chance.normal(size=80).cumsum())
    task = Task("OT", (40, 20, 15), window=8, horizon=3)
    data = TimeSeries(root=".", rows=[40, 20, 15], window=8, horizon=3, relative=False)
    data.feed = Feed(batch_tokens=100, seed=1)
    data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
    from_file = np.loadtxt(path, delimiter=",", skiprows=1)[:, 1]
    series = (from_file - from_file[:40].mean()) / from_file[:40].std()
    for place, split in enumerate(("train", "val", "test")):
        read, told = windows(series, task, place)
        batch = data.collate(split, range(len(data.sizes(split))))
        assert batch.targets is not None
        np.testing.assert_allclose(batch.inputs[..., 0].numpy(), read, atol=1e-5)
        np.testing.assert_allclose(batch.targets[..., 0].numpy(), told, atol=1e-5)


def test_the_three_are_scored_on_scaled_values(tmp_path: Path) -> None:
    (tmp_path / "ett").mkdir()
    values = 100 + 7 * np.sin(np.arange(14_400) * 2 * np.pi / 24)
    scores = ett(write(tmp_path / "ett" / "ETTh1.csv", values).parent.parent)
    assert scores["repeat yesterday"]["test/mse"] == pytest.approx(0, abs=1e-12)
    # The mean square of sin a - sin b is 1 and the variance of a sine 1/2.
    assert scores["repeat last"]["test/mse"] == pytest.approx(2, abs=0.2)
    assert scores["ridge on 96 rows"]["test/mse"] < 1e-4
