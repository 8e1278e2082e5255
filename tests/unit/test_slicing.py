"""Which rows a slice holds, and what is said of one that cannot be."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import NotAllowed, SpecError
from jobs.slicing import THIRDS, RowSlice, expanded, is_row_slice, require_property, row_slice

LENGTHS = [1, 9, 10, 11, 20, 21]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("length<10", [1, 9]),
        ("length<=10", [1, 9, 10]),
        ("length > 20", [21]),
        ("length>=20", [20, 21]),
        ("length=10..20", [10, 11, 20]),
        ("length=11", [11]),
        ("length=short", [1, 9]),
        ("length=middle", [10, 11]),
        ("length=long", [20, 21]),
    ],
)
def test_rows_by_length(name: str, lengths: list[int]) -> None:
    assert is_row_slice(name)
    found = row_slice(name).of({"length": LENGTHS})
    assert [LENGTHS[row] for row in found] == lengths


def test_rows_by_label() -> None:
    rows = {"length": [1, 1, 1], "label": ["sports", "a=b", "sports"]}
    assert row_slice("label=sports").of(rows) == [0, 2]
    assert row_slice("label=a=b").of(rows) == [1]
    with pytest.raises(SpecError, match="has no row: the labels of the set are a=b, sports"):
        row_slice("label=sport").of(rows)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_thirds_part_every_set_by_length(lengths: list[int]) -> None:
    thirds = [row_slice(f"length={each}").rows(lengths) for each in THIRDS]
    assert sorted(row for third in thirds for row in third) == list(range(len(lengths)))
    assert thirds[0]
    for below, above in pairwise(thirds):
        for row in below:
            assert all(lengths[row] < lengths[other] for other in above)
    if len(set(lengths)) == len(lengths) >= 3:
        assert max(map(len, thirds)) - min(map(len, thirds)) <= 1


def test_length_alone_is_its_thirds() -> None:
    assert expanded(["val", "length"]) == ("val", "length=short", "length=middle", "length=long")
    assert is_row_slice("length")
    assert not any(map(is_row_slice, ("val", "data.test=length<3", "lengths", "label_val")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("length", "'length' alone is three slices: say one of length=short, "),
        ("lenght<3", "did you mean 'length'"),
        ("length=shrt", "did you mean 'short'"),
        ("length<", "says no length: write length<10"),
        ("length<-1", "says no length"),
        ("length<0", "can have no row"),
        ("length=9..3", "can have no row: its least length is above its most"),
        ("label<3", "names no label: write label=sports"),
        ("label=", "names no label"),
    ],
)
def test_what_is_no_slice_is_one_line(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as error:
        row_slice(name)
    assert "\n" not in str(error.value)


def test_rows_must_have_the_property() -> None:
    wanted = row_slice("label=a")
    require_property({"row_properties": ["length", "label"]}, wanted, "e1")
    with pytest.raises(NotAllowed, match=r"no label \(they have: length\)"):
        require_property({"row_properties": ["length"]}, wanted, "e1")
    with pytest.raises(NotAllowed, match=r"e1 is of an earlier version.*evaluate the model again"):
        require_property({}, wanted, "e1")
    with pytest.raises(SpecError, match="they have none to go by"):
        RowSlice("length<3", "length", 0, 2).of({})
