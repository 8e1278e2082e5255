"""What a sweep tries: every value of a list, numbers of a range, and who goes on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.sweeping import Axis, plan, rungs, survivors


def test_a_grid_holds_every_combination_once() -> None:
    axes = [Axis.parse("model.hidden_size=128,256"), Axis.parse("model.cell='gru','lstm'")]
    found = plan(axes)
    assert found == [
        {"model.hidden_size": size, "model.cell": cell}
        for size in (128, 256)
        for cell in ("gru", "lstm")
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1,2.5,true", [1, 2.5, True]),
        ("a.b=gru, lstm", ["gru", "lstm"]),
        ("a.b=[1, 2],[3]", [[1, 2], [3]]),
        ("a.b='x,y',z", ["x,y", "z"]),
    ],
)
def test_values_are_read_as_those_of_a_spec(text: str, values: list[object]) -> None:
    assert Axis.parse(text).values == values


@given(
    low=st.floats(-1e6, 1e6, allow_nan=False),
    width=st.floats(1e-3, 1e6),
    seed=st.integers(0, 1000),
)
def test_numbers_lie_within_their_range_and_follow_from_the_seed(
    low: float, width: float, seed: int
) -> None:
    axes = [Axis("trainer.lr", ends=(low, low + width))]
    found = plan(axes, 1, seed)
    assert low <= found[0]["trainer.lr"] <= low + width
    assert found == plan(axes, 1, seed)


def test_a_range_of_decades_is_drawn_by_magnitude_and_a_narrow_one_evenly() -> None:
    wide = [each["x"] for each in plan([Axis("x", ends=(1e-4, 1.0))], 400)]
    narrow = [each["x"] for each in plan([Axis("x", ends=(0.1, 0.9))], 400)]
    assert 0.4 < sum(value < 1e-2 for value in wide) / 400 < 0.6
    assert 0.4 < sum(value < 0.5 for value in narrow) / 400 < 0.6


def test_whole_numbers_stay_whole() -> None:
    found = {each["x"] for each in plan([Axis.parse("x=1..4")], 4)}
    assert found == {1, 2, 3, 4}
    assert {type(each) for each in found} == {int}


def test_fewer_trials_than_the_grid_has_are_distinct_and_of_the_grid() -> None:
    axes = [Axis.parse("a=1,2,3,4"), Axis.parse("b=1,2,3,4")]
    found = plan(axes, 10)
    assert len({tuple(each.items()) for each in found}) == 10
    assert all(each in plan(axes) for each in found)
    assert plan(axes, 100) == plan(axes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.hidden_size", "nothing to vary"),
        ("=1,2", "nothing to vary"),
        ("a=", "nothing to vary"),
        ("a=1,1", "names a value twice"),
        ("a=2..1", "the first end of a range is below the second"),
        ("a=x..3", "the ends of a range are numbers, not 'x'"),
        ("a=nan..3", "the ends of a range are numbers"),
    ],
)
def test_an_axis_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Axis.parse(text)


@pytest.mark.parametrize(
    ("axes", "trials", "said"),
    [
        ([], None, "at least one parameter"),
        (["a=1,2", "a=3,4"], None, "each once"),
        (["a=1.0..2.0"], None, "say how many trials"),
        (["a=1..3"], 4, "only 3 combinations"),
        (["a=1,2"], 0, "1 to 1,000 trials"),
        ([f"{name}={','.join(map(str, range(11)))}" for name in "abc"], None, "1,331 combinations"),
    ],
)
def test_a_plan_that_is_none_is_refused(axes: list[str], trials: int | None, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        plan([Axis.parse(each) for each in axes], trials)


def test_rungs_go_up_to_the_whole_training() -> None:
    assert rungs(27, 3) == [1, 3, 9, 27]
    assert rungs(10, 3) == [1, 3, 10]
    with pytest.raises(SpecError, match="cannot be halved"):
        rungs(2, 3)


@given(st.dictionaries(st.integers(0, 50), st.floats(-10, 10), min_size=1), st.integers(2, 5))
def test_the_best_go_on_and_nobody_better_is_left(scores: dict[int, float], eta: int) -> None:
    for less in (True, False):
        going = survivors(scores, eta, less=less)
        assert len(going) == max(1, len(scores) // eta)
        worst = [scores[number] for number in going]
        left = [score for number, score in scores.items() if number not in going]
        if left:
            assert max(worst) <= min(left) if less else min(worst) >= max(left)


def test_a_trial_without_a_score_never_goes_on() -> None:
    assert survivors({0: math.nan, 1: 5.0, 2: math.nan}, 3, less=True) == [1]
    assert survivors({0: math.nan}, 3, less=True) == []
