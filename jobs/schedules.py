"""Schedules: what is retrained when, and the generations that came of it.

A schedule is what a person asked for; a generation is what became of one of its due times: a
training, its evaluation beside the champion's, their comparison, and the decision.

    due ─> training ─> evaluating ─> comparing ─> deciding ─> decided
             │  (waiting: another generation goes first)          ▲
             └─────────────── any failure, cancelling ────────────┘
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, Self

from jobs.errors import SpecError, did_you_mean
from jobs.gate import Gate
from jobs.schema import check_fields, known_fields
from jobs.slicing import PROPERTIES, expanded, is_row_slice, row_slice
from jobs.spec import TrainSpec, spec_from_dict
from jobs.specfile import apply_overrides
from jobs.timetable import MAX_SPAN, Timetable

Missed = Literal["once", "all", "skip"]
Overlap = Literal["skip", "queue", "cancel-previous"]
Trigger = Literal["time", "asked", "data"]

#: Names become parts of keys and of idempotency keys, which a colon divides.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MAX_SLICES: Final = 20
#: Characters of the name of a set, which is part of idempotency keys.
_MAX_SET: Final = 80
DAY: Final = 86_400
#: Shortest grace, in seconds: workers look each second, but one that is busy is late.
MIN_GRACE: Final = 10
_OVERRIDE: Final = "data."
#: What no split has in its name, and rows by a property have.
_OF_ROWS: Final = frozenset("<>")


#: Fields of a schedule that are plain values.
_PLAIN: Final = (
    *("name", "model", "on_data", "spacing", "missed", "catch_up", "grace", "overlap", "warm"),
    *("split", "by", "created"),
)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is retrained when. Raise SpecError for what cannot be."""

    name: str
    #: Name of the model whose versions its trainings become.
    model: str
    #: The training, as plain JSON of a TrainSpec.
    spec: Mapping[str, Any]
    gate: Gate
    timetable: Timetable = field(default_factory=Timetable)
    #: Whether a change of the files below the data's root is a due time, too.
    on_data: bool = False
    #: Least seconds from one generation to another that new data brings about.
    spacing: int = 3600
    #: What happens to due times at which no worker ran: one generation for all of them, one for
    #: each, or none.
    missed: Missed = "once"
    #: Due times further back than so many seconds are not made up for.
    catch_up: int = 7 * DAY
    #: Seconds after which a due time counts as missed.
    grace: int = 300
    #: What happens where a generation of the schedule is not decided yet.
    overlap: Overlap = "skip"
    #: Whether to begin with the champion's weights instead of new ones.
    warm: bool = False
    #: The split that is the frozen test set.
    split: str = "test"
    #: Further sets on which no loss above the gate's bound is allowed: a split ("val"), the test
    #: split of other files ("data.test=newest"), or rows of the test set ("length<10"; "length" for
    #: its three thirds).
    slices: Sequence[str] = ()
    #: Who added it, and when (milliseconds).
    by: str = ""
    created: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "a schedule", _PLAIN)
        object.__setattr__(self, "slices", expanded(self.slices))
        for what, name in (("schedule", self.name), ("model", self.model)):
            if not _NAME.fullmatch(name):
                raise SpecError(
                    f"{name[:80]!r} cannot be the name of a {what}: a letter, then at most 63 "
                    "letters, digits, '_', '.', '-'"
                )
        self._check_triggers()
        if self.missed == "all" and self.overlap != "queue":
            raise SpecError(
                f"missed=all needs overlap=queue: with overlap={self.overlap} only one of the "
                "missed generations would be left"
            )
        for name, least in (("spacing", 0), ("catch_up", 0), ("grace", MIN_GRACE)):
            if not least <= (given := getattr(self, name)) <= MAX_SPAN:
                raise SpecError(
                    f"{name} is a number of seconds from {least} to ten years, not {given}"
                )
        self._check_sets()

    def _check_triggers(self) -> None:
        spec = self.train_spec
        if self.timetable.is_empty and not self.on_data:
            raise SpecError("a schedule needs a cron line, an interval, or new data as its trigger")
        for taken in ("after", "after_ended", "resume_from", "warm_from"):
            if getattr(spec, taken):
                raise SpecError(f"the spec of a schedule takes no {taken!r}; see its warm start")
        if spec.evaluated_on:
            raise SpecError(
                "the spec of a schedule takes no 'evaluated_on': it follows from split and slices"
            )
        root = spec.data.params.get("root")
        if self.on_data and (not isinstance(root, str) or not root or "://" in root):
            raise SpecError("new data can only be noticed below a folder: set data.root")

    def _check_sets(self) -> None:
        if len(self.slices) > _MAX_SLICES or len(set(self.slices)) < len(self.slices):
            raise SpecError(f"slices: at most {_MAX_SLICES}, each once")
        if is_row_slice(self.split):
            raise SpecError(f"{self.split!r} are rows of a set: the test set itself is a split")
        for each in self.slices:
            row_slice(each) if is_row_slice(each) else set_of(each, self.split)
            if each == self.split:
                raise SpecError(f"{each!r} is the test set itself: a slice is another set")

    @property
    def sets(self) -> tuple[str, ...]:
        """Return what a model is evaluated on: the test set, and slices that are no part of it."""
        return (self.split, *(each for each in self.slices if not is_row_slice(each)))

    @property
    def row_slices(self) -> tuple[str, ...]:
        """Return the slices that are rows of the test set."""
        return tuple(each for each in self.slices if is_row_slice(each))

    @property
    def train_spec(self) -> TrainSpec:
        """Return the training of each generation."""
        spec = spec_from_dict(self.spec)
        if not isinstance(spec, TrainSpec):
            raise SpecError(f"a schedule trains: its spec cannot be of kind {spec.kind!r}")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `from_dict` reads it back."""
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            **plain,
            "spec": dict(self.spec),
            "gate": self.gate.to_dict(),
            "timetable": dataclasses.asdict(self.timetable),
            "slices": list(self.slices),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Build a schedule from what `to_dict` gave; fields of later versions are passed over."""
        gate, timetable = Gate.from_dict(plain["gate"]), Timetable(**plain["timetable"])
        return cls(**{**known_fields(cls, plain), "gate": gate, "timetable": timetable})


def set_of(name: str, split: str) -> tuple[str, dict[str, Any]]:
    """Return the split of a set, and what of the data is otherwise for it. Raise SpecError."""
    if not 0 < len(name) <= _MAX_SET or not name.isprintable():
        raise SpecError(
            f"{name[:100]!r} names no set: a split, or data.key=value, of at most {_MAX_SET} "
            "characters"
        )
    if not _OF_ROWS.isdisjoint(name):
        row_slice(name)  # says what is wrong with it
    if "=" not in name:
        return name, {}
    if not name.startswith(_OVERRIDE):
        near = did_you_mean(name.partition("=")[0], PROPERTIES)
        raise SpecError(f"the slice {name!r} is no split and no data.key=value{near}")
    return split, dict(apply_overrides({"data": {}}, [name])["data"])


class Stage(StrEnum):
    """Where a generation stands."""

    #: Another generation of its schedule goes first.
    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    COMPARING = "comparing"
    #: The verdict is there and is being written into the model's audit trail.
    DECIDING = "deciding"
    #: Its jobs are being cancelled.
    CANCELLING = "cancelling"
    DECIDED = "decided"


class Outcome(StrEnum):
    """What a generation has come to."""

    PROMOTED = "promoted"
    #: Trained and compared, and not let in.
    KEPT = "kept"
    #: A training, an evaluation or a comparison failed.
    FAILED = "failed"
    #: An earlier generation was not decided yet.
    SKIPPED = "skipped"
    #: No worker ran at the time.
    MISSED = "missed"
    #: A later generation took its place, or its schedule was removed.
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What became of one due time."""

    schedule: str
    #: The due time, or when it was asked for or new data was found. Milliseconds.
    due: int
    stage: Stage
    trigger: Trigger = "time"
    #: When it was fired, and when it was decided; milliseconds.
    fired: int = 0
    ended: int = 0
    #: Earlier due times that it stands for, too.
    missed: int = 0
    outcome: Outcome | None = None
    #: One line on the outcome, or on what is being done.
    reason: str = ""
    #: Job of the training, and the version that it became.
    train: str = ""
    version: int | None = None
    #: The champion that it is compared with; None where there is none.
    champion: int | None = None
    #: Of each set, the job that evaluates the challenger and the champion.
    evaluations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: Of each set, the job that compares the two.
    comparisons: Mapping[str, str] = field(default_factory=dict)
    #: Figures and digests.
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the verdict is to promote, and since when somebody carries it out.
    promote: bool = False
    claimed: int = 0
    #: Counts the moves: who moves it says which one they saw.
    step: int = 0
    #: The schedule as it was when this was fired.
    definition: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """Return its name among all: the schedule's and the due time."""
        return f"{self.schedule}:{self.due}"

    def key(self, *step: str) -> str:
        """Return the idempotency key of the job of a step."""
        return ":".join(("schedule", self.id, *step))

    @property
    def plan(self) -> Schedule:
        """Return the schedule as it was when this was fired."""
        return Schedule.from_dict(self.definition)
