"""Sweeps: many trainings that differ in a few parameters, and which of them is the best.

A sweep is a record and the jobs of its trials, each tagged `sweep:ID`. Whoever looks moves it on:
the client that made it, and each worker now and then. A step submits jobs under keys that follow
from the sweep, and then says so by compare-and-set: however many take it, and wherever one of them
dies, each trial of each rung is one job.

With successive halving all trials stop after a few epochs, the best of them go on from their
checkpoints, and so on until the full number. The learning rate follows one schedule all along, that
of the full training: `trainer.stop_after` ends a job early and leaves the schedule as it is.
"""

import contextlib
import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, TypedDict

from jobs.apart import apart
from jobs.comparing import less_is_better
from jobs.errors import NotAllowed, SpecError, UnknownJob, did_you_mean
from jobs.job import Job, JobState
from jobs.schema import known_fields
from jobs.spec import AnySpec, Policy, TrainSpec, spec_from_dict
from jobs.specfile import with_values
from jobs.store.base import StoreBase
from jobs.store.records import plain, text
from jobs.store.submitting import Submitter
from jobs.sweeping import Axis, Trial, plan, rungs, survivors

TAG: Final = "sweep:"
DEFAULT_METRIC: Final = "val/loss"
_VALIDATION: Final = "val/"
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was read."""

    id: str
    #: Value by `section.key`, for each trial.
    trials: Sequence[Trial]
    #: The spec of each trial, as plain JSON; none once it is over.
    specs: Sequence[Mapping[str, Any]]
    #: What trials are ranked by, e.g. `val/bleu`.
    metric: str
    #: Epochs after which trials are compared, and how many in one go on; empty without halving.
    stops: Sequence[int] = ()
    eta: int = 0
    #: For each rung that was begun, the job of each trial in it.
    rungs: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    #: Whether nothing more is begun.
    closed: bool = False
    #: Why not, where a job of it was refused.
    refusal: str = ""
    #: Days that it is kept once it is over: as long as its jobs.
    keep_days: float = Policy().keep_days

    @property
    def jobs(self) -> dict[int, str]:
        """Return the newest job of each trial that has one."""
        return {int(trial): job for rung in self.rungs for trial, job in rung.items()}


@dataclass(frozen=True)
class Row:
    """One trial in the table of a sweep."""

    trial: int
    values: Trial
    #: Its newest job; None where it was removed, or is not there yet.
    job: Job | None
    #: The metric; NaN where there is none.
    score: float
    #: How many rungs it has begun.
    rung: int

    @property
    def is_out(self) -> bool:
        """Whether it has no score and will get none."""
        return math.isnan(self.score) and (self.job is None or self.job.state.ended)


Found = list[Sweep]


class Sweeps(StoreBase):
    """Keep the sweeps of one namespace. All methods raise ServiceUnreachable."""

    def create(
        self, trials: Sequence[Trial], specs: Sequence[TrainSpec], metric: str, **more: Any
    ) -> Sweep:
        """Begin a sweep: its record first, then its jobs; see `advance`.

        Raise SpecError where a job is refused: then nothing of it is left to run.
        """
        made = Sweep(
            id=secrets.token_hex(4),
            trials=trials,
            specs=[each.to_dict() for each in specs],
            metric=metric,
            keep_days=max(each.policy.keep_days for each in specs),
            **more,
        )
        self._put("", made)
        begun = self.advance(made.id)
        if begun.refusal:
            self._cancel_jobs(begun.jobs.values())
            self._forget(begun.id)
            raise SpecError(begun.refusal)
        return begun

    def get(self, sweep: str) -> Sweep:
        """Return a sweep. Raise NotAllowed where there is none of this id."""
        return self._read(sweep)[0]

    def list(self) -> Found:
        """Return all sweeps."""
        with self._reaching():
            return [_decode(text(each)) for each in self._client.hvals(self.keys("sweeps"))]

    def advance(self, sweep: str) -> Sweep:
        """Begin what of a sweep is due, and return it as it then is."""
        while True:
            now, before = self._read(sweep)
            then = self._step(now)
            if then is None:
                return now
            if not self._put(before, then) and (found := self.get(sweep)).closed:
                self._cancel_jobs(set(then.jobs.values()) - set(found.jobs.values()))
                return found

    def advance_all(self) -> None:
        """Move on every sweep that is not over, and forget those that were over for long enough."""
        for each in map(text, self._run("sweep_look")):
            apart(f"sweep {each}", partial(self.advance, each))

    def cancel(self, sweep: str) -> Sweep:
        """Begin nothing more of a sweep, and cancel what runs or waits of it."""
        while True:
            now, before = self._read(sweep)
            if self._put(before, _over(now)):
                break
        self._cancel_jobs(now.jobs.values())
        return self.get(sweep)

    def rows(self, sweep: Sweep) -> "Sequence[Row]":
        """Return the trials, the best first: those of the last rung, then of the one before.

        Those that can have no score any more come last.
        """
        jobs = self._records(sweep.jobs.values())
        rows = [
            Row(
                number,
                values,
                job := jobs.get(sweep.jobs.get(number, "")),
                score_of(job, sweep.metric),
                sum(str(number) in rung for rung in sweep.rungs),
            )
            for number, values in enumerate(sweep.trials)
        ]
        sign = 1 if less_is_better(sweep.metric) else -1
        return sorted(
            rows, key=lambda row: (row.is_out, -row.rung, _last(sign * row.score), row.trial)
        )

    def _step(self, sweep: Sweep) -> Sweep | None:
        """Return the sweep after its next step; None where there is nothing to do yet."""
        if sweep.closed:
            return None
        if not sweep.rungs:
            going = list(range(len(sweep.trials)))
        else:
            newest = sweep.rungs[-1]
            jobs = self._records(newest.values())
            if any(not job.state.ended for job in jobs.values()):
                return None
            if len(sweep.rungs) >= len(sweep.stops):
                return _over(sweep)
            scores = {int(n): score_of(jobs.get(id), sweep.metric) for n, id in newest.items()}  # noqa: A001
            going = survivors(scores, sweep.eta, less=less_is_better(sweep.metric))
            if not going:
                return _over(sweep)
        return self._next_rung(sweep, going)

    def _next_rung(self, sweep: Sweep, going: Sequence[int]) -> Sweep:
        """Return the sweep with a rung more; over, where a job of it is refused."""
        store, rung = self.beside(Submitter), len(sweep.rungs)
        begun: dict[str, str] = {}
        then = replace(sweep, rungs=[*sweep.rungs, begun])
        for number in going:
            spec = _spec_of(sweep, number)
            try:
                job = store.create(spec, key=f"{TAG}{sweep.id}:{rung}:{number}")
            except (SpecError, UnknownJob) as error:
                return _over(then, refusal=str(error))
            begun[str(number)] = job.id
        return then

    def _cancel_jobs(self, jobs: Iterable[str]) -> None:
        store = self.beside(Submitter)
        for job in jobs:
            with contextlib.suppress(NotAllowed, UnknownJob):  # it has ended, or was removed
                store.cancel(job)

    def _records(self, ids: Iterable[str]) -> dict[str, Job]:
        return {job.id: job for job in self.beside(Submitter).records(list(ids))}

    def _read(self, sweep: str) -> tuple[Sweep, str]:
        with self._reaching():
            content = self._client.hget(self.keys("sweeps"), sweep)
            known = [] if content else self._client.hkeys(self.keys("sweeps"))
        if content is None:
            raise NotAllowed(f"there is no sweep {sweep!r}{did_you_mean(sweep, map(text, known))}")
        return _decode(text(content)), text(content)

    def _put(self, before: str, after: Sweep) -> bool:
        keep = round(after.keep_days * _DAY_MS) if after.closed else ""
        written = plain(asdict(after))
        return bool(self._run("sweep_put", id=after.id, before=before, after=written, keep=keep))

    def _forget(self, sweep: str) -> None:
        with self._reaching():
            pipe = self._client.pipeline(transaction=True)
            pipe.hdel(self.keys("sweeps"), sweep).zrem(self.keys("sweeping"), sweep)
            pipe.execute()


def _decode(content: str) -> Sweep:
    return Sweep(**known_fields(Sweep, json.loads(content)))


def _over(sweep: Sweep, refusal: str = "") -> Sweep:
    return replace(sweep, specs=(), closed=True, refusal=refusal)


def _spec_of(sweep: Sweep, number: int) -> AnySpec:
    """Return what a trial trains in the rung that comes next."""
    spec = spec_from_dict(sweep.specs[number])
    if sweep.stops and isinstance(spec, TrainSpec):
        stop = sweep.stops[len(sweep.rungs)]
        spec = replace(spec, trainer=replace(spec.trainer, stop_after=stop))
        if sweep.rungs:  # what it began with, and waited for, may be gone by now
            before = sweep.rungs[-1][str(number)]
            spec = replace(spec, resume_from=before, warm_from=None, after=(), after_ended=())
    return replace(spec, tags=(*spec.tags, TAG + sweep.id))


def score_of(job: Job | None, metric: str) -> float:
    """Return what a trial is ranked by; NaN where it has not succeeded, or did not report it."""
    value = job.result.get(metric) if job and job.state is JobState.SUCCEEDED else None
    return float(value) if isinstance(value, int | float) else math.nan


def _last(number: float) -> float:
    return math.inf if math.isnan(number) else number


class Plan(TypedDict, total=False):
    """How a sweep goes about it."""

    #: How many combinations; not said, all of a grid.
    trials: int | None
    #: Seed of what is drawn.
    seed: int
    #: What trials are ranked by.
    metric: str
    #: Whether most trials are stopped early; one in `eta` goes on at each rung.
    halving: bool
    eta: int


def begin(
    store: Submitter,
    spec: TrainSpec,
    axes: Sequence[str],
    how: Plan,
    prepare: Callable[[TrainSpec], AnySpec],
) -> Sweep:
    """Begin a sweep of a spec; `prepare` checks each trial, before any is queued.

    Raise SpecError, and what `prepare` raises, with the values of the trial.
    """
    metric = how.get("metric", DEFAULT_METRIC)
    if not metric.startswith(_VALIDATION):
        bare = metric.rpartition("/")[2] or "bleu"
        raise SpecError(
            f"trials are ranked by validation: write {_VALIDATION}{bare}, not {metric!r}"
        )
    trials = plan([Axis.parse(each) for each in axes], how.get("trials"), how.get("seed", 1))
    specs = [_trial_spec(spec, values, prepare) for values in trials]
    more: dict[str, Any] = {}
    if how.get("halving"):
        eta = how.get("eta", 3)
        if eta < 2:
            raise SpecError(f"one in {eta} cannot go on: eta is at least 2")
        epochs = require_epochs(specs, store.catalog(spec.resources.queue))
        more = {"stops": rungs(epochs, eta), "eta": eta}
    return store.beside(Sweeps).create(trials, specs, metric, **more)


def _trial_spec(
    spec: TrainSpec, values: Trial, prepare: Callable[[TrainSpec], AnySpec]
) -> TrainSpec:
    words = ", ".join(f"{name}={value}" for name, value in values.items())
    try:
        made = spec_from_dict(with_values(spec.to_dict(), values))
        made = prepare(made) if isinstance(made, TrainSpec) else made
    except SpecError as error:
        raise SpecError(f"{words}: {error}") from None
    if not isinstance(made, TrainSpec):
        raise SpecError(f"only trainings are swept, no {made.kind}")
    if made.trainer.to_dict().get("stop_after") is not None:
        raise SpecError("a sweep sets trainer.stop_after itself: leave it out")
    return made


def require_epochs(specs: Sequence[TrainSpec], catalog: Any) -> int:
    """Return the epochs of all trials. Raise SpecError where they differ or are not known."""
    if catalog is None and any("max_epochs" not in each.trainer.to_dict() for each in specs):
        raise SpecError("halving needs trainer.max_epochs: no worker has said its default")
    found = {
        (each.trainer if catalog is None else catalog.trainer(each)).max_epochs for each in specs
    }
    if len(found) > 1:
        raise SpecError("halving compares trials of one length: leave trainer.max_epochs as it is")
    return int(found.pop())
