"""What a person asks for: frozen dataclasses that travel as plain JSON.

TrainSpec     train a model on data
EvaluateSpec  score a trained job's model on a split
PredictSpec   run a trained job's model on lines of text
GenerateSpec  let a trained language model write on
CompareSpec   say whether one evaluation is better than another, or chance
ExportSpec    put a trained job's model into an archive that loads without this service

Their sections stand in `sections.py`. `spec_from_dict` reads plain JSON back, every value checked;
`specfile.py` reads what people write.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval

from jobs.errors import SpecError, did_you_mean
from jobs.schema import REQUIRED, Parameter, check_all, no_json, unknown
from jobs.sections import (
    UNSET,
    Policy,
    Resources,
    SearchOptions,
    Section,
    TrainerOptions,
)
from jobs.slicing import row_slice

__all__ = [
    "MAX_CARRIED_BYTES",
    "MAX_SPEC_BYTES",
    "UNSET",
    "AnySpec",
    "CompareSpec",
    "Component",
    "EvaluateSpec",
    "ExportSpec",
    "GenerateSpec",
    "JobSpec",
    "Policy",
    "PredictSpec",
    "Resources",
    "SearchOptions",
    "Section",
    "TrainSpec",
    "TrainerOptions",
    "spec_from_dict",
]

#: A spec as JSON may have this many bytes; lines to predict have a bound of their own.
MAX_SPEC_BYTES: Final = 1_000_000
#: Lines to predict, and every file that travels through Redis, may have this many bytes together.
MAX_CARRIED_BYTES: Final = 16_000_000

_DIGEST: Final = re.compile(r"([0-9a-f]{8,64})?")


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
    #: Jobs that must have ended before this one starts, however they did.
    after_ended: Sequence[str] = ()

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
        plain = self.to_dict()
        try:
            text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            said = no_json(plain) or f"holds a value that JSON cannot: {error}"
            raise SpecError(f"the spec {said}") from None
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
    #: Id of a job whose best model's weights and vocabularies this one begins with, all else new.
    warm_from: str | None = None
    #: What the model will be evaluated on, the test set first ("test", "val", "data.test=newest",
    #: "length<10"): the training does not begin unless all of it is there. A schedule says it.
    evaluated_on: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume_from and self.warm_from:
            raise SpecError("a training goes on (resume_from) or begins warm (warm_from), not both")


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
    #: The version of a model that the job was asked for as, `NAME@NUMBER`; may be empty.
    version: str = ""
    #: How the digest of the split begins (`split_digest`): on another nothing is scored.
    expect_digest: str = ""
    #: Resamples of the bootstrap that gives intervals; 0 for none.
    resamples: Annotated[int, Interval(ge=0, le=100_000)] = 1000
    #: Part of the resamples that lies within an interval.
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95
    #: Seed of the resamples; sacrebleu's.
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 12345

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _DIGEST.fullmatch(self.expect_digest):
            raise SpecError(
                f"expect_digest: {self.expect_digest[:80]!r} is no beginning of a digest: 8 to 64 "
                "of 0 to 9 and a to f, as `split_digest` of an evaluation has them"
            )


@dataclass(frozen=True, kw_only=True)
class CompareSpec(JobSpec):
    """Say whether the second of two evaluations on one test set is better than the first.

    bootstrap                  paired bootstrap resampling (Koehn 2004), as sacrebleu does it
    approximate_randomisation  swap answers at random (Riezler & Maxwell 2005), as sacrebleu does it
    mcnemar                    exact test of rows that only one got right (McNemar 1947)
    """

    kind: ClassVar[str] = "compare"

    #: Ids of two evaluations that have succeeded.
    first: str
    second: str
    #: Name without its split ("bleu"); empty: what the first one's model was chosen by.
    metric: str = ""
    method: Literal["bootstrap", "approximate_randomisation", "mcnemar"] = "bootstrap"
    #: Not said, 1,000 of the bootstrap and 10,000 of the approximate randomisation.
    resamples: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    #: Part of the resamples that lies within the interval; significant is p below the rest.
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95
    #: Seed of the resamples; sacrebleu's.
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 12345
    #: What may differ between the two, because it is what is compared: "decoding".
    across: Sequence[str] = ()
    #: Only rows with a property: "length<10", "length=short", "label=sports"; empty for all.
    slice: str = ""
    #: Rows to show, those whose score changed most.
    examples: Annotated[int, Interval(ge=0, le=1000)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in self.across:
            if each != "decoding":
                raise SpecError(f"across: only 'decoding' may differ, not {each!r}")
        if self.slice:
            row_slice(self.slice)


@dataclass(frozen=True, kw_only=True)
class PredictSpec(JobSpec):
    """Run the best model of a trained job on lines of text."""

    kind: ClassVar[str] = "predict"

    #: Id of the trained job.
    job: str
    lines: Sequence[str]
    #: Lines that stand before these, where they are a part of many.
    first: Annotated[int, Ge(0)] = 0
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


@dataclass(frozen=True, kw_only=True)
class ExportSpec(JobSpec):
    """Put the best model of a trained job into an archive that loads without this service."""

    kind: ClassVar[str] = "export"

    #: Id of the trained job.
    job: str


AnySpec = TrainSpec | EvaluateSpec | PredictSpec | GenerateSpec | CompareSpec | ExportSpec

#: Kinds of jobs for whose answers somebody sits and waits.
ANSWERS: Final = frozenset({PredictSpec.kind, GenerateSpec.kind})
S = TypeVar("S", bound=JobSpec)

_KINDS: Final[dict[str, type[AnySpec]]] = {
    each.kind: each
    for each in (TrainSpec, EvaluateSpec, PredictSpec, GenerateSpec, CompareSpec, ExportSpec)
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
    if not isinstance(kind, str) or kind not in _KINDS:
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
            raise unknown("the spec", str(name), known, places(cls))
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
    if name not in _SECTIONS:
        return dict(plain)
    return _SECTIONS[name].from_dict(plain, places(cls))


def places(cls: type[JobSpec]) -> dict[str, str]:
    """Return where in a spec each key belongs that is no parameter of a model or of data."""
    found = {
        each.name: f"in [{name}]"
        for name, section in _SECTIONS.items()
        if _takes(cls, name)
        for each in section.parameters()
    }
    return {**found, **{each.name: "at the top of the spec" for each in _top_level(cls)}}


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
