"""What a value may be: said once, by a type annotation, and carried over the wire as plain JSON.

An annotation is int, float, bool, str, a Literal of strings, an Optional or a list of these; its
range comes from `annotated_types` (`Annotated[int, Ge(1)]`).
"""

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types

from jobs.errors import SpecError, did_you_mean

_SCALARS: Final[dict[str, type]] = {"int": int, "float": float, "bool": bool, "str": str}
_BOUNDS: Final = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

#: Stands in `Parameter.default` of a parameter that must be given.
REQUIRED: Final = "\0required"


def known_fields(cls: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataclass has fields for; fields of later versions are passed over."""
    known = {each.name for each in dataclasses.fields(cls)}
    return {name: value for name, value in plain.items() if name in known}


@dataclass(frozen=True)
class Parameter:
    """Describe one parameter: its type, range, default and meaning."""

    name: str
    #: "int", "float", "bool" or "str".
    type: str
    #: The only values allowed; empty where all are.
    choices: tuple[str, ...] = ()
    #: Whether the value is a list of `type`.
    many: bool = False
    #: Whether None is allowed.
    optional: bool = False
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    default: Any = REQUIRED
    meaning: str = ""

    @classmethod
    def from_annotation(
        cls, name: str, annotation: Any, default: Any = REQUIRED, meaning: str = ""
    ) -> "Parameter":
        """Read a parameter off a type annotation. Raise TypeError for a type that cannot travel."""
        found: dict[str, Any] = {"default": _plain(default), "meaning": meaning}
        annotation = _read_bounds(annotation, found)
        annotation = _read_optional(annotation, found)
        annotation = _read_bounds(annotation, found)
        annotation = _read_list(annotation, found)
        annotation = _read_bounds(annotation, found)
        if get_origin(annotation) is Literal:
            found["choices"] = get_args(annotation)
            annotation = str
        for scalar, python_type in _SCALARS.items():
            if annotation is python_type:
                return cls(name=name, type=scalar, **found)
        raise TypeError(f"parameter {name!r} has a type that cannot travel: {annotation!r}")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Parameter":
        """Build a parameter from what `to_dict` gave."""
        return cls(**{**plain, "choices": tuple(plain.get("choices", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; what equals the default of its field is left out."""
        full = dataclasses.asdict(self)
        empty = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in full.items() if value != empty[name]}

    @property
    def required(self) -> bool:
        """Whether the parameter must be given."""
        return bool(self.default == REQUIRED)

    def describe(self) -> str:
        """Return the type in a person's words: `int, at least 1`."""
        kind = " | ".join(map(repr, self.choices)) if self.choices else self.type
        words = [f"list of {kind}" if self.many else kind]
        words += [
            f"{word} {getattr(self, bound):,}"
            for bound, word in _BOUNDS.items()
            if getattr(self, bound) is not None
        ]
        return ", ".join(words) + (", or none" if self.optional else "")

    def check(self, value: Any, owner: str) -> Any:
        """Return the value in its own type. Raise SpecError in the name of `owner` if it is not.

        TOML has no word for none, so "none" stands for it where it could be nothing else.
        """
        if self.optional and (value is None or (value == "none" and not self._takes_text)):
            return None
        if not self.many:
            return self._check_one(value, owner)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self._refusal(value, owner)
        return [self._check_one(item, owner) for item in value]

    @property
    def _takes_text(self) -> bool:
        return self.type == "str" and (not self.choices or "none" in self.choices)

    def _check_one(self, value: Any, owner: str) -> Any:
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = _as_float(value)
        if type(value) is not _SCALARS[self.type] or not self._fits(value):
            raise self._refusal(value, owner)
        return value

    def _fits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def _refusal(self, value: Any, owner: str) -> SpecError:
        hint = did_you_mean(value, self.choices) if isinstance(value, str) else ""
        return SpecError(
            f"{owner}: {self.name!r} must be {self.describe()}, not {_shown(value)}{hint}"
        )


def check_fields(given: Any, owner: str, names: Iterable[str]) -> None:
    """Check fields of a dataclass by their annotations, as parameters are. Raise SpecError."""
    hints = get_type_hints(type(given), include_extras=True)
    for name in names:
        Parameter.from_annotation(name, hints[name]).check(getattr(given, name), owner)


def check_all(
    parameters: Iterable[Parameter],
    given: Mapping[str, Any],
    owner: str,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the given values in their types. Raise SpecError for unknown or missing names.

    `elsewhere` says where names belong that others know: {"seed": "at the top of the spec"}.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise unknown(owner, str(name), known, elsewhere)
    for parameter in known.values():
        if parameter.required and parameter.name not in given:
            raise SpecError(f"{owner} needs {parameter.name!r} ({parameter.describe()})")
    return {name: known[name].check(value, owner) for name, value in given.items()}


def unknown(owner: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> SpecError:
    """Return the refusal of a name: where it belongs, else which name may have been meant."""
    belongs = f": it belongs {elsewhere[name]}" if name in elsewhere else ""
    return SpecError(f"{owner} takes no {name!r}{belongs or did_you_mean(name, known)}")


def no_json(value: Any) -> str:
    """Return which value of a spec is a number that is none, or a date, and the mend; or nothing.

    TOML reads `nan` and `2016-01-31` as such where text was meant, and JSON has neither.
    """
    try:
        return _no_json(value, "")
    except RecursionError:
        return ""


def _no_json(value: Any, path: str) -> str:
    if isinstance(value, Mapping):
        inner = [(f"{path}.{key}".lstrip("."), each) for key, each in value.items()]
        return next(filter(None, (_no_json(each, where) for where, each in inner)), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (_no_json(each, path) for each in value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        what = f"{value} for {path!r}, a number that is none"
    elif isinstance(value, date | time):
        what = f"a date or a time for {path!r}"
    else:
        return ""
    return f"has {what}: text stands in quotes, '\"{value}\"'"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused as every value that is not finite


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_bounds(annotation: Any, found: dict[str, Any]) -> Any:
    if get_origin(annotation) is not Annotated:
        return annotation
    inner, *marks = get_args(annotation)
    for mark in marks:
        bounds = list(mark) if isinstance(mark, annotated_types.GroupedMetadata) else [mark]
        for bound in bounds:
            for name in _BOUNDS:
                if (limit := getattr(bound, name, None)) is not None:
                    found[name] = limit
    return inner


def _read_optional(annotation: Any, found: dict[str, Any]) -> Any:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    if len(members) != 1:
        return annotation
    found["optional"] = True
    return members[0]


def _read_list(annotation: Any, found: dict[str, Any]) -> Any:
    if get_origin(annotation) not in (list, tuple):
        return annotation
    found["many"] = True
    return get_args(annotation)[0]
