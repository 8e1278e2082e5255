"""What a person asks for: frozen dataclasses that travel as plain JSON.

TrainSpec     train a model on data
EvaluateSpec  score a trained job's model on a split
PredictSpec   run a trained job's model on lines of text
GenerateSpec  let a trained language model write on

`spec_from_dict` reads plain JSON back, every value checked; `specfile.py` reads what people write.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval

from jobs.errors import SpecError, did_you_mean
from jobs.schema import REQUIRED, Parameter, check_all

#: A spec as JSON may have this many bytes; lines to predict have a bound of their own.
MAX_SPEC_BYTES: Final = 1_000_000
#: Lines to predict, and every file that travels through Redis, may have this many bytes together.
MAX_CARRIED_BYTES: Final = 16_000_000

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
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Build the section, its values checked. Raise SpecError."""
        return cls(**check_all(cls.parameters(), plain, f"[{cls.section}]"))

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
    max_steps: Annotated[int, Ge(1)] | None = option(None, "optimiser steps, if fewer")
    batch_tokens: Annotated[int, Ge(1)] = option(
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
            if isinstance(label, str) and not label.isprintable():
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
    on_nan: Literal["fail", "retry"] = setting(
        "fail", "whether a loss that is not a number uses a retry or ends the job"
    )
    retry_seconds: Annotated[float, Interval(ge=0, le=86_400)] = setting(
        5.0, "wait before the first retry that counts; it doubles with each, and 0 waits for none"
    )
    retry_max_seconds: Annotated[float, Interval(ge=0, le=86_400)] = setting(
        300.0, "the longest wait before a retry that counts"
    )
    keep_days: Annotated[float, Gt(0)] = setting(
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
    min_length: Annotated[int, Ge(0)] = setting(0, "symbols that an output has at least")
    max_length: Annotated[int, Ge(1)] | None = setting(
        None, "symbols that an output has at most; not said, the topology's parameters decide"
    )
    no_repeat_ngram: Annotated[int, Ge(0)] = setting(
        0, "length of the sequences of symbols that no output holds twice; 0 allows all"
    )
    coverage_penalty: Annotated[float, Ge(0)] = setting(
        0.0, "weight β by which a score falls where input was not attended to (Wu 2016)"
    )
    sample: bool = setting(False, "whether symbols are drawn instead of searched for")
    temperature: Annotated[float, Gt(0)] = setting(
        1.0, "what a sample's log-probabilities are divided by; below 1 the likely gets likelier"
    )
    top_k: Annotated[int, Ge(1)] | None = setting(
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


@dataclass(frozen=True)
class Component:
    """Name a public file of `lightning_modules/` or `datamodules/`, and its class's arguments."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_section(cls, plain: Any, section: str) -> "Component":
        """Build a component from a spec's section: `name`, and the parameters beside it."""
        if not isinstance(plain, Mapping) or not isinstance(plain.get("name"), str):
            raise SpecError(f"[{section}] needs a name, e.g. name = {_EXAMPLES[section]!r}")
        params = {key: value for key, value in plain.items() if key != "name"}
        return cls(plain["name"], params)

    def __post_init__(self) -> None:
        if "name" in self.params:
            raise SpecError(f"{self.name} takes no 'name': that word names the component")

    def to_dict(self) -> dict[str, Any]:
        """Return the component as it stands in a spec's section."""
        return {"name": self.name, **self.params}


_EXAMPLES: Final = {"model": "attention_encoder_decoder", "data": "parallel_text"}


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What every job has, whatever it does."""

    kind: ClassVar[str]

    resources: Resources = field(default_factory=Resources)
    policy: Policy = field(default_factory=Policy)
    #: A name for people; need not be unique.
    name: str = ""
    tags: Sequence[str] = ()
    #: Higher goes first; equal ones in the order of their submission.
    priority: Annotated[int, Interval(ge=-100, le=100)] = 0
    #: How often an attempt that failed for a reason of its own is tried again.
    retries: Annotated[int, Interval(ge=0, le=100)] = 0
    #: Seconds of running, over all attempts, after which the job is stopped.
    timeout: Annotated[float, Gt(0)] | None = None
    #: Jobs that must have succeeded before this one starts.
    after: Sequence[str] = ()

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            if isinstance(value := getattr(self, each.name), list):
                object.__setattr__(self, each.name, tuple(value))  # so that equal specs are equal

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `spec_from_dict` reads it back."""
        plain: dict[str, Any] = {"kind": self.kind}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Section | Component):
                value = value.to_dict()
            elif isinstance(value, tuple | list):
                value = list(value)
            if value not in (None, {}, [], ""):
                plain[each.name] = value
        return plain

    def to_json(self) -> str:
        """Return compact JSON. Raise SpecError if it is too large or holds what JSON cannot."""
        try:
            text = json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"the spec holds a value that JSON cannot: {error}") from None
        if len(text) > self.max_bytes():
            raise SpecError(
                f"the spec has {len(text):,} bytes; at most {self.max_bytes():,} can be queued: "
                "put data into files and name their folder"
            )
        return text

    @classmethod
    def max_bytes(cls) -> int:
        """Return how large the spec may be as JSON."""
        return MAX_SPEC_BYTES


@dataclass(frozen=True, kw_only=True)
class TrainSpec(JobSpec):
    """Train `model` on `data`."""

    kind: ClassVar[str] = "train"

    model: Component
    data: Component
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    #: Seed of the weights, the dropout and the order of the batches.
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 1
    #: Id of a job whose newest checkpoint this one goes on from.
    resume_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(JobSpec):
    """Score the best model of a trained job on a split."""

    kind: ClassVar[str] = "evaluate"

    #: Id of the trained job.
    job: str
    split: str = "test"
    #: Parameters of the kind of data to set otherwise than in training.
    data: Mapping[str, Any] = field(default_factory=dict)
    search: SearchOptions = field(default_factory=SearchOptions)


@dataclass(frozen=True, kw_only=True)
class PredictSpec(JobSpec):
    """Run the best model of a trained job on lines of text."""

    kind: ClassVar[str] = "predict"

    #: Id of the trained job.
    job: str
    lines: Sequence[str]
    search: SearchOptions = field(default_factory=SearchOptions)
    #: Whether to keep the attention weights of each line.
    attention: bool = False

    @classmethod
    def max_bytes(cls) -> int:
        """Return how large the spec may be as JSON: the lines travel in it."""
        return MAX_CARRIED_BYTES


@dataclass(frozen=True, kw_only=True)
class GenerateSpec(JobSpec):
    """Let the best model of a trained job write on from a prompt; the same spec, the same answer.

    Symbols are drawn, and so are frames that are learned as 0 and 1; other frames are those that
    the model expects.
    """

    kind: ClassVar[str] = "generate"

    #: Id of the trained job, a language model.
    job: str
    #: What the text begins with, of any number of lines; of a model of frames the path of a file of
    #: frames, absolute or below a data root of the worker. May be empty.
    prompt: str = ""
    #: Steps to write: characters, subwords, words or frames, as the model was trained on.
    length: Annotated[int, Interval(ge=1, le=100_000)] = 500
    #: What log-probabilities are divided by: below 1 the likely gets likelier.
    temperature: Annotated[float, Gt(0)] = 1.0
    #: Only this many of the most probable symbols are drawn from; 0 for all, 1 for the best alone.
    top_k: Annotated[int, Ge(0)] = 0
    #: Only the fewest most probable symbols with this share together are drawn from.
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    #: Seed of the draws.
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 1


AnySpec = TrainSpec | EvaluateSpec | PredictSpec | GenerateSpec
S = TypeVar("S", bound=JobSpec)

_KINDS: Final[dict[str, type[AnySpec]]] = {
    each.kind: each for each in (TrainSpec, EvaluateSpec, PredictSpec, GenerateSpec)
}
_SECTIONS: Final[dict[str, type[Section]]] = {
    "trainer": TrainerOptions,
    "resources": Resources,
    "policy": Policy,
    "search": SearchOptions,
}


def spec_from_dict(plain: Mapping[str, Any]) -> AnySpec:
    """Build a spec from plain JSON, every value checked. Raise SpecError."""
    given = dict(plain)
    kind = given.pop("kind", "train")
    if kind not in _KINDS:
        raise SpecError(f"a job has no kind {kind!r}{did_you_mean(str(kind), _KINDS)}")
    cls = _KINDS[kind]
    if "queue" in given:  # a shorthand of the file's top level
        given["resources"] = _with_queue(given.pop("queue"), given.get("resources", {}))
    sections = {
        name: _read_section(name, given.pop(name), cls)
        for name in list(given)
        if name in {"model", "data", *_SECTIONS} and _takes(cls, name)
    }
    for name in given:
        if not _takes(cls, name):
            known = [each.name for each in dataclasses.fields(cls)]
            raise SpecError(f"the spec takes no {name!r}{did_you_mean(str(name), known)}")
    fields = check_all(_top_level(cls), given, "the spec")
    for name in ("model", "data"):
        if cls is TrainSpec and name not in sections:
            raise SpecError(f"the spec needs a section [{name}] with a name")
    return cls(**fields, **sections)


def _with_queue(queue: Any, resources: Any) -> Any:
    if not isinstance(resources, Mapping):
        return resources  # refused where sections are read
    other = resources.get("queue", queue)
    if other != queue:
        raise SpecError(f"the spec names two queues: {queue!r} and, in [resources], {other!r}")
    return {**resources, "queue": queue}


def _takes(cls: type[JobSpec], name: str) -> bool:
    return any(each.name == name for each in dataclasses.fields(cls))


def _read_section(name: str, plain: Any, cls: type[JobSpec]) -> Any:
    if name in {"model", "data"} and cls is TrainSpec:
        return Component.from_section(plain, name)
    if not isinstance(plain, Mapping):
        raise SpecError(f"[{name}] must be a section of key = value, not {plain!r}")
    return _SECTIONS[name].from_dict(plain) if name in _SECTIONS else dict(plain)


def _top_level(cls: type[JobSpec]) -> list[Parameter]:
    hints = get_type_hints(cls, include_extras=True)
    return [
        Parameter.from_annotation(
            each.name,
            list[str] if hints[each.name] == Sequence[str] else hints[each.name],
            REQUIRED if each.default is dataclasses.MISSING else each.default,
        )
        for each in dataclasses.fields(cls)
        if each.name not in {"model", "data", *_SECTIONS}
    ]
