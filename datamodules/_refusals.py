"""Which parameters of a topology or a kind of data do not go together: said once, as plain data.

The catalogue publishes what a class lists in `refusals`, so that a client refuses a spec before it
is queued; who builds the class by hand gets the same sentence from `misfit`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Refuse parameters where all of `when` hold, none of `unless`, and `unequal` two differ.

    A parameter may be one that the data fills in (`FromData`): where the kind of data has a
    parameter of the same name, the catalogue looks at that one.
    """

    #: Values, any of them, by parameter.
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Values by parameter, any of which makes it right again.
    unless: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Two parameters that are refused only where they differ.
    unequal: tuple[str, str] | None = None
    #: What is wrong and how to mend it: one sentence, `{name}` stands for a parameter's value.
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


def misfit(refusals: Iterable[Refusal], params: Mapping[str, Any]) -> str:
    """Return the sentence of the first refusal that applies, or an empty string."""
    return next((each.sentence(params) for each in refusals if each.applies(params)), "")
