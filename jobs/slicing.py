"""Slices of a test set: its rows by a property of theirs, as people write them.

    length<10  length>=20  length=10..20   rows whose input has so many words, or steps
    length=short (middle, long)            a third of the rows, by the lengths of this very set
    label=sports                           rows whose right answer is this class

Rows of like length stand in one third, so that the thirds need not be equally large.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.errors import NotAllowed, SpecError, did_you_mean

#: What rows have that a slice can go by.
PROPERTIES: Final = ("length", "label")
#: The thirds of a set, by length.
THIRDS: Final = ("short", "middle", "long")
#: In an evaluation's result and in the head of its rows: the properties that they have.
PROPERTIES_FACT: Final = "row_properties"

_WRITTEN: Final = re.compile(r"(\w+)\s*(<=|>=|<|>|=)\s*(.*)", re.DOTALL)
_BOUND: Final = re.compile(r"\d{1,9}")
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST: Final = 10**9


@dataclass(frozen=True)
class RowSlice:
    """Rows by one property; lengths from `low` to `high`, both in it."""

    #: As it was written.
    name: str
    property: str
    low: int = 0
    high: int = _MOST
    #: Which third, where it is one; or the class.
    third: str = ""
    label: str = ""

    def rows(self, values: Sequence[Any]) -> list[int]:
        """Return the numbers of its rows, given the property of every row of the set."""
        if self.property == "label":
            return [row for row, each in enumerate(values) if each == self.label]
        low, high = _third(self.third, values) if self.third else (self.low, self.high)
        return [row for row, each in enumerate(values) if low <= each <= high]

    def of(self, properties: Mapping[str, Sequence[Any]]) -> list[int]:
        """Return the numbers of its rows, at least one. Raise SpecError where there is none."""
        if refused := lacking(self, list(properties)):
            raise SpecError(refused)
        values = properties[self.property]
        if rows := self.rows(values):
            return rows
        there = _there(self.property, values)
        raise SpecError(f"the slice {self.name} has no row: {there}")


def is_row_slice(name: str) -> bool:
    """Return whether this is written as rows by a property, and not as a set of their own."""
    found = _WRITTEN.fullmatch(name)
    return name in PROPERTIES or bool(found and found[1] in PROPERTIES)


def row_slice(name: str) -> RowSlice:
    """Read a slice. Raise SpecError for what is none."""
    found = _WRITTEN.fullmatch(name)
    if name == "length":
        thirds = ", ".join(f"length={each}" for each in THIRDS)
        raise SpecError(f"'length' alone is three slices: say one of {thirds}")
    if found is None or found[1] not in PROPERTIES:
        near = did_you_mean(found[1] if found else name, PROPERTIES)
        raise SpecError(f"{name[:100]!r} says no rows{near or _EXAMPLES}")
    what, sign, value = found.groups()
    if what == "label":
        if sign != "=" or not value:
            raise SpecError(f"the slice {name!r} names no label: write label=sports")
        return RowSlice(name, what, label=value)
    if sign == "=" and value in THIRDS:
        return RowSlice(name, what, third=value)
    low, high = _bounds(name, sign, value)
    if low > high or high < 0:
        raise SpecError(f"the slice {name!r} can have no row: its least length is above its most")
    return RowSlice(name, what, low, high)


_EXAMPLES: Final = ": write length<10, length=10..20, length=short or label=sports"


def _bounds(name: str, sign: str, value: str) -> tuple[int, int]:
    if sign == "=" and (both := _RANGE.fullmatch(value)):
        return int(both[1]), int(both[2])
    if not _BOUND.fullmatch(value):
        near = did_you_mean(value, THIRDS) if sign == "=" else ""
        raise SpecError(
            f"the slice {name!r} says no length{near or ': write length<10, length=10..20'}"
        )
    bound = int(value)
    return {
        "<": (0, bound - 1),
        "<=": (0, bound),
        ">": (bound + 1, _MOST),
        ">=": (bound, _MOST),
        "=": (bound, bound),
    }[sign]


def expanded(slices: Sequence[str]) -> tuple[str, ...]:
    """Return slices with `length` alone in its three thirds."""
    thirds = [f"length={each}" for each in THIRDS]
    return tuple(part for each in slices for part in (thirds if each == "length" else [each]))


def lacking(wanted: RowSlice, properties: Sequence[str]) -> str:
    """Return what is wrong where rows have only these properties; an empty string if nothing."""
    if wanted.property in properties:
        return ""
    there = f"they have: {', '.join(properties)}" if properties else "they have none to go by"
    return f"the slice {wanted.name} cannot be made: the rows have no {wanted.property} ({there})"


def require_property(result: Mapping[str, Any], wanted: RowSlice, evaluation: str) -> None:
    """Raise NotAllowed where the rows of an evaluation lack the property of a slice."""
    known = result.get(PROPERTIES_FACT)
    if known is None:
        raise NotAllowed(
            f"evaluation {evaluation} is of an earlier version, which kept no lengths: evaluate "
            "the model again"
        )
    if refused := lacking(wanted, known):
        raise NotAllowed(refused)


def _third(which: str, lengths: Sequence[int]) -> tuple[int, int]:
    ordered, count = sorted(lengths), len(lengths)
    if not count:
        return 0, -1
    first, second = (ordered[-(-count * part // 3) - 1] for part in (1, 2))
    return {
        "short": (0, first),
        "middle": (first + 1, second),
        "long": (second + 1, _MOST),
    }[which]


def _there(what: str, values: Sequence[Any]) -> str:
    if not values:
        return "the set is empty"
    if what == "length":
        return f"the lengths of the set go from {min(values)} to {max(values)}"
    labels = sorted(set(values))
    more = ", ..." if len(labels) > 10 else ""
    return f"the labels of the set are {', '.join(labels[:10])}{more}"
