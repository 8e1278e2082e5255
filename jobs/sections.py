"""The sections of a spec whose options are the same for all models and data.

Their fields are declared with `option` where a topology or a kind of data may set another default,
else with `setting`.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_type_hints

from annotated_types import Ge, Gt, Interval

from jobs.errors import SpecError
from jobs.schema import REQUIRED, Parameter, check_all
from jobs.wording import is_plain

_QUEUE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"  # one object, also after a copy or a pickle


#: Value of an option that the spec does not set: the default in force decides (see `resolved`).
UNSET: Final[Any] = _Unset()


def option(default: Any, meaning: str) -> Any:
    """Declare an option whose default a topology or a kind of data may override."""
    return field(default=UNSET, metadata={"default": default, "meaning": meaning})


def setting(default: Any, meaning: str) -> Any:
    """Declare a field with a fixed default."""
    stored = {"default": default, "meaning": meaning}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=stored)
    return field(default=default, metadata=stored)


class Section:
    """A frozen dataclass whose fields are declared with `option` or `setting`."""

    #: How the section is called in a spec file.
    section: ClassVar[str]

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """Return the section's fields as parameters, the general defaults among them."""
        hints = get_type_hints(cls, include_extras=True)
        return tuple(
            Parameter.from_annotation(
                each.name,
                hints[each.name],
                each.metadata.get("default", REQUIRED),
                each.metadata.get("meaning", ""),
            )
            for each in dataclasses.fields(cls)  # type: ignore[arg-type]
        )

    @classmethod
    def from_dict(
        cls, plain: Mapping[str, Any], elsewhere: Mapping[str, str] = MappingProxyType({})
    ) -> Self:
        """Build the section, its values checked (`check_all` has `elsewhere`). Raise SpecError."""
        return cls(**check_all(cls.parameters(), plain, f"[{cls.section}]", elsewhere))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON of what is set."""
        names = [each.name for each in dataclasses.fields(self)]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not UNSET}


@dataclass(frozen=True, kw_only=True)
class TrainerOptions(Section):
    """How to train. What is not set here, the topology, the data or the recipe decides."""

    section: ClassVar[str] = "trainer"

    max_epochs: Annotated[int, Ge(1)] = option(10, "passes over the training split")
    stop_after: Annotated[int, Ge(1)] | None = option(
        None, "epochs after which to stop early; the schedule stays that of max_epochs"
    )
    max_steps: Annotated[int, Ge(1)] | None = option(None, "optimiser steps, if fewer")
    batch_tokens: Annotated[int, Interval(ge=1, le=1_000_000_000)] = option(
        1100, "rows times the longest sequence on either side, in one global batch"
    )
    lr: Annotated[float, Gt(0)] = option(2e-3, "peak learning rate of Adam")
    beta1: Annotated[float, Interval(ge=0, lt=1)] = option(0.9, "decay of Adam's first moment")
    beta2: Annotated[float, Interval(ge=0, lt=1)] = option(0.98, "decay of Adam's second moment")
    weight_decay: Annotated[float, Ge(0)] = option(0.0, "decoupled weight decay (AdamW)")
    warmup_steps: Annotated[int, Ge(0)] = option(
        200, "steps of linear rise to the peak rate; at most a third of the run"
    )
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = option(
        "cosine", "the rate after the warm-up"
    )
    final_lr_fraction: Annotated[float, Interval(ge=0, le=1)] = option(
        0.03, "last rate of cosine and linear, as a part of the peak"
    )
    clip: Annotated[float, Gt(0)] | None = option(1.0, "bound on the gradient's norm")
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "type of the matrix products; auto is bf16 where the processor gains by it"
    )
    val_every: Annotated[int, Ge(1)] = option(1, "epochs between validations")
    patience: Annotated[int, Ge(1)] | None = option(
        None, "stop after this many validations without a better one"
    )
    log_every: Annotated[int, Ge(1)] = option(
        20, "steps between points of the training metrics; each validation adds one"
    )

    @property
    def last_epoch(self) -> int:
        """Return after how many epochs the training ends; of resolved options."""
        return min(self.max_epochs, self.stop_after or self.max_epochs)

    def resolved(self, *overrides: Mapping[str, Any]) -> "TrainerOptions":
        """Return all options set: given here, else by the last override, else by the recipe."""
        in_force = {
            each.name: each.metadata["default"] for each in dataclasses.fields(TrainerOptions)
        }
        for override in overrides:
            in_force.update(override)
        return TrainerOptions.from_dict({**in_force, **self.to_dict()})


@dataclass(frozen=True, kw_only=True)
class Resources(Section):
    """What a job needs of its worker."""

    section: ClassVar[str] = "resources"

    queue: str = setting("default", "the queue whose workers may take the job")
    labels: list[str] = setting([], "labels that the worker must carry")
    gpus: Annotated[int, Ge(0)] | None = setting(
        None, "GPUs; not said, one where the worker has any"
    )
    devices: Annotated[int, Interval(ge=1, le=64)] = setting(
        1, "processes that train together where no GPU is used"
    )
    threads: Annotated[int, Ge(1)] | None = setting(
        None, "threads of each process; not said, the worker's share for a slot"
    )

    def __post_init__(self) -> None:
        if not _QUEUE.fullmatch(self.queue):
            raise SpecError(
                f"[resources]: {self.queue[:60]!r} cannot be a queue: "
                "at most 64 letters, digits, '_', '.', '-'"
            )
        for label in self.labels:  # workers compare them in Redis, which takes whole text only
            if isinstance(label, str) and not all(map(is_plain, label)):
                raise SpecError(f"[resources]: {label[:60]!r} cannot be a label: it must be text")


@dataclass(frozen=True, kw_only=True)
class Policy(Section):
    """What to do when things go wrong, and what to keep."""

    section: ClassVar[str] = "policy"

    checkpoint_seconds: Annotated[float, Gt(0)] = setting(
        60.0, "time between checkpoints: the most work that a crash may cost"
    )
    checkpoint_steps: Annotated[int, Ge(1)] | None = setting(
        None, "optimiser steps between checkpoints, besides the time"
    )
    hang_seconds: Annotated[float, Gt(0)] = setting(
        60.0, "time without a step after which a training counts as hung, at the least"
    )
    hang_factor: Annotated[float, Ge(1)] = setting(
        10.0, "how many times the usual step, besides, it must have taken"
    )
    quiet_seconds: Annotated[float, Gt(0)] = setting(
        1800.0, "the same time before the first step, in validations and while a checkpoint is kept"
    )
    on_nan: Literal["fail", "retry"] = setting(
        "fail", "whether a loss that is not a number uses a retry or ends the job"
    )
    retry_seconds: Annotated[float, Interval(ge=0, le=86_400)] = setting(
        5.0, "wait before the first retry that counts; it doubles with each, and 0 waits for none"
    )
    retry_max_seconds: Annotated[float, Interval(ge=0, le=86_400)] = setting(
        300.0, "the longest wait before a retry that counts"
    )
    keep_days: Annotated[float, Interval(gt=0, le=100_000)] = setting(
        30.0, "days until the record and files of an ended job may be cleared"
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Section):
    """How text is generated."""

    section: ClassVar[str] = "search"

    beam: Annotated[int, Interval(ge=1, le=100)] = setting(1, "width of the beam; 1 is greedy")
    length_normalisation: Annotated[float, Ge(0)] = setting(
        1.0, "exponent of (5 + length) / 6, by which a hypothesis's score is divided"
    )
    n_best: Annotated[int, Interval(ge=1, le=1000)] = setting(
        1, "hypotheses for each input; at most the beam, or as many samples"
    )
    min_length: Annotated[int, Interval(ge=0, le=1_000_000)] = setting(
        0, "symbols that an output has at least"
    )
    max_length: Annotated[int, Interval(ge=1, le=1_000_000)] | None = setting(
        None, "symbols that an output has at most; not said, the topology's parameters decide"
    )
    no_repeat_ngram: Annotated[int, Interval(ge=0, le=1_000_000)] = setting(
        0, "length of the sequences of symbols that no output holds twice; 0 allows all"
    )
    coverage_penalty: Annotated[float, Ge(0)] = setting(
        0.0, "weight β by which a score falls where input was not attended to (Wu 2016)"
    )
    sample: bool = setting(False, "whether symbols are drawn instead of searched for")
    temperature: Annotated[float, Gt(0)] = setting(
        1.0, "what a sample's log-probabilities are divided by; below 1 the likely gets likelier"
    )
    top_k: Annotated[int, Interval(ge=1, le=1_000_000)] | None = setting(
        None, "how many of the most probable symbols a sample draws from"
    )
    top_p: Annotated[float, Interval(gt=0, le=1)] = setting(
        1.0, "share of the most probable symbols that a sample draws from"
    )
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = setting(1, "seed of what is drawn")

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < self.min_length:
            raise SpecError(
                f"[search]: max_length={self.max_length} is below min_length={self.min_length}"
            )
        if not self.sample:
            self._refuse_what_only_samples_have()
        elif self.beam > 1:
            raise SpecError(f"[search]: sample needs no beam: leave out beam={self.beam}")

    def _refuse_what_only_samples_have(self) -> None:
        if self.n_best > self.beam:
            raise SpecError(f"[search]: n_best={self.n_best} needs a beam as wide, not {self.beam}")
        given = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "seed": 1}
        for name, silent in given.items():
            if getattr(self, name) != silent:
                raise SpecError(f"[search]: {name}={getattr(self, name)} needs sample=true")
