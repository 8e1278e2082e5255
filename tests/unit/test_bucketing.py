"""The plan of batches: pure, complete, tight; and the loader that starts anywhere in it."""

import hashlib
import subprocess
import sys
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import _bucketing
from datamodules._bucketing import (
    EVALUATION_SCALE,
    evaluation_plan,
    padding_fraction,
    training_plan,
)
from jobs.spec import TrainerOptions

sizes = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=120).map(
    np.array
)


def cost(sizes, rows):
    longest = 0
    for row in rows:
        for length in sizes[row]:
            longest = max(longest, int(length))
    return len(rows) * longest


@pytest.mark.parametrize("strip", [7, _bucketing._STRIP])
@given(sizes=sizes, batch_tokens=st.integers(1, 400), seed=st.integers(0, 2**40))
def test_every_row_is_in_one_batch_and_no_batch_costs_too_much(strip, sizes, batch_tokens, seed):
    with patch.multiple(_bucketing, _STRIP=strip, _PART=4 * strip, _STEPS=strip):
        plans = (
            (training_plan(sizes, batch_tokens, seed, 0), batch_tokens),
            (evaluation_plan(sizes, batch_tokens), batch_tokens * EVALUATION_SCALE),
        )
    for plan, limit in plans:
        assert sorted(row for rows in plan for row in rows) == list(range(len(sizes)))
        assert all(len(rows) == 1 or cost(sizes, rows) <= limit for rows in plan)


@given(sizes=sizes, batch_tokens=st.integers(1, 400))
def test_batches_are_as_large_as_the_limit_allows(sizes, batch_tokens):
    plan = evaluation_plan(sizes, batch_tokens)
    for rows, following in pairwise(plan):
        assert cost(sizes, [*rows, following[0]]) > batch_tokens * EVALUATION_SCALE


def test_the_largest_batch_that_can_be_asked_for_takes_all_rows():
    (most,) = (each.le for each in TrainerOptions.parameters() if each.name == "batch_tokens")
    sizes = np.array([[1, 3], [2**20, 2], [5, 5]])
    for plan in (training_plan(sizes, most, 0, 0), evaluation_plan(sizes, most)):
        assert [sorted(rows) for rows in plan] == [[0, 1, 2]]


def test_rows_longer_than_a_key_tells_apart_are_planned_too():
    sizes = np.array([[1, 2**17], [2**20, 3], [70_000, 70_000], [5, 5]])
    for plan in (training_plan(sizes, 10, 0, 0), evaluation_plan(sizes, 5)):
        assert sorted(plan) == [[0], [1], [2], [3]]


def test_a_part_of_a_plan_is_a_plan():
    plan = training_plan(translations(500), 200, 0, 0)
    assert list(plan[3:]) == list(plan)[3:]
    assert plan[-1] == list(plan)[-1]
    assert plan[1:] != plan
    assert plan != list(plan)
    with pytest.raises(IndexError):
        plan[len(plan)]


@given(sizes=sizes)
def test_one_side_and_three_sides_are_planned_too(sizes):
    for sides in (sizes[:, :1], np.concatenate([sizes, sizes[:, :1] + 1], axis=1)):
        rows = [row for batch in training_plan(sides, 100, 0, 0) for row in batch]
        assert sorted(rows) == list(range(len(sizes)))


def translations(count):
    """Lengths as translations have them: mostly short, both sides alike."""
    chance = np.random.default_rng(5)
    source = np.clip(chance.gamma(9, 1.8, count), 3, 60).astype(int)
    target = np.clip(source + chance.normal(0, 2.5, count), 3, 60).astype(int)
    return np.stack([source, target], axis=1)


def test_little_is_padding_where_rows_are_many():
    sizes = translations(29_000)
    for epoch in range(3):
        assert padding_fraction(sizes, training_plan(sizes, 1100, 1, epoch)) < 0.05


def test_padding_is_counted_on_both_sides():
    sizes = np.array([[2, 4], [3, 1], [5, 5]])
    assert padding_fraction(sizes, [[0, 1], [2]]) == pytest.approx(1 - 20 / 24)


def test_epochs_and_seeds_differ_in_order_and_in_company():
    sizes = translations(2000)
    first = training_plan(sizes, 300, 1, 0)
    assert training_plan(sizes, 300, 1, 0) == first
    for other in (training_plan(sizes, 300, 1, 1), training_plan(sizes, 300, 2, 0)):
        assert len({frozenset(rows) for rows in other} & {frozenset(rows) for rows in first}) < 20
    lengths = [sizes[rows].max() for rows in first]
    assert lengths != sorted(lengths)


def test_the_evaluation_plan_goes_up_in_length():
    sizes = translations(500)
    longest = [sizes[rows].max() for rows in evaluation_plan(sizes, 200)]
    assert longest == sorted(longest)


@given(sizes=sizes, seed=st.integers(0, 2**40), part=st.integers(1, 50))
def test_a_plan_does_not_depend_on_how_much_is_done_at_once(sizes, seed, part):
    plans = training_plan(sizes, 200, seed, 0), evaluation_plan(sizes, 200)
    with patch.multiple(_bucketing, _PART=part, _STEPS=part):
        assert (training_plan(sizes, 200, seed, 0), evaluation_plan(sizes, 200)) == plans


def test_plans_stay_as_they_were_so_that_a_run_goes_on_where_an_older_version_left_it():
    sizes = 1 + np.stack([np.arange(3000) * 7 % 50, np.arange(3000) * 7 % 50 // 2], axis=1)
    plans = training_plan(sizes, 300, 3, 4), evaluation_plan(sizes, 300)
    digests = [hashlib.sha256(str(list(plan)).encode()).hexdigest()[:16] for plan in plans]
    assert digests == ["9ddce003071f0aaa", "16b1fc22093d1a21"]


def test_another_process_plans_the_same():
    program = (
        "import numpy as np; from datamodules._bucketing import training_plan;"
        "print(list(training_plan(np.arange(2, 62).reshape(30, 2), 90, 7, 3)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": "1"},
    )
    here = training_plan(np.arange(2, 62).reshape(30, 2), 90, 7, 3)
    assert there.stdout.strip() == str(list(here))
