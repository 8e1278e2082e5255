"""Parameters: what an annotation says, what fits, and the sentence that refuses the rest."""

import math
from typing import Annotated, Any, Literal, Optional

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.schema import Parameter, check_all

NUMBERS = st.one_of(st.none(), st.integers(-5, 5))


@st.composite
def parameters(draw: st.DrawFn, name: str = "p") -> Parameter:
    kind = draw(st.sampled_from(["int", "float", "bool", "str"]))
    bounded = kind in ("int", "float")
    return Parameter(
        name=name,
        type=kind,
        choices=tuple(draw(st.lists(st.text(max_size=3), max_size=3))) if kind == "str" else (),
        many=draw(st.booleans()),
        optional=draw(st.booleans()),
        ge=draw(NUMBERS) if bounded else None,
        lt=draw(NUMBERS) if bounded else None,
        default=draw(st.sampled_from(["\0required", None, 1, []])),
        meaning=draw(st.text(max_size=5)),
    )


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=4,
)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, Parameter("p", "int")),
        (float, Parameter("p", "float")),
        (bool, Parameter("p", "bool")),
        (str, Parameter("p", "str")),
        (int | None, Parameter("p", "int", optional=True)),
        (Optional[str], Parameter("p", "str", optional=True)),  # noqa: UP045 - a spelling of users
        (list[float], Parameter("p", "float", many=True)),
        (tuple[int, ...], Parameter("p", "int", many=True)),
        (Literal["a", "b"], Parameter("p", "str", choices=("a", "b"))),
        (Annotated[int, Ge(1)], Parameter("p", "int", ge=1)),
        (Annotated[int, Gt(0), Lt(9)], Parameter("p", "int", gt=0, lt=9)),
        (Annotated[float, Interval(ge=0, le=1)], Parameter("p", "float", ge=0, le=1)),
        (Annotated[int | None, Le(4)], Parameter("p", "int", optional=True, le=4)),
        (Annotated[int, Ge(2)] | None, Parameter("p", "int", optional=True, ge=2)),
        (list[Annotated[int, Ge(2)]], Parameter("p", "int", many=True, ge=2)),
        (list[Literal["a"]] | None, Parameter("p", "str", ("a",), many=True, optional=True)),
    ],
)
def test_an_annotation_says_type_and_range(annotation: Any, expected: Parameter) -> None:
    assert Parameter.from_annotation("p", annotation) == expected


@pytest.mark.parametrize("annotation", [dict, bytes, int | str, dict[str, int], object, complex])
def test_types_that_cannot_travel_are_refused(annotation: Any) -> None:
    with pytest.raises(TypeError, match="'p' has a type that cannot travel"):
        Parameter.from_annotation("p", annotation)


@given(parameters())
def test_a_parameter_survives_the_wire(parameter: Parameter) -> None:
    assert Parameter.from_dict(parameter.to_dict()) == parameter


def fits(parameter: Parameter, value: Any) -> Any:
    """Say once more, plainly, what a value may be."""
    if value is None:
        return parameter.optional
    if parameter.many:
        single = Parameter("p", parameter.type, parameter.choices, ge=parameter.ge, lt=parameter.lt)
        return isinstance(value, list) and all(fits(single, item) for item in value)
    kinds: dict[str, set[type]] = {
        "int": {int},
        "float": {int, float},
        "bool": {bool},
        "str": {str},
    }
    if type(value) not in kinds[parameter.type]:
        return False
    if parameter.type == "str":
        return not parameter.choices or value in parameter.choices
    if parameter.type == "bool":
        return True
    low, high = parameter.ge, parameter.lt
    inside = (low is None or value >= low) and (high is None or value < high)
    return inside and math.isfinite(value)


@given(parameters(), VALUES)
def test_check_accepts_what_fits_and_nothing_else(parameter: Parameter, value: Any) -> None:
    if fits(parameter, value):
        checked = parameter.check(value, "[owner]")
        assert checked == value
        assert parameter.check(checked, "[owner]") == checked
    else:
        with pytest.raises(SpecError, match=r"^\[owner\]: 'p' must be "):
            parameter.check(value, "[owner]")


@given(st.integers(-100, 100))
def test_whole_numbers_become_floats_where_floats_are_meant(number: int) -> None:
    assert type(Parameter("p", "float").check(number, "o")) is float
    assert type(Parameter("p", "float", many=True).check([number], "o")[0]) is float


@pytest.mark.parametrize(
    ("parameter", "value", "sentence"),
    [
        (Parameter("lr", "float", gt=0), 0, "[t]: 'lr' must be float, above 0, not 0.0"),
        (
            Parameter("n", "int", ge=1, le=9),
            10,
            "[t]: 'n' must be int, at least 1, at most 9, not 10",
        ),
        (Parameter("n", "int", lt=5), True, "[t]: 'n' must be int, below 5, not True"),
        (Parameter("n", "int", optional=True), "3", "[t]: 'n' must be int, or none, not '3'"),
        (Parameter("n", "int", many=True), "12", "[t]: 'n' must be list of int, not '12'"),
        (Parameter("n", "int", many=True), [1, "a"], "[t]: 'n' must be list of int, not 'a'"),
        (Parameter("x", "float"), math.nan, "[t]: 'x' must be float, not nan"),
        (
            Parameter("c", "str", ("gru", "lstm")),
            "ltsm",
            "[t]: 'c' must be 'gru' | 'lstm', not 'ltsm'; did you mean 'lstm'?",
        ),
        (Parameter("s", "int"), "x" * 99, "[t]: 's' must be int, not '" + "x" * 56 + "..."),
    ],
)
def test_refusals_are_one_clear_sentence(parameter: Parameter, value: Any, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parameter.check(value, "[t]")
    assert str(caught.value) == sentence


def test_numbers_of_thousands_of_digits_are_refused_like_others() -> None:
    huge = 16**6000
    with pytest.raises(SpecError, match="must be float, not inf"):
        Parameter("x", "float").check(huge, "[t]")
    with pytest.raises(SpecError, match="at most 1, not a number of thousands of digits"):
        Parameter("n", "int", le=1).check(huge, "[t]")


KNOWN = [Parameter("hidden_size", "int"), Parameter("cell", "str", default="gru")]


@pytest.mark.parametrize(
    ("given_values", "sentence"),
    [
        (
            {"hiden_size": 3},
            "model takes no 'hiden_size'; did you mean 'hidden_size'?",
        ),
        ({"hidden_size": 3, "zzz": 1}, "model takes no 'zzz'"),
        ({"cell": "gru"}, "model needs 'hidden_size' (int)"),
    ],
)
def test_unknown_and_missing_names(given_values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_all(KNOWN, given_values, "model")
    assert str(caught.value) == sentence


def test_only_what_was_given_comes_back() -> None:
    assert check_all(KNOWN, {"hidden_size": 3}, "model") == {"hidden_size": 3}


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Parameter("clip", "float", optional=True, gt=0), None),
        (Parameter("files", "int", optional=True, many=True), None),
        (Parameter("kind", "str", optional=True, choices=("a", "b")), None),
        (Parameter("name", "str", optional=True), "none"),
        (Parameter("form", "str", optional=True, choices=("none", "NFC")), "none"),
    ],
)
def test_the_word_none_is_none_where_it_can_be_nothing_else(parameter, expected):
    assert parameter.check("none", "[t]") == expected


def test_what_needs_a_value_does_not_take_the_word_none():
    with pytest.raises(SpecError, match="must be float, not 'none'"):
        Parameter("lr", "float").check("none", "[t]")
