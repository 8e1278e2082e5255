"""Windows are cut where they should be, scaled by training alone; what is wrong is one line."""

import gzip
import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from datamodules._base import Feed, Workspace
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._series import Division, number_of
from datamodules.time_series import TimeSeries

START = datetime(2020, 2, 28, 5, tzinfo=UTC)


def write(folder: Path, columns: dict[str, list[Any]], name: str = "series.csv") -> Path:
    """Write a table with an hour for each row."""
    count = len(next(iter(columns.values())))
    times = [f"{START + timedelta(hours=row):%Y-%m-%d %H:%M:%S}" for row in range(count)]
    rows = zip(times, *columns.values(), strict=True)
    lines = [",".join(["date", *columns]), *(",".join(map(str, row)) for row in rows)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def series(folder: Path, **arguments: Any) -> TimeSeries:
    """Return a series of this folder, prepared."""
    data = TimeSeries(**{"root": ".", "window": 4, "horizon": 2, **arguments})
    data.feed = Feed(batch_tokens=40, seed=1)
    data.prepare(Workspace((folder,), folder / "cache"))
    return data


def waves(count: int = 60) -> dict[str, list[Any]]:
    """Return two columns that are unlike in size and form."""
    return {
        "a": [round(10 + 3 * math.sin(row) + row / 7, 4) for row in range(count)],
        "b": [round(-2000 + 100 * math.cos(row * row), 4) for row in range(count)],
    }


# --- windows


COLUMNS = [(["a", "b"], ["b"]), (["b"], ["a"]), (["a"], ["a"]), (["b", "a"], [])]
cuts = st.fixed_dictionaries(
    {
        "window": st.integers(1, 5),
        "horizon": st.integers(1, 3),
        "stride": st.integers(1, 3),
        "relative": st.booleans(),
        "look_back": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*[st.integers(8, 15)] * 3), cut=cuts, names=st.sampled_from(COLUMNS))
def test_every_window_is_what_a_loop_over_the_rows_cuts_out(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: tuple[int, int, int],
    cut: dict[str, Any],
    names: tuple[list[str], list[str]],
) -> None:
    folder = tmp_path_factory.mktemp("series")
    columns = waves(sum(sizes) + 3)
    write(folder, columns)
    inputs, targets = names[0], names[1] or names[0]
    data = series(folder, inputs=names[0], targets=names[1], rows=list(sizes), **cut)
    window, horizon = cut["window"], cut["horizon"]
    scaled = {}
    for name, values in columns.items():
        train = np.array(values[: sizes[0]])
        scaled[name] = (np.array(values) - train.mean()) / train.std()
    low = 0
    for split, size in zip(("train", "val", "test"), sizes, strict=True):
        expected = []
        for start in range(low, low + size - horizon + 1):
            earliest = 0 if cut["look_back"] else low
            if start - window < earliest:
                continue
            seen = [[scaled[n][at] for n in inputs] for at in range(start - window, start)]
            told = [[scaled[n][at] for n in targets] for at in range(start, start + horizon)]
            newest = [scaled[n][start - 1] for n in targets]
            if cut["relative"]:
                seen = [[x - y for x, y in zip(row, seen[-1], strict=True)] for row in seen]
                told = [[x - y for x, y in zip(row, newest, strict=True)] for row in told]
                newest = [0.0] * len(targets)
            expected.append((seen, told, newest))
        expected = expected[:: cut["stride"]] if split == "train" else expected
        assert len(data.sizes(split)) == len(expected)
        batch = data.collate(split, range(len(expected)))
        assert batch.targets is not None
        for place, wanted in enumerate(expected):
            found = batch.inputs[place], batch.targets[place], batch.extras["before"][place]
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, torch.tensor(other).float(), atol=2e-5, rtol=1e-5)
        low += size


def test_nothing_of_val_or_test_reaches_what_training_knows(tmp_path: Path) -> None:
    states = []
    for change in (0, 1000):
        columns = waves()
        columns["a"][40:] = [value + change for value in columns["a"][40:]]
        folder = tmp_path / str(change)
        folder.mkdir()
        write(folder, columns)
        data = series(folder, rows=[40, 10, 10], targets=["a"])
        batch = data.collate("train", [0, 34])
        assert batch.targets is not None
        states.append((data.state_dict(), batch.inputs.tolist(), batch.targets.tolist()))
    assert states[0] == states[1]


def test_no_window_is_stored(tmp_path: Path) -> None:
    write(tmp_path, waves())
    data = series(tmp_path)
    arrays = {id(windows.values) for windows in data._splits.values()}
    assert len(arrays) == 1
    assert next(iter(data._splits.values())).values.shape == (60, 2)


def test_splits_are_cut_by_share_and_a_test_may_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, waves(50))
    data = series(tmp_path, val_share=0.2, test_share=0.0)
    assert (len(data.sizes("train")), len(data.sizes("val"))) == (40 - 5, 10 - 1)
    with pytest.raises(DataError, match=r"no split 'test' .*set test_share"):
        data.collate("test", [0])


def test_a_split_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, waves(50))
    other = waves(20)
    other["b"].reverse()
    write(tmp_path, other, "later.csv")
    data = series(tmp_path, test="later.csv", rows=[30, 20], targets=["b"], relative=False)
    assert [len(data.sizes(split)) for split in ("train", "val", "test")] == [25, 19, 15]
    mean, deviation = np.mean(waves(50)["b"][:30]), np.std(waves(50)["b"][:30])
    expected = (np.array(other["b"][4:6]) - mean) / deviation
    targets = data.collate("test", [0]).targets
    assert targets is not None
    torch.testing.assert_close(targets[0, :, 0], torch.tensor(expected), check_dtype=False)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_the_same_values_come_from_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    columns = waves(30)
    text = write(tmp_path, columns).read_text()
    (tmp_path / "series.csv").unlink()
    path = tmp_path / f"series.{suffix}"
    if suffix == "csv":
        path.write_text(text)
    elif suffix == "csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        times = [START + timedelta(hours=row) for row in range(30)]
        parquet.write_table(pa.table({"date": times, **columns}), path)
    data = series(tmp_path, relative=False, test_share=0.0)
    seen = data.collate("train", [0]).inputs[0].double()
    back = seen * torch.tensor(data.value_scale, dtype=torch.float64)
    mean = torch.tensor([np.mean(columns[name][:24]) for name in "ab"])
    torch.testing.assert_close(
        back + mean, torch.tensor([columns[n][:4] for n in "ab"]).double().T, atol=1e-3, rtol=0
    )


# --- lines


@pytest.mark.parametrize("relative", [False, True])
def test_a_line_is_read_as_a_row_of_the_file_was_and_answered_in_its_unit(
    tmp_path: Path, relative: bool
) -> None:
    columns = waves()
    write(tmp_path, columns)
    data = series(tmp_path, inputs=["a"], targets=["b"], relative=relative, rows=[40, 10, 10])
    window = data.collate("val", [0])
    assert window.targets is not None
    rows = [{"b": columns["b"][at], "a": columns["a"][at], "c": "x"} for at in range(30, 40)]
    lists = [[row["a"], row["b"]] for row in rows[-4:]]
    for line in (json.dumps(rows), json.dumps(lists)):
        batch = data.encode([line, line])
        torch.testing.assert_close(batch.inputs[1], window.inputs[0])
        assert batch.lengths.tolist() == [4, 4]
        torch.testing.assert_close(batch.extras["before"][0], window.extras["before"][0])
        (answer,) = data.answers(window.targets[0], line, 3)
        assert answer.values == {"b": pytest.approx(columns["b"][40:42], abs=1e-3)}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "must be a JSON list of at least 4 rows"),
        ("[" * 3, "must be a JSON list"),
        ("{}", "must be a JSON list"),
        ("[[1, 2]]", "at least 4 rows and has 1"),
        (json.dumps([[1, 2]] * 5 + [[1]]), "row 6 must hold a, b"),
        (json.dumps([{"a": 1}] * 4), "row 1 must hold a, b"),
        (json.dumps([[1, "x"]] * 5), "row 2, column 'b' holds 'x' and not a number"),
        (json.dumps([[1, None]] * 4), "column 'b' has no value"),
        (json.dumps([[1, math.nan]] * 4), "column 'b' has no value"),
        (json.dumps([[1, -math.inf]] * 4), "column 'b' holds an infinite value"),
        (json.dumps([[1, 1e300]] * 4), "column 'b' holds 1e\\+300, too large for single precision"),
        (
            json.dumps([[1, 2]] * 3 + [[-1e30, 2]]),
            "-1e\\+30 in column 'a' is too far from all that",
        ),
        (json.dumps([[1, True]] * 4), "column 'b' holds 'True' and not a number"),
        (f"[[1, 1{'0' * 400}], 1, 1, 1]", "not a number"),
    ],
)
def test_a_line_that_is_no_window_is_told_so(tmp_path: Path, line: str, told: str) -> None:
    write(tmp_path, waves())
    with pytest.raises(DataError, match=told) as error:
        series(tmp_path).encode([line])
    assert len(str(error.value).splitlines()) == 1


# --- what a checkpoint keeps


def test_a_checkpoint_decides_columns_windows_and_scaling(tmp_path: Path) -> None:
    write(tmp_path, waves())
    trained = series(tmp_path, inputs=["b"], targets=["a"], window=6, relative=False)
    columns = waves(30)
    columns["a"] = [value * 9 for value in columns["a"]]
    (tmp_path / "new").mkdir()
    write(tmp_path / "new", columns, "later.csv")
    for early in (True, False):
        data = TimeSeries(root="new", test="later.csv")
        data.feed = Feed(batch_tokens=40, seed=1)
        if early:
            data.load_state_dict(trained.state_dict())
            data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
        else:
            with pytest.raises(DataMissingError, match="no tables to learn from"):
                data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
            data.load_state_dict(trained.state_dict())
        assert data.state_dict() == trained.state_dict()
        assert data.collate("test", [0]).inputs.shape == (1, 6, 1)
        with pytest.raises(DataMissingError, match="no tables to learn from"):
            data.collate("val", [0])
    with pytest.raises(DataError, match="cannot read"):
        data.load_state_dict({"format": 0})


def test_what_a_checkpoint_overrules_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, waves())
    state = series(tmp_path, targets=["a"]).state_dict()
    asked = {"window": 4, "horizon": 2, "targets": ["a"]}
    for agreed in (asked, {**asked, "targets": [], "inputs": ["a", "b"]}):
        TimeSeries(root=".", **agreed).load_state_dict(state)
        assert not caplog.text
    TimeSeries(root=".", window=6, horizon=2, inputs=["b"]).load_state_dict(state)
    told = "as the model learned it: inputs = ['a', 'b'], not ['b']; window = 4, not 6"
    assert caplog.messages == [f"the data is read {told}"]


def test_without_preparing_there_is_no_scaling() -> None:
    with pytest.raises(DataError, match="prepare it or load a checkpoint"):
        TimeSeries(root=".").state_dict()


# --- what can be wrong


def faulty(tmp_path: Path, row: int, change: dict[str, Any], **arguments: Any) -> str:
    """Return what is said of a table in which some cells of a row are otherwise."""
    columns: dict[str, list[Any]] = waves()
    for name, value in change.items():
        columns[name][row] = value
    write(tmp_path, columns)
    with pytest.raises(DataFormatError) as error:
        series(tmp_path, **arguments)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("", "has no value: fill it in, or set missing = 'previous'"),
        ("NaN", "has no value"),
        ("inf", "holds an infinite value"),
        ("-1e999", "holds an infinite value"),
        ("1e300", "holds 1e+300, too large for single precision"),
        ("12 kW", "holds '12 kW' and not a number"),
    ],
)
def test_a_cell_without_a_number_is_named(tmp_path: Path, value: str, told: str) -> None:
    message = faulty(tmp_path, 7, {"b": value})
    assert f"{tmp_path / 'series.csv'}, line 9, column 'b' {told}" in message


def test_a_value_that_would_be_lost_in_errors_is_refused_behind_training(tmp_path: Path) -> None:
    message = faulty(tmp_path, 57, {"a": 1e30})
    assert f"{tmp_path / 'series.csv'}: 1e+30 in column 'a' is too far from all that" in message


def test_a_missing_value_may_be_the_one_before_it(tmp_path: Path) -> None:
    columns = waves(30)
    columns["b"][9:11] = ["", "NA"]
    write(tmp_path, columns)
    data = series(tmp_path, missing="previous", relative=False, inputs=["a", "b"])
    seen = data.collate("train", [5]).inputs[0, :, 1]  # rows 5 to 8, then 9 and 10 as targets
    targets = data.collate("train", [5]).targets
    assert targets is not None
    assert targets[0, :, 1].tolist() == [seen[-1].item()] * 2
    assert "none before it" in faulty(tmp_path, 0, {"a": ""}, missing="previous")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("date,a\n2020-01-01,1\n2020-01-02,2,3\n", "line 3 has 3 cells where the header has 2"),
        ("when,a\n2020-01-01,1\n", "line 2 has no column 'date'"),
        (
            "date,a\n2020-01-02,1\n2020-01-01,1\n",
            "line 3, column 'date': '2020-01-01' is not after",
        ),
        ("date,a\n2020-01-02,1\n2020-01-02,1\n", "is not after the time of the row before"),
        ("date,a\nyesterday,1\n", "holds 'yesterday', which is neither ISO 8601 nor a number"),
        ("date,a\n2020-01-02,1\n7,1\n", "line 3, column 'date' holds '7'"),
        ("date,a\nnan,1\n", "which is neither"),
        ("date,a\n,1\n", "holds '', which is neither"),
        ("date\n2020-01-01\n", "has no column of values, only 'date'"),
        ("date,a\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_a_table_that_is_no_series_is_told_so(tmp_path: Path, lines: str, told: str) -> None:
    (tmp_path / "series.csv").write_text(lines)
    with pytest.raises(DataFormatError, match=r"series\.csv") as error:
        series(tmp_path)
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"targets": ["z"]}, "has no column 'z' (it has: date, a, b)"),
        ({"window": 55}, "rows 1 to 36 (split 'train') are too few for a window of 55 rows"),
        ({"horizon": 13}, "rows 37 to 48 (split 'val') are too few"),
        ({"look_back": False, "window": 11}, "rows 37 to 48 (split 'val') are too few"),
        ({"rows": [50, 10, 10]}, "has 60 rows where 'rows' wants 50 + 10 + 10"),
        ({"train": "notes.txt"}, "is not named as a table"),
    ],
)
def test_a_series_that_does_not_fit_its_settings_is_told_so(
    tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    write(tmp_path, waves())
    with pytest.raises(DataFormatError) as error:
        series(tmp_path, **arguments)
    assert told in str(error.value)


def test_a_constant_target_has_nothing_to_forecast_but_may_be_read(tmp_path: Path) -> None:
    columns = waves(30)
    columns["b"] = [7] * 24 + [8] * 6
    write(tmp_path, columns)
    with pytest.raises(DataFormatError, match="column 'b' is 7 in all 18 rows to train on"):
        series(tmp_path)
    batch = series(tmp_path, targets=["a"]).collate("train", [0])
    assert batch.inputs[..., 1].tolist() == [[0.0] * 4]


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DataError, match="has a column twice"):
        TimeSeries(root=".", inputs=["a", "a"])
    with pytest.raises(DataError, match="leave nothing to train on"):
        TimeSeries(root=".", val_share=0.5, test_share=0.5)
    with pytest.raises(DataError, match=r"one for each of train, val, test"):
        TimeSeries(root=".", rows=[1])
    with pytest.raises(DataError, match="one for each of train, test"):
        TimeSeries(root=".", val="val.csv", rows=[1, 2, 3])


def test_the_table_must_be_the_only_one_or_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="has no tables"):
        series(tmp_path)
    write(tmp_path, waves())
    write(tmp_path, waves(), "other.csv")
    with pytest.raises(DataMissingError, match="2 tables to learn from: name one in 'train'"):
        series(tmp_path)
    with pytest.raises(DataMissingError, match=r"no file 'missing\.csv'"):
        series(tmp_path, train="missing.csv")
    assert series(tmp_path, train="other.csv")


# --- time


def table(tmp_path: Path, times: list[str]) -> None:
    rows = [f"{when},{at % 5}" for at, when in enumerate(times)]
    (tmp_path / "series.csv").write_text("\n".join(["date,a", *rows]) + "\n")


@pytest.mark.parametrize(
    ("time_format", "times"),
    [
        ("", [str(0.5 * row) for row in range(30)]),
        ("", [f"2021-03-{day:02d}" for day in range(1, 31)]),
        ("", [f"2021-03-28T0{hour}:{ten}0:00+01:00" for hour in range(5) for ten in range(6)]),
        ("%d.%m.%Y %H Uhr", [f"28.03.2021 {hour:02d} Uhr" for hour in range(24)]),
    ],
)
def test_times_are_read_as_people_write_them(
    tmp_path: Path, time_format: str, times: list[str]
) -> None:
    table(tmp_path, times)
    data = series(tmp_path, time_format=time_format, horizon=1)
    assert data.dims == {"feature_size": 1, "value_size": 1, "value_steps": 1}


def test_a_format_that_does_not_fit_is_shown(tmp_path: Path) -> None:
    table(tmp_path, ["1.2.2021"] * 30)
    with pytest.raises(DataFormatError, match=r"holds '1.2.2021', which is no time as '%Y'"):
        series(tmp_path, time_format="%Y")


def test_without_a_column_of_time_the_rows_are_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text("\n".join(["a", *(str(at % 7) for at in range(30))]))
    assert series(tmp_path, time="").dims["feature_size"] == 1


def test_gaps_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(tmp_path, [str(at + 100 * (at > 11) + (at > 20)) for at in range(30)])
    for _ in range(2):  # the second time from the cache
        series(tmp_path)
        told = "2 of 29 steps of time are longer than usual (the first before row 13)"
        assert f"{tmp_path / 'series.csv'}: {told}" in caplog.text
        caplog.clear()
    months = [f"{2000 + at // 12}-{at % 12 + 1:02d}-01" for at in range(40)]
    table(tmp_path, months)
    series(tmp_path)
    assert not caplog.text


# --- the calendar


def test_the_phase_of_each_row_is_read_beside_the_columns(tmp_path: Path) -> None:
    columns = waves()
    write(tmp_path, columns)
    arguments = {"inputs": ["a"], "targets": ["b"], "rows": [40, 10, 10]}
    plain, data = (series(tmp_path, calendar=c, **arguments) for c in ([], ["day", "week", "year"]))
    assert data.dims["feature_size"] == 1 + 6
    inputs = data.collate("val", [3]).inputs
    assert torch.equal(inputs[..., :1], plain.collate("val", [3]).inputs)
    for at in range(4):
        when = START + timedelta(hours=39 + at)
        in_year = when - datetime(2020, 1, 1, tzinfo=UTC)
        shares = when.hour / 24, (when.weekday() * 24 + when.hour) / 168, in_year / timedelta(366)
        angles = [2 * math.pi * share for share in shares]
        expected = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
        torch.testing.assert_close(inputs[0, at, 1:], torch.tensor(expected), atol=1e-5, rtol=0)
    times = [f"{START + timedelta(hours=at)}" for at in range(39, 43)]
    rows = [[times[at], columns["a"][39 + at], columns["b"][39 + at]] for at in range(4)]
    assert torch.equal(data.encode([json.dumps(rows)]).inputs, inputs)
    rows[2][0] = "noon"
    with pytest.raises(DataError, match="holds 'noon', which is neither ISO 8601 nor a number"):
        data.encode([json.dumps(rows)])
    with pytest.raises(DataError, match="row 1 must hold date, a, b"):
        data.encode([json.dumps([row[1:] for row in rows])])


def test_a_segment_of_rows_is_read_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, waves())
    arguments = {"window": 6, "calendar": ["day"], "rows": [40, 10, 10]}
    one, three = (series(tmp_path, segment=size, **arguments) for size in (1, 3))
    assert three.dims == {"feature_size": 3 * 2 + 2, "value_size": 2, "value_steps": 2}
    rows, steps = (each.collate("val", [0, 5]) for each in (one, three))
    assert steps.lengths.tolist() == [2, 2]
    assert three.sizes("val")[0].tolist() == [2, 2]
    for at in range(2):
        beside = rows.inputs[:, 3 * at : 3 * at + 3, :2].flatten(1)
        last = rows.inputs[:, 3 * at + 2, 2:]
        assert torch.equal(steps.inputs[:, at], torch.cat([beside, last], dim=1))
    assert rows.targets is not None
    assert steps.targets is not None
    assert torch.equal(steps.targets, rows.targets)
    with pytest.raises(DataError, match="'window' is 6, which is no multiple of 'segment', 4"):
        TimeSeries(root=".", window=6, segment=4)


def test_the_clock_on_the_wall_counts_not_the_sun(tmp_path: Path) -> None:
    table(tmp_path, [f"2021-03-28T0{at // 6}:{at % 6}0:00+05:00" for at in range(30)])
    phase = series(tmp_path, calendar=["day"]).collate("train", [0]).inputs[0, 0, 1:]
    assert phase.tolist() == [0.0, 1.0]  # midnight there


def test_numbers_have_no_calendar(tmp_path: Path) -> None:
    table(tmp_path, [str(at) for at in range(30)])
    with pytest.raises(DataFormatError, match="times in column 'date' are numbers, of which"):
        series(tmp_path, calendar=["day"])
    with pytest.raises(DataError, match="'calendar' needs the column of the time"):
        TimeSeries(root=".", time="", calendar=["day"])


# --- parts


@given(st.floats(-3e38, 3e38) | st.integers(-(10**9), 10**9))
def test_a_number_is_read_from_text_and_from_a_typed_cell(value: float) -> None:
    assert number_of(value, "here") == value == number_of(f" {value!r} ", "here")


@given(count=st.integers(1, 500), val=st.floats(0.01, 0.49), test=st.floats(0, 0.49))
def test_a_division_by_share_uses_every_row_once(count: int, val: float, test: float) -> None:
    division = Division.of({"val": None, "test": None}, [], {"val": val, "test": test})
    ranges = list(division.ranges(Path("x"), count).values())
    assert ranges[0][0] == 0
    assert ranges[-1][1] == count
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
