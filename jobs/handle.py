"""One job in a person's hands."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, TypeVar, Unpack, overload

from jobs.errors import (
    Forbidden,
    JobFailed,
    ServiceUnreachable,
    SpecError,
    UnrollError,
    WaitTimeout,
)
from jobs.files import PREDICTIONS_FILE
from jobs.intake import require_model
from jobs.job import Job, JobState, MetricPoint, Progress, Reason
from jobs.spec import (
    AnySpec,
    EvaluateSpec,
    GenerateSpec,
    PredictSpec,
    Resources,
    SearchOptions,
    spec_from_dict,
)
from jobs.specfile import apply_overrides
from jobs.streaming import Chunk, stream

if TYPE_CHECKING:
    from jobs.evidence import AttemptEnd
    from jobs.store import JobStore

T = TypeVar("T")

#: Seconds for which somebody who waits or follows sits out a service that does not answer.
_PATIENCE: Final = 120.0
#: Seconds between looks at a job, at first and at most; in between, that share of what has passed.
_FIRST_LOOK, _LAST_LOOK = 0.01, 0.5
_LOOK_SHARE: Final = 0.03
#: Predictions go before trainings of the same queue: somebody sits and waits for them.
PREDICT_PRIORITY: Final = 10


class Submitter(Protocol):
    """What a handle needs of the client that made it."""

    @property
    def store(self) -> "JobStore":
        """The job records."""

    def submit(self, spec: AnySpec) -> "JobHandle":
        """Queue a job."""


class RemoteTraceback(Exception):
    """The traceback on the worker: the cause of a JobFailed, printed above it."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text.rstrip()}")


@dataclass(frozen=True)
class Result:
    """What a job that succeeded has come to."""

    #: Final metrics by name: `val/bleu`, `test/accuracy`, ...
    metrics: Mapping[str, float]
    #: Everything that the job reported at its end, the metrics among it.
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Hypothesis:
    """One answer of the model to one line."""

    text: str
    #: Of text: log-probability, length-normalised. Of a label or tags: probability.
    score: float
    #: The same as plain values by name ("label", "tags", ...); empty where it is just text.
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values: the named ones where there are some, else the text."""
        return {**(self.values or {"text": self.text}), "score": self.score}


@dataclass(frozen=True)
class Update:
    """A job as it was at one look, and the points that came since the look before."""

    job: Job
    points: Sequence[MetricPoint]


class Drawing(TypedDict, total=False):
    """How a model writes on; `GenerateSpec` has the meanings and the defaults."""

    length: int
    temperature: float
    top_k: int
    top_p: float
    seed: int


class Scoring(TypedDict, total=False):
    """How sure of scores one wants to be; `EvaluateSpec` has the meanings and the defaults."""

    expect_digest: str
    resamples: int
    confidence: float
    seed: int


class JobHandle:
    """One job: what it is doing, what has become of it, and what can be done with it."""

    def __init__(self, client: Submitter, id: str) -> None:  # noqa: A002 - the name in the record
        self._client = client
        self.id: Final = id

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def label(self) -> str:
        """Return the version of a model that this is known to be, `NAME@NUMBER`, or nothing."""
        return ""

    @property
    def record(self) -> Job:
        """Return the job's record as it is now."""
        return self._client.store.get(self.id)

    @property
    def state(self) -> JobState:
        """Return where the job stands now."""
        return self._look().state

    @property
    def reason(self) -> Reason | None:
        """Return why the job, or its newest ended attempt, ended; None while there is none."""
        return self._look().reason

    @property
    def progress(self) -> Progress:
        """Return how far the job has come."""
        return self._look().progress

    def why(self) -> str:
        """Return one sentence on why the job is where it is."""
        return self._client.store.why(self.id)

    def metrics(self, *, follow: bool = False, since: int = 0) -> Iterator[MetricPoint]:
        """Yield the points behind the cursor `since`; with `follow`, until the job has ended."""
        for update in self.updates(since=since, follow=follow):
            yield from update.points

    def updates(self, *, since: int = 0, follow: bool = True) -> Iterator[Update]:
        """Yield the job and its new points, again and again until it has ended.

        Of the record a spec of more than 64 kB is left empty.
        """
        store = self._client.store
        while True:
            job = _patiently(self._look)
            live = follow and not job.state.ended
            # The last point is written before the end: what is read after an end is complete.
            block = _LAST_LOOK if live else 0
            points = _patiently(partial(store.metrics, self.id, since=since, block=block))
            yield Update(job, points)
            if points:
                since = points[-1].cursor
            elif not live:
                return

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that the job wrote; with `follow`, until it has ended."""
        for _, line in self.numbered_logs(follow=follow):
            yield line

    def numbered_logs(self, *, follow: bool = False, since: int = 0) -> Iterator[tuple[int, str]]:
        """Yield the lines behind the cursor `since`, each with its cursor."""
        store = self._client.store
        while True:
            live = follow and not _patiently(self._look).state.ended
            block = _LAST_LOOK if live else 0
            lines = _patiently(partial(store.logs, self.id, since=since, block=block))
            yield from lines
            if lines:
                since = lines[-1][0]
            elif not live:
                return

    def wait(self, timeout: float | None = None) -> Job:
        """Return the record once the job has ended, however it ended. Raise WaitTimeout."""
        job = self._wait(timeout)
        return job if job.spec else self.record

    def _wait(self, timeout: float | None) -> Job:
        began = time.monotonic()
        deadline = math.inf if timeout is None else began + timeout
        while True:
            try:
                job = _patiently(self._look, deadline)
            except ServiceUnreachable as error:
                if isinstance(error, Forbidden) or time.monotonic() < deadline:
                    raise
                raise WaitTimeout(f"nothing is known of job {self.id}: {error}") from None
            if job.state.ended:
                return job
            now = time.monotonic()
            if now >= deadline:
                raise WaitTimeout(
                    f"job {self.id} is still {job.state} after {timeout:g} s; it goes on"
                )
            pause = min(max(_FIRST_LOOK, _LOOK_SHARE * (now - began)), _LAST_LOOK)
            time.sleep(min(pause, deadline - now))

    def _look(self) -> Job:
        """Read the record again and again: a spec of more than 64 kB stays where it is."""
        found = self._client.store.records([self.id])
        return found[0] if found else self.record  # which says that there is none

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the job and return what it has come to.

        Raise WaitTimeout; raise JobFailed, caused by the worker's traceback, where it failed.
        """
        job = self._wait(timeout)
        if job.state is not JobState.SUCCEEDED:
            failure = JobFailed(
                failure_line(job), reason=str(job.reason or job.state), traceback=job.traceback
            )
            raise failure from (RemoteTraceback(job.traceback) if job.traceback else None)
        metrics = {
            name: float(value)
            for name, value in job.result.items()
            if "/" in name and isinstance(value, int | float)
        }
        return Result(metrics, job.result)

    def cancel(self) -> None:
        """End the job without a result. Raise NotAllowed where it has ended."""
        self._client.store.cancel(self.id)

    def pause(self) -> None:
        """Set the job aside, from a checkpoint if it runs. Raise NotAllowed where it cannot be."""
        self._client.store.pause(self.id)

    def resume(self) -> None:
        """Put a paused job back to its place in the queue. Raise NotAllowed where it is not."""
        self._client.store.resume(self.id)

    def retry(self) -> None:
        """Queue a failed or cancelled job again; it goes on from its newest checkpoint.

        One that waits before a retry is tried now.
        """
        self._client.store.retry(self.id)

    def remove(self) -> None:
        """Forget the job and its files. Raise NotAllowed while it has not ended."""
        self._client.store.remove(self.id)

    def clone(self, *overrides: str) -> "JobHandle":
        """Submit the same spec again as a new job, with `section.key=value` overrides."""
        return self._client.submit(spec_from_dict(apply_overrides(self.record.spec, overrides)))

    def attempts(self) -> "list[AttemptEnd]":
        """Return how the newest attempts that have ended did so, the newest last."""
        return self._client.store.ends(self.id)

    def files(self) -> Mapping[str, int]:
        """Return the job's small files, with their sizes in bytes."""
        return self._client.store.files(self.id)

    def read_file(self, name: str) -> bytes:
        """Return one of the job's small files. Raise ArtifactError."""
        return self._client.store.read_file(self.id, name)

    def evaluate(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        split: str = "test",
        search: SearchOptions | None = None,
        wait: bool = True,
        **options: Unpack[Scoring],
    ) -> "JobHandle":
        """Score the job's best model on a split, as a job of its own; return that job.

        `data` sets parameters of the kind of data otherwise than in training. Raise NotAllowed
        where there is no model yet.
        """
        trained = self._with_model()
        spec = EvaluateSpec(
            job=self.id,
            split=split,
            data=data or {},
            search=search or SearchOptions(),
            version=self.label,
            resources=where_the_model_is(trained),
            **options,
        )
        evaluation = self._client.submit(spec)
        if wait:
            evaluation.wait()
        return evaluation

    @overload
    def predict(
        self,
        lines: Sequence[str],
        *,
        beam: int = ...,
        search: SearchOptions | None = ...,
        timeout: float | None = ...,
    ) -> list[str]: ...
    @overload
    def predict(
        self,
        lines: Sequence[str],
        *,
        n_best: int,
        beam: int = ...,
        search: SearchOptions | None = ...,
        timeout: float | None = ...,
    ) -> list[list[Hypothesis]]: ...
    def predict(
        self,
        lines: Sequence[str],
        *,
        beam: int = 1,
        n_best: int | None = None,
        search: SearchOptions | None = None,
        timeout: float | None = None,
    ) -> list[str] | list[list[Hypothesis]]:
        """Return the model's answer to each line, in their order.

        With `n_best`, return that many answers to each line, with their scores. `search` says more
        of how text is searched for, or drawn. Raise NotAllowed where there is no model yet,
        JobFailed, WaitTimeout.
        """
        if not lines:
            return []
        search, count = search or SearchOptions(beam=beam), n_best or 1
        wide = search.beam if search.sample else max(search.beam, count)
        search = replace(search, n_best=count, beam=wide)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        answers: list[list[Hypothesis]] = []
        with contextlib.closing(self.predictions_of(lines, search=search)) as chunks:
            for chunk in chunks:
                left = deadline - time.monotonic()
                chunk.job.result(None if math.isinf(left) else max(0.0, left))
                answers += chunk.job.predictions()
        return answers if n_best is not None else [answer[0].text for answer in answers]

    def predictions_of(
        self, lines: Iterable[str], *, search: SearchOptions, attention: bool = False
    ) -> Generator["Chunk[JobHandle]", None, None]:
        """Yield predictions of some lines each, in their order, however many lines there are.

        The next lines are read while a chunk is answered, and no more of them. Whoever takes a
        chunk waits for it and reads its files; then it is removed. Close the generator to give up.
        """
        if isinstance(lines, str):  # each of its characters would be a line
            raise SpecError("lines to predict are a list of texts, not one text")
        resources = where_the_model_is(self._with_model())

        def submit(some: list[str], first: int) -> JobHandle:
            return self._client.submit(
                PredictSpec(
                    job=self.id,
                    lines=tuple(some),
                    first=first,
                    search=search,
                    attention=attention,
                    priority=PREDICT_PRIORITY,
                    resources=resources,
                )
            )

        return stream(map(_without_end, lines), submit, pictures=attention)

    def generate(
        self, prompt: str = "", *, timeout: float | None = None, **options: Unpack[Drawing]
    ) -> str:
        """Return the prompt and what the model, a language model, writes on from it.

        Of a model of frames return the new ones alone, a line for each. The same options and seed
        give the same text. Raise NotAllowed where there is no model yet, JobFailed, WaitTimeout.
        """
        with self.generating(prompt, **options) as generation:
            generation.result(timeout)
            return generation.predictions()[0][0].text

    @contextlib.contextmanager
    def generating(self, prompt: str, **options: Unpack[Drawing]) -> Iterator["JobHandle"]:
        """Run a generation for the length of a block; the block waits for it and reads its files.

        Afterwards its record and files are removed; it is cancelled where the block gives up. Its
        one answer has text, or as values `frames`, which `generated.npy` holds too.
        """
        spec = GenerateSpec(
            job=self.id,
            prompt=prompt,
            priority=PREDICT_PRIORITY,
            resources=where_the_model_is(self._with_model()),
            **options,
        )
        with self._using(spec) as generation:
            yield generation

    @contextlib.contextmanager
    def _using(self, spec: AnySpec) -> Iterator["JobHandle"]:
        prediction = self._client.submit(spec)
        try:
            yield prediction
        except JobFailed:
            raise  # kept: its record says what happened
        except BaseException:
            with contextlib.suppress(UnrollError):
                prediction.cancel()
            raise
        with contextlib.suppress(UnrollError):
            prediction.remove()

    def predictions(self) -> list[list[Hypothesis]]:
        """Return the answers of a prediction that has succeeded, the best first for each line."""
        plain = json.loads(self.read_file(PREDICTIONS_FILE))
        return [[Hypothesis(**each) for each in answers] for answers in plain["lines"]]

    def _with_model(self) -> Job:
        trained = self.record
        require_model(trained)
        return trained


def failure_line(job: Job) -> str:
    """Return one line on how a job ended without succeeding."""
    if job.state is JobState.CANCELLED:
        return f"job {job.id} was cancelled"
    return f"job {job.id} failed ({job.reason}){': ' + job.message if job.message else ''}"


def where_the_model_is(trained: Job) -> Resources:
    """Return the resources of a job on the model of a training: the same kind of worker."""
    labels = trained.spec.get("resources", {}).get("labels", [])
    return Resources(queue=trained.queue, labels=labels)


def _without_end(line: str) -> str:
    """Return a line as a file gives it without its end; what is no text is refused later."""
    return line.removesuffix("\n").removesuffix("\r") if isinstance(line, str) else line


def _patiently(read: Callable[[], T], deadline: float = math.inf) -> T:
    """Read, sitting out a service that was there and does not answer for a while."""
    deadline = min(deadline, time.monotonic() + _PATIENCE)
    while True:
        try:
            return read()
        except Forbidden:
            raise  # tomorrow as today
        except ServiceUnreachable:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(left, _LAST_LOOK))
