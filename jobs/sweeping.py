"""What a sweep tries: axes as people write them, and the combinations of their values.

model.hidden_size=128,256     each of these
trainer.lr=1e-3..1e-2         a number between these, drawn
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Final

from jobs.errors import SpecError
from jobs.specfile import parse_value

MOST_TRIALS: Final = 1_000
#: Draws for each trial that is wanted, before it is said that there are not so many.
_PATIENCE: Final = 50
_DIGITS: Final = 4

#: One combination: `section.key` -> value.
Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """One parameter that is varied: by a list, or between two ends."""

    name: str
    values: Sequence[Any] = ()
    ends: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Read `section.key=a,b,c` or `section.key=low..high`. Raise SpecError."""
        name, equals, given = text.partition("=")
        name, given = name.strip(), given.strip()
        if not equals or not name or not given:
            raise SpecError(f"{text!r} is nothing to vary; write section.key=a,b or =low..high")
        low, dots, high = given.partition("..")
        if dots:
            return cls(name, ends=_ends(text, parse_value(low), parse_value(high)))
        values = [parse_value(each.strip()) for each in _split(given)]
        if len({*map(repr, values)}) < len(values):  # True is 1 to Python, and not here
            raise SpecError(f"{text!r} names a value twice")
        return cls(name, values)

    def draw(self, chance: random.Random) -> Any:
        """Return one value: of a list any; of whole numbers any; else evenly by magnitude.

        Numbers whose ends are less than a decade apart, or not above 0, are drawn evenly.
        """
        if self.ends is None:
            return chance.choice(self.values)
        low, high = self.ends
        if isinstance(low, int) and isinstance(high, int):
            return chance.randint(low, high)
        if low > 0 and high / low >= 10:
            drawn = math.exp(chance.uniform(math.log(low), math.log(high)))
        else:
            drawn = chance.uniform(low, high)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), low), high)


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for each in text:
        if each == "," and not depth and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if each == quote else quote
        elif each in "\"'":
            quote = each
        else:
            depth += (each in "[{") - (each in "]}")
        parts[-1] += each
    return parts


def _ends(text: str, low: Any, high: Any) -> tuple[float, float]:
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise SpecError(f"{text!r}: the ends of a range are numbers, not {end!r}")
    if low >= high:
        raise SpecError(f"{text!r}: the first end of a range is below the second")
    return low, high


def plan(axes: Sequence[Axis], trials: int | None = None, seed: int = 1) -> list[Trial]:
    """Return the combinations to try: all of a grid, or so many at random. Raise SpecError.

    The same axes, number and seed give the same trials.
    """
    names = [axis.name for axis in axes]
    if not axes or len(set(names)) < len(names):
        raise SpecError("a sweep varies at least one parameter, and each once")
    if trials is not None and not 1 <= trials <= MOST_TRIALS:
        raise SpecError(f"a sweep has 1 to {MOST_TRIALS:,} trials, not {trials:,}")
    drawn = any(axis.ends for axis in axes)
    if drawn and trials is None:
        raise SpecError("a range is drawn from: say how many trials, e.g. --trials 12")
    size = math.prod(len(axis.values) for axis in axes)
    if not drawn and (trials is None or trials >= size):
        if size > MOST_TRIALS:
            raise SpecError(f"the grid has {size:,} combinations: say how many, e.g. --trials 12")
        return [dict(zip(names, row, strict=True)) for row in product(*(a.values for a in axes))]
    wanted = trials or 0
    found = list(islice(_distinct(axes, random.Random(seed), wanted), wanted))  # noqa: S311 - no secret
    if len(found) < wanted:
        raise SpecError(f"the ranges hold only {len(found)} combinations: ask for no more trials")
    return found


def _distinct(axes: Sequence[Axis], chance: random.Random, wanted: int) -> Iterator[Trial]:
    seen = set()
    for _ in range(_PATIENCE * wanted):
        trial = {axis.name: axis.draw(chance) for axis in axes}
        if (key := repr(trial)) not in seen:
            seen.add(key)
            yield trial


def rungs(epochs: int, eta: int) -> list[int]:
    """Return after how many epochs successive halving compares: `epochs` / eta^k, and the end.

    Raise SpecError where there is nothing to halve.
    """
    stops = [epochs]
    while stops[0] // eta >= 1:
        stops.insert(0, stops[0] // eta)
    if len(stops) < 2:
        raise SpecError(f"{epochs} epochs cannot be halved by {eta}: raise trainer.max_epochs")
    return stops


def survivors(scores: Mapping[int, float], eta: int, *, less: bool) -> list[int]:
    """Return the trials that go on: the best one in `eta`, at least one, ties to the earlier."""
    ranked = sorted(
        (number for number, score in scores.items() if math.isfinite(score)),
        key=lambda number: (scores[number] if less else -scores[number], number),
    )
    return sorted(ranked[: max(1, len(scores) // eta)])
