"""What every benchmark of speed shares: a row of the table, and timing of two things in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one figure and what it is held against in the same run."""

    #: What was measured, and at which size.
    name: str
    size: str = ""
    figure: float
    unit: str
    #: The figure, in the same unit, of what it is held against; None where there is nothing.
    against: float | None = None
    against_name: str = ""
    #: Median of the ratios of the pairs; figure / against where it was not measured in pairs.
    ratio: float | None = None
    #: What was aimed at, in words: "ratio >= 2".
    goal: str = ""

    @classmethod
    def of_pairs(
        cls, pairs: "Pairs", *, name: str, size: str, against_name: str, goal: str
    ) -> Self:
        """Return a row of times in milliseconds; its ratio is how many times as fast ours is."""
        return cls(
            name=name,
            size=size,
            figure=1e3 * pairs.our_median,
            unit="ms",
            against=1e3 * pairs.their_median,
            against_name=against_name,
            ratio=pairs.speedup,
            goal=goal,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values; the ratio is always there where there can be one."""
        ratio = self.ratio
        if ratio is None and self.against:
            ratio = self.figure / self.against
        return {**asdict(self), "ratio": ratio}


@dataclass(frozen=True)
class Pairs:
    """Hold the seconds of two things that ran in turn, pair by pair."""

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def our_median(self) -> float:
        """Median of ours, in seconds."""
        return statistics.median(self.ours)

    @property
    def their_median(self) -> float:
        """Median of theirs, in seconds."""
        return statistics.median(self.theirs)

    @property
    def speedup(self) -> float:
        """Median over the pairs of how many times as long theirs took."""
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, by the wall clock."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], *, repeats: int = 7, warmup: int = 2
) -> Pairs:
    """Time two calls A B A B ..., so that a machine whose speed drifts does so for both."""
    for _ in range(warmup):
        ours()
        theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return Pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs])
