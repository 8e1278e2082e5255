"""Compare two models, jobs or evaluations: evaluate what is missing, then test the difference."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypedDict, Unpack

from jobs.errors import NotAllowed
from jobs.files import EXAMPLES_FILE
from jobs.handle import JobHandle, Submitter
from jobs.job import Job, JobState
from jobs.slicing import PROPERTIES_FACT, row_slice
from jobs.spec import CompareSpec, EvaluateSpec, Resources, SearchOptions, spec_from_dict

if TYPE_CHECKING:
    from jobs.models import Models

#: Of a comparison's result, what a Comparison has under the same name.
_SAME: Final = (
    *("metric", "first", "second", "difference", "low", "high", "p", "significant", "better"),
    "verdict",
)

#: Waits for a job, and perhaps tells somebody what it waits for.
Wait = Callable[[JobHandle], Any]


class Comparer(Submitter, Protocol):
    """What a comparison needs of the client."""

    @property
    def models(self) -> "Models":
        """The named models."""


class Options(TypedDict, total=False):
    """How two evaluations are compared; `CompareSpec` has the meanings and the defaults."""

    metric: str
    method: Literal["bootstrap", "approximate_randomisation", "mcnemar"]
    resamples: int
    confidence: float
    seed: int
    across: Sequence[str]
    slice: str
    examples: int


@dataclass(frozen=True)
class OnWhat:
    """What models are evaluated on, where that has not been done."""

    split: str = "test"
    data: Mapping[str, Any] | None = None
    search: SearchOptions | None = None

    @classmethod
    def of(cls, spec: EvaluateSpec) -> "OnWhat":
        """Return what an evaluation was on."""
        return cls(spec.split, spec.data, spec.search)

    def fits(self, spec: EvaluateSpec) -> bool:
        """Return whether an evaluation was on this."""
        wanted = self.split, dict(self.data or {}), self.search or SearchOptions()
        return wanted == (spec.split, dict(spec.data), spec.search)


@dataclass(frozen=True)
class Example:
    """A row whose score changed."""

    row: int
    source: str
    references: Sequence[str]
    #: What either model put out.
    first: str
    second: str
    first_score: float
    second_score: float


@dataclass(frozen=True)
class Comparison:
    """Whether the second of two is better than the first, and how sure that is."""

    #: Id of the comparison, and of the two evaluations.
    id: str
    evaluations: tuple[str, str]
    metric: str
    first: float
    second: float
    #: Second less first, and the bounds of its interval.
    difference: float
    low: float
    high: float
    p: float
    #: Whether p is small and the interval leaves zero out.
    significant: bool
    #: "first" or "second" where that is significant, else empty; a lower error rate is better.
    better: str
    #: One sentence.
    verdict: str
    #: The rows that changed most.
    examples: Sequence[Example]

    @classmethod
    def of(cls, job: JobHandle) -> "Comparison":
        """Wait for a comparison and read it. Raise JobFailed, WaitTimeout."""
        found = job.result().values
        spec = job.record.spec
        plain = json.loads(job.read_file(EXAMPLES_FILE))
        return cls(
            id=job.id,
            evaluations=(spec["first"], spec["second"]),
            examples=tuple(Example(**each) for each in plain),
            **{name: found[name] for name in _SAME},
        )


def compare(
    client: Comparer,
    pair: tuple[str, str],
    on: OnWhat | None = None,
    *,
    wait: Wait = JobHandle.wait,
    **options: Unpack[Options],
) -> Comparison:
    """Compare two of: evaluations, trainings, NAME, NAME@3, NAME@challenger.

    Models are evaluated alike, on what a given evaluation was on, else on `on`; an evaluation that
    there is already is used again. Raise NotAllowed for what is not comparable, SpecError for a
    slice that is none, JobFailed.
    """
    if rows := options.get("slice"):
        row_slice(rows)  # what cannot be is told before anything is evaluated
    given = [client.models.trained(each) for each in pair]
    told = [spec for each in given if (spec := _evaluation_spec(each.record))]
    if told and on is not None:
        raise NotAllowed(
            f"what is evaluated follows from evaluation {_first_evaluation(given).id}: leave out "
            "data, split and search"
        )
    on = OnWhat.of(told[0]) if told else on or OnWhat()
    needed = {"row_metrics", *([PROPERTIES_FACT] if rows else [])}
    first, second = _evaluated(client, given, on, wait, needed)
    where = _without_gpu(first.record)
    job = client.submit(CompareSpec(first=first.id, second=second.id, resources=where, **options))
    wait(job)
    return Comparison.of(job)


def _evaluation_spec(job: Job) -> EvaluateSpec | None:
    if job.kind != EvaluateSpec.kind:
        return None
    spec = spec_from_dict(job.spec)
    assert isinstance(spec, EvaluateSpec)  # noqa: S101 - for the type checker: the kind says it
    return spec


def _first_evaluation(given: Sequence[JobHandle]) -> JobHandle:
    return next(each for each in given if each.record.kind == EvaluateSpec.kind)


def _evaluated(
    client: Comparer, given: Sequence[JobHandle], on: OnWhat, wait: Wait, needed: Collection[str]
) -> Sequence[JobHandle]:
    """Return an evaluation of each that has succeeded, all on the test set as it was found last."""
    found = _ended([_evaluation(client, each, on, needed) for each in given], wait)
    newest = _digest(max(found, key=lambda each: each.record.ended))
    for place, each in enumerate(found):
        if _digest(each) != newest and given[place].id != each.id:
            found[place] = _new(given[place], on)
    return _ended(found, wait)


def _evaluation(
    client: Comparer, given: JobHandle, on: OnWhat, needed: Collection[str]
) -> JobHandle:
    """Return an evaluation: what was given, else one that there is, else a new one."""
    if given.record.kind == EvaluateSpec.kind:
        return given
    return _known(client, given, on, needed) or _new(given, on)


def _ended(evaluations: list[JobHandle], wait: Wait) -> list[JobHandle]:
    for each in evaluations:
        wait(each)
        each.result()
    return evaluations


def _known(
    client: Comparer, trained: JobHandle, on: OnWhat, needed: Collection[str]
) -> JobHandle | None:
    """Return an evaluation whose result says all that is needed."""
    for job in client.store.list(JobState.SUCCEEDED):
        if job.spec.get("job") == trained.id and all(each in job.result for each in needed):
            spec = _evaluation_spec(job)
            if spec and on.fits(spec):
                return JobHandle(client, job.id)
    return None


def _new(trained: JobHandle, on: OnWhat) -> JobHandle:
    return trained.evaluate(on.data, split=on.split, search=on.search, wait=False)


def _digest(evaluation: JobHandle) -> str:
    return str(evaluation.record.result.get("split_digest", ""))


def _without_gpu(evaluation: Job) -> Resources:
    labels = evaluation.spec.get("resources", {}).get("labels", [])
    return replace(Resources(queue=evaluation.queue, labels=labels), gpus=0)
