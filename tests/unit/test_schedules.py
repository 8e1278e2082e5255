"""What a schedule is, as it travels, and what it cannot be."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.gate import METRICS, Gate
from jobs.schedules import Generation, Missed, Overlap, Schedule, Stage, set_of
from jobs.spec import Component, EvaluateSpec, TrainSpec
from jobs.timetable import Timetable

SPEC = TrainSpec(model=Component("m"), data=Component("d", {"root": "corpus"}))
GATE = Gate(metric="bleu")


def schedule(**given_: Any) -> Schedule:
    fixed = {"name": "nightly", "model": "de-en", "spec": SPEC.to_dict(), "gate": GATE}
    return Schedule(**{**fixed, "timetable": Timetable(cron="0 3 * * *"), **given_})


@given(
    gate=st.builds(
        Gate,
        metric=st.sampled_from(sorted(METRICS)),
        margin=st.floats(0, 10),
        confidence=st.floats(0.5, 0.999),
        max_drop=st.none() | st.floats(0, 10),
        floor=st.none() | st.floats(-10, 100),
    ),
    timetable=st.builds(
        Timetable,
        every=st.integers(60, 10**6),
        zone=st.sampled_from(["UTC", "Europe/Berlin"]),
        start=st.none() | st.integers(0, 10**12),
    ),
    overlap=st.sampled_from(get_args(Overlap)),
    missed=st.sampled_from(get_args(Missed)),
    on_data=st.booleans(),
    warm=st.booleans(),
    slices=st.sampled_from([(), ("val",), ("val", "data.test=newest"), ("length",)]),
)
def test_a_schedule_comes_back_as_it_went(**given_: Any) -> None:
    if given_["missed"] == "all":
        given_["overlap"] = "queue"
    asked = schedule(**given_)
    plain = json.loads(json.dumps(asked.to_dict()))
    assert Schedule.from_dict(plain) == asked
    assert Schedule.from_dict({**plain, "of_a_later_version": 1}) == asked
    assert asked.train_spec == SPEC


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"name": "a:b"}, "'a:b' cannot be the name of a schedule"),
        ({"name": "1st"}, "cannot be the name of a schedule"),
        ({"model": ""}, "'' cannot be the name of a model"),
        ({"timetable": Timetable()}, "needs a cron line, an interval, or new data"),
        ({"missed": "sometimes"}, "'missed' must be 'once' . 'all' . 'skip', not 'sometimes'"),
        ({"overlap": "que"}, "did you mean 'queue'"),
        ({"spacing": "1h"}, "a schedule: 'spacing' must be int, not '1h'"),
        ({"missed": "all"}, "missed=all needs overlap=queue"),
        ({"spacing": -1}, "spacing is a number of seconds from 0 to ten years, not -1"),
        ({"slices": ["val", "val"]}, "each once"),
        ({"slices": ["test"]}, "'test' is the test set itself"),
        ({"slices": [""]}, "'' names no set"),
        ({"slices": ["x" * 81]}, "of at most 80 characters"),
        ({"slices": ["model.size=2"]}, "is no split and no data.key=value"),
        ({"slices": ["lenght=2"]}, "no data.key=value; did you mean 'length'"),
        ({"slices": ["lenght<2"]}, "'lenght<2' says no rows; did you mean 'length'"),
        ({"slices": ["length<x"]}, "'length<x' says no length: write length<10"),
        ({"slices": ["length", "length=long"]}, "each once"),
        ({"split": "length<9"}, "'length<9' are rows of a set: the test set itself is a split"),
        ({"spec": EvaluateSpec(job="x").to_dict()}, "cannot be of kind 'evaluate'"),
        ({"spec": {**SPEC.to_dict(), "after": ["x"]}}, "takes no 'after'"),
        ({"spec": {**SPEC.to_dict(), "warm_from": "x"}}, "takes no 'warm_from'"),
        ({"spec": {**SPEC.to_dict(), "evaluated_on": ["x"]}}, "it follows from split and slices"),
        ({"on_data": True, "spec": {**SPEC.to_dict(), "data": {"name": "d"}}}, "set data.root"),
    ],
)
def test_what_cannot_be_is_one_line(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as error:
        schedule(**given_)
    assert "\n" not in str(error.value)


def test_a_set_is_a_split_or_the_test_split_of_other_files() -> None:
    assert set_of("val", "test") == ("val", {})
    assert set_of("data.test=newest", "test") == ("test", {"test": "newest"})
    assert set_of("data.max_length=9", "dev") == ("dev", {"max_length": 9})


def test_keys_name_the_generation_and_the_step_and_are_short_enough() -> None:
    name = "n" * 64
    generation = Generation(schedule=name, due=1_767_225_600_000, stage=Stage.TRAINING)
    assert generation.key() == f"schedule:{name}:1767225600000"
    longest = generation.key("evaluate", "x" * 80, "123456")
    assert longest.endswith(f":evaluate:{'x' * 80}:123456")
    assert len(longest) <= 200
