"""Values go to the models scaled, and come back in the unit of their file."""

import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from datamodules import _values
from datamodules._values import Scaling, value_answer

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
tables = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 20), st.integers(1, 4)), elements=numbers
)


@given(tables)
@settings(deadline=None)
def test_scaled_values_have_mean_0_and_deviation_1_and_come_back(
    table: NDArray[np.float64],
) -> None:
    scaling = Scaling.of(table)
    assert all(scale > 0 for scale in scaling.scale)
    scaled = (table - np.array(scaling.mean)) / np.array(scaling.scale)
    for column, scale, of_file in zip(scaled.T, scaling.scale, table.T, strict=True):
        if of_file.std() > 1e-6 * (1 + abs(of_file).max()):
            assert column.mean() == pytest.approx(0, abs=1e-6)
            assert column.std() == pytest.approx(1, abs=1e-6)
            assert scale == pytest.approx(of_file.std())
    given_to_models = scaling(table)
    assert given_to_models.dtype == np.float32
    np.testing.assert_allclose(given_to_models, scaled, rtol=1e-6, atol=1e-6)
    room = 1e-6 * (np.array(scaling.scale) * (1 + abs(scaled).max()) + abs(table).max())
    assert (abs(scaling.undo(given_to_models) - table) <= room).all()


@given(tables, st.integers(1, 7))
@settings(deadline=None)
def test_what_is_looked_at_in_parts_is_scaled_as_if_it_were_not(
    table: NDArray[np.float64], part: int
) -> None:
    with patch.object(_values, "_PART", part):
        scaling = Scaling.of(table)
    size = 1 + abs(table).max()
    assert scaling.mean == pytest.approx(table.mean(axis=0), abs=1e-12 * size)
    deviation = table.std(axis=0)
    moved = deviation > 1e-9 * size
    assert np.array(scaling.scale)[moved] == pytest.approx(deviation[moved], rel=1e-6)


def test_values_that_do_not_fit_into_memory_are_scaled_in_little_of_it() -> None:
    values = np.random.default_rng(0).normal(size=(200_000, 8)).astype(np.float32)
    tracemalloc.start()
    Scaling.of(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 2


def test_a_column_that_never_changes_is_left_in_its_unit() -> None:
    scaling = Scaling.of(np.array([[3.0, 1.0], [3.0, 2.0]]))
    assert scaling.scale == (1.0, 0.5)
    assert scaling(np.array([[4.0, 1.5]])).tolist() == [[1.0, 0.0]]


@given(numbers, st.sampled_from([np.float32, np.float64]), st.integers(1, 50_000))
@settings(deadline=None)
def test_a_column_that_never_changes_has_no_deviation_of_rounding(
    value: float, kind: type[np.floating], rows: int
) -> None:
    column = np.full((rows, 1), value / 3, dtype=kind)
    scaling = Scaling.of(column)
    assert scaling.scale == (1.0,)
    assert not scaling(column).any()


def test_the_state_is_plain_and_comes_back() -> None:
    scaling = Scaling.of(np.array([[3.0, 1.0], [5.0, 2.5]]))
    assert scaling.state() == {"mean": [4.0, 1.75], "scale": [1.0, 0.75]}
    assert Scaling.from_state(scaling.state()) == scaling


def test_an_answer_has_a_list_for_each_column() -> None:
    answer = value_answer(np.array([[1.5, 2.0], [1234567.0, -0.25]]), ["a", "b"])
    assert answer.text == "1.5 1.23457e+06; 2 -0.25"
    assert answer.values == {"a": [1.5, 1234567.0], "b": [2.0, -0.25]}
    assert answer.score == 0.0
