"""The gate: whether a retrained model may take the champion's place, and why not.

It promotes where all of these hold, each measured by the same paired comparison:

1. the challenger reaches `floor`, where there is one;
2. it is better on the frozen test set by `margin` or more;
3. the difference is significant at `confidence`: the comparison's p is small enough, and zero lies
   outside its interval. Of models that differ by chance alone about (1 - confidence) / 2 are then
   better by a significant difference; 1 - confidence is the rate that the gate promises to keep;
4. on no slice it is worse than the champion by more than `max_drop`.

Where there is no champion yet, the first rule alone decides.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from jobs.comparing import less_is_better
from jobs.errors import SpecError, did_you_mean
from jobs.schema import check_fields

#: What evaluations report that follows from rows, so that two can be compared; by what models give.
_REPORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "tokens": ("accuracy", "loss", "perplexity"),
    "label": ("accuracy", "macro_f1", "loss"),
    "labels": ("accuracy", "micro_f1", "loss"),
    "tags": ("accuracy", "f1", "exact_match", "loss"),
    "value": ("mse", "mae", "loss"),
    "values": ("mse", "mae", "loss"),
    "next": ("loss", "perplexity", "bits", "accuracy", "micro_f1", "mse", "mae"),
}
#: What they report of text, as far as the data has it computed; and whenever there is any of it.
_OF_TEXT: Final = (
    *("bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "wer", "cer"),
    *("answer_f1", "answer_exact", "slot_error"),
)
_OF_ANY_TEXT: Final = "exact_match"
#: Every metric that a gate may look at.
METRICS: Final = frozenset(
    (*_OF_TEXT, _OF_ANY_TEXT, *(name for names in _REPORTED.values() for name in names))
)
#: Those that go from 0 to 100; rates go from 0 to 1.
_OUT_OF_100: Final = frozenset({"bleu", "chrf", "ter"})


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a challenger must show. Raise SpecError for what cannot be."""

    #: Name of the metric, without its split.
    metric: str
    #: Least gain on the test set, in the metric's unit.
    margin: float = 0.0
    confidence: float = 0.95
    #: Largest loss on a slice, in the metric's unit; not said, 1 of 100.
    max_drop: float | None = None
    #: Least score on the test set (the most, of a metric that is to be small), or None.
    floor: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a gate", ("metric", "margin", "confidence", "max_drop", "floor"))
        if self.metric not in METRICS:
            raise SpecError(
                f"no model reports the metric {self.metric!r}{did_you_mean(self.metric, METRICS)} "
                f"(known: {', '.join(sorted(METRICS))})"
            )
        if not 0.5 <= self.confidence < 1:
            raise SpecError(f"a gate's confidence is from .5 to below 1, not {self.confidence}")
        for name in ("margin", "max_drop"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SpecError(f"a gate's {name} is a number from 0, not {value}")

    @property
    def more_is_better(self) -> bool:
        """Whether the metric is to be large."""
        return not less_is_better(self.metric)

    @property
    def drop(self) -> float:
        """Return the largest loss on a slice that is allowed."""
        if self.max_drop is not None:
            return self.max_drop
        return 1.0 if self.metric in _OUT_OF_100 else 0.01

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Build a gate from what `to_dict` gave."""
        return cls(**plain)

    def check(
        self, outputs: Collection[str], of_text: Sequence[str] | None = None, mend: str = ""
    ) -> None:
        """Raise SpecError where a model that gives one of these does not report the metric.

        `of_text` are the metrics of texts that its data has, all where nobody knows; `mend` is how
        it would come to have this one.
        """
        texts = _OF_TEXT if of_text is None else of_text
        known = [name for each in outputs for name in _REPORTED.get(each, METRICS)]
        if "tokens" in outputs and texts:
            known += [*texts, _OF_ANY_TEXT]
        if self.metric not in known:
            hint = f"; {mend}" if mend else did_you_mean(self.metric, known)
            raise SpecError(
                f"this model reports no {self.metric!r}{hint} (it reports: "
                f"{', '.join(sorted(set(known)))})"
            )

    def first(self, score: float) -> "Verdict":
        """Judge the first model, which has no champion to beat."""
        if fault := self._below_floor(score):
            return Verdict(False, f"kept no model: {fault}")
        return Verdict(True, f"the first model: {self.metric} {score:.4g}")

    def judge(self, test: "Finding", slices: Mapping[str, "Finding"]) -> "Verdict":
        """Judge a challenger by what was found on the test set and on each slice."""
        fault = self._below_floor(test.challenger) or self._no_gain(test)
        for name, found in slices.items():
            fault = fault or self._drop_on(name, found)
        if fault:
            return Verdict(False, f"the champion is kept: {fault}")
        return Verdict(True, f"better on the test set: {self._told(test)}")

    def gain(self, found: "Finding") -> float:
        """Return by how much the challenger is better; below zero, worse."""
        return found.difference if self.more_is_better else -found.difference

    def _below_floor(self, score: float) -> str:
        if not math.isfinite(score):
            return f"{self.metric} is {score}"
        if self.floor is None:
            return ""
        reached = score >= self.floor if self.more_is_better else score <= self.floor
        bound = "at least" if self.more_is_better else "at most"
        return "" if reached else f"{self.metric} {score:.4g} is not {bound} {self.floor:g}"

    def _no_gain(self, found: "Finding") -> str:
        gain = self.gain(found)
        if not gain > 0:
            return f"no better on the test set: {self._told(found)}"
        if gain < self.margin:
            return f"better by less than {self.margin:g}: {self._told(found)}"
        return "" if found.significant else f"the gain may be chance: {self._told(found)}"

    def _drop_on(self, name: str, found: "Finding") -> str:
        loss = -self.gain(found)
        if math.isfinite(loss) and loss <= self.drop:
            return ""
        return f"worse on {name} by more than {self.drop:g}: {self._told(found)}"

    def _told(self, found: "Finding") -> str:
        return (
            f"{self.metric} {found.champion:.4g} -> {found.challenger:.4g}, difference "
            f"{found.difference:+.3g} [{found.low:+.3g}, {found.high:+.3g}], p = {found.p:.3g}"
        )


@dataclass(frozen=True)
class Finding:
    """What a paired comparison of the champion and the challenger found on one set."""

    champion: float
    challenger: float
    #: Challenger minus champion, in the metric's unit, and its interval.
    difference: float
    low: float
    high: float
    p: float
    significant: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate says."""

    promote: bool
    #: One line, for the audit trail.
    reason: str
