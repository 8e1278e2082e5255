"""Pairs of parameters that do not go together, as a catalogue carries them.

The classes themselves list theirs (`datamodules/_refusals.py`, which no client can import: the two
rules are alike, and a test holds them to it).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Refuse parameters where all of `when` hold, none of `unless`, and `unequal` two differ."""

    #: Values, any of them, by parameter.
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Values by parameter, any of which makes it right again.
    unless: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Two parameters that are refused only where they differ.
    unequal: tuple[str, str] | None = None
    #: One sentence with the mend; `{name}` stands for a parameter's value.
    because: str

    @property
    def names(self) -> frozenset[str]:
        """Return every parameter that it looks at."""
        return frozenset({*self.when, *self.unless, *(self.unequal or ())})

    def applies(self, params: Mapping[str, Any]) -> bool:
        """Return whether it refuses these; not where it cannot see all that it looks at."""
        return (
            self.names <= params.keys()
            and all(params[name] in values for name, values in self.when.items())
            and not any(params[name] in values for name, values in self.unless.items())
            and (self.unequal is None or params[self.unequal[0]] != params[self.unequal[1]])
        )

    def sentence(self, params: Mapping[str, Any]) -> str:
        """Return `because` with the values in it."""
        text = self.because
        for name in self.names:
            text = text.replace(f"{{{name}}}", str(params[name]))
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "when": _lists(self.when),
            "unless": _lists(self.unless),
            "unequal": self.unequal and list(self.unequal),
            "because": self.because,
        }


def read_refusals(plain: Iterable[Mapping[str, Any]]) -> tuple[Refusal, ...]:
    """Build refusals from what `to_dict` gave.

    One with a condition that this version does not know is left to the worker, which knows it.
    """
    known = {"when", "unless", "unequal", "because"}
    return tuple(
        Refusal(
            when=_tuples(each["when"]),
            unless=_tuples(each["unless"]),
            unequal=each["unequal"] and (each["unequal"][0], each["unequal"][1]),
            because=each["because"],
        )
        for each in plain
        if each.keys() == known
    )


def _lists(values: Mapping[str, tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: list(each) for name, each in values.items()}


def _tuples(values: Mapping[str, Iterable[Any]]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(each) for name, each in values.items()}
