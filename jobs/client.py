"""Submit jobs and find them again."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from jobs.handle import JobHandle, Scoring
from jobs.intake import (
    absolute_root,
    after_its_model,
    check_evaluation,
    check_training,
    checked,
    refuse_control_characters,
    require_evaluations,
    require_model,
    with_whole_ids,
)
from jobs.job import Job, JobState
from jobs.spec import AnySpec, CompareSpec, Component, EvaluateSpec, SearchOptions, TrainSpec

if TYPE_CHECKING:
    from jobs.catalog import Catalog
    from jobs.comparisons import Comparison, Options
    from jobs.leaderboard import Leaderboard
    from jobs.models import Models
    from jobs.notify import Hooks
    from jobs.registry import Registry
    from jobs.scheduling import ScheduleHandle, Schedules
    from jobs.store import JobStore
    from jobs.sweeps import Plan, Sweep, Sweeps
    from jobs.workers import Worker

_CATALOG_LOOK: Final = 0.2
#: The newest jobs that succeeded, among which a leaderboard looks for evaluations.
_RANKED: Final = 10_000
#: Seconds for handing jobs back to a service that nobody will start again.
_SHORT_DRAIN: Final = 5.0


class Client:
    """A way to the service: `url`, else UNROLL_REDIS_URL, else the embedded service of the home.

    Raise ServiceUnreachable where no service is known; whether it answers shows at the first call.
    """

    def __init__(
        self, url: str | None = None, home: Path | None = None, *, namespace: str = "default"
    ) -> None:
        from jobs.connection import default_home, redis_url  # noqa: PLC0415 - imports Redis

        self.home = Path(home) if home is not None else default_home()
        self.url = url or redis_url(self.home)
        self._namespace = namespace
        self._own_store: Path | None = None
        self._open = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def embedded(cls, *, slots: int = 1, home: Path | None = None) -> "Iterator[Client]":
        """Run the whole service for the length of a block.

        Without a home, everything that the jobs leave is removed afterwards. Raise SetupError.
        """
        from jobs.service import DRAIN_TIMEOUT, Service  # noqa: PLC0415 - a client of a running service needs none

        with contextlib.ExitStack() as stack:
            patience, own_store = DRAIN_TIMEOUT, None
            if home is None:
                # Who kills the worker may leave its guards a moment too long for the clearing.
                folder = tempfile.TemporaryDirectory(
                    prefix="unroll-home-", ignore_cleanup_errors=True
                )
                home = Path(stack.enter_context(folder))
                patience = _SHORT_DRAIN
                own_store = home / "store"  # where UNROLL_STORE says, nobody would ever clear it
            service = Service(
                Path(home), slots=slots, log=Path(home) / "worker.log", store=own_store
            )
            stack.callback(service.stop, patience)
            service.start()
            client = stack.enter_context(cls(service.url, service.home))
            client._own_store = own_store  # noqa: SLF001 - of this class
            yield client

    @cached_property
    def store(self) -> "JobStore":
        """Return the job records."""
        from jobs.connection import connect  # noqa: PLC0415 - imports Redis
        from jobs.store import JobStore  # noqa: PLC0415 - imports Redis

        connection = connect(self.url)
        self._open.callback(connection.close)
        return JobStore(connection, self._namespace)

    @property
    def store_root(self) -> Path:
        """Return the folder in which this machine keeps the files of jobs, if it does."""
        from jobs.artifacts import default_root  # noqa: PLC0415 - few look at files themselves

        return self._own_store or default_root(self.home)

    @cached_property
    def registry(self) -> "Registry":
        """Return the names of models, their versions and champions."""
        from jobs.artifacts import existing_store  # noqa: PLC0415 - only who asks for models pays
        from jobs.registry import Registry  # noqa: PLC0415 - imports Redis

        return self.store.beside(Registry, artifacts=existing_store(self.store_root))

    @property
    def models(self) -> "Models":
        """Return the named models: `client.models["de-en"].champion`."""
        from jobs.models import Models  # noqa: PLC0415 - only who asks for models pays

        return Models(self)

    @property
    def schedules(self) -> "Schedules":
        """Return what is retrained when: `client.schedules["nightly"].history()`."""
        from jobs.scheduling import Schedules  # noqa: PLC0415 - only who asks for them pays

        return Schedules(self)

    def schedule(
        self, name: str, spec: TrainSpec, *, model: str, base: Path | None = None, **options: Any
    ) -> "ScheduleHandle":
        """Retrain a model by a timetable, or on new data; see `Schedules.add` for the options."""
        return self.schedules.add(name, spec, model=model, base=base, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for name in ("store", "registry", "sweeps", "hooks"):
            self.__dict__.pop(name, None)
        self._open.close()

    def submit(
        self, spec: AnySpec, key: str | None = None, *, base: Path | None = None
    ) -> JobHandle:
        """Queue a job; with a `key` that was used before, return the job that it made.

        `base` is what a relative data root is relative to, by default the working folder, where
        client and worker share a machine. Raise SpecError, UnknownJob or NotAllowed, with nothing
        queued.
        """
        refuse_control_characters("key", [key or ""])
        spec = self.made_whole(spec, base)
        note = self._check(spec)
        job = self.store.enqueue(spec, key=key, note=note)
        self._ring(spec.resources.queue)
        return JobHandle(self, job)

    def made_whole(self, spec: AnySpec, base: Path | None = None) -> AnySpec:
        """Return a spec as it is queued: checked, its data's root absolute, its ids whole.

        A job that needs the model of a training that has none yet comes after that training.

        Raise SpecError, UnknownJob.
        """
        whole = with_whole_ids(self._with_absolute_root(checked(spec), base), self.store.resolve)
        return after_its_model(whole, self.store.get)

    def sweep(
        self,
        spec: TrainSpec,
        axes: Sequence[str],
        *,
        base: Path | None = None,
        **how: Unpack["Plan"],
    ) -> "Sweep":
        """Train many models that differ in a few parameters: `["trainer.lr=1e-4..1e-2"]`.

        All are checked before any is queued. Raise SpecError.
        """
        from jobs.sweeps import begin  # noqa: PLC0415 - imports Redis

        def prepare(trial: TrainSpec) -> AnySpec:
            whole = self.made_whole(trial, base)
            self._check(whole)
            return whole

        begun = begin(self.store, spec, axes, how, prepare)
        self._ring(spec.resources.queue)
        return begun

    @cached_property
    def sweeps(self) -> "Sweeps":
        """Return the sweeps."""
        from jobs.sweeps import Sweeps  # noqa: PLC0415 - imports Redis

        return self.store.beside(Sweeps)

    @cached_property
    def hooks(self) -> "Hooks":
        """Return the webhooks."""
        from jobs.notify import Hooks  # noqa: PLC0415 - imports Redis

        return self.store.beside(Hooks)

    def get(self, id: str) -> JobHandle:  # noqa: A002 - the name in the record
        """Return the job whose id is `id` or, alone of all, begins so. Raise UnknownJob."""
        return JobHandle(self, self.store.resolve(id))

    def list(self, state: JobState | None = None, *, limit: int = 1000) -> list[Job]:
        """Return the records of the newest jobs, the newest first."""
        return self.store.list(state, limit)

    def workers(self) -> "Sequence[Worker]":
        """Return the workers that live."""
        return self.store.workers()

    def catalog(self, queue: str = "default", *, timeout: float = 0) -> "Catalog | None":
        """Return what the workers of a queue can build.

        None where none has said so. A worker needs a few seconds to say it: give it `timeout`.
        """
        deadline = time.monotonic() + timeout
        while (found := self.store.catalog(queue)) is None and time.monotonic() < deadline:
            time.sleep(_CATALOG_LOOK)
        return found

    def evaluate(
        self,
        id: str,  # noqa: A002 - the name in the record
        data: Mapping[str, Any] | None = None,
        *,
        split: str = "test",
        search: SearchOptions | None = None,
        wait: bool = True,
        **options: Unpack[Scoring],
    ) -> JobHandle:
        """Score a job's or a named model on a split; see `JobHandle.evaluate`."""
        return self.models.trained(id).evaluate(
            data, split=split, search=search, wait=wait, **options
        )

    def compare(
        self,
        first: str,
        second: str,
        data: Mapping[str, Any] | None = None,
        *,
        split: str | None = None,
        search: SearchOptions | None = None,
        wait: Callable[[JobHandle], Any] = JobHandle.wait,
        **options: "Unpack[Options]",
    ) -> "Comparison":
        """Say whether the second of two is better than the first; see `comparisons.compare`.

        Either is the id of an evaluation or of a training, or NAME, NAME@3 or NAME@challenger.
        `wait` is what waits for each job that this takes.
        """
        from jobs.comparisons import OnWhat, compare  # noqa: PLC0415 - only who compares pays

        if data and self._shares_home:
            data = absolute_root(data, Path.cwd())
        told = split or data or search
        on = OnWhat(split or "test", data, search) if told else None
        return compare(self, (first, second), on, wait=wait, **options)

    def leaderboard(self, dataset: str, metric: str = "") -> "Leaderboard":
        """Return the evaluations of a dataset in order; see `leaderboard.rank`."""
        from jobs.leaderboard import rank  # noqa: PLC0415 - only who ranks pays

        found = self.store.list(JobState.SUCCEEDED, limit=_RANKED)
        evaluations = [each for each in found if each.kind == EvaluateSpec.kind]
        labels = {each.job: each.label for model in self.registry.list() for each in model.versions}
        return rank(evaluations, dataset, metric, labels)

    def predict(
        self,
        id: str,  # noqa: A002 - the name in the record
        lines: Sequence[str],
        *,
        beam: int = 1,
        timeout: float | None = None,
    ) -> "Sequence[str]":
        """Return a job's or a named model's answer to each line; see `JobHandle.predict`."""
        return self.models.trained(id).predict(lines, beam=beam, timeout=timeout)

    def export(
        self,
        target: str,
        folder: Path,
        *,
        timeout: float | None = None,
        wait: Callable[[JobHandle], Any] | None = None,
    ) -> Path:
        """Write a job's model, or NAME, NAME@3, NAME@challenger, into a folder of its own.

        It then loads without this service. `wait` is given the job that this takes, and may say
        what is waited for. Raise NotAllowed where the folder is not empty,
        UnknownJob, UnknownModel, JobFailed, WaitTimeout, ArtifactError.
        """
        from jobs.exporting import export  # noqa: PLC0415 - only who exports pays for it

        return export(self, self.models.trained(target), Path(folder), timeout, wait)

    def _with_absolute_root(self, spec: AnySpec, base: Path | None) -> AnySpec:
        if not self._shares_home:
            return spec
        base = (base or Path.cwd()).absolute()
        if isinstance(spec, TrainSpec):
            params = absolute_root(spec.data.params, base)
            return replace(spec, data=Component(spec.data.name, params))
        if isinstance(spec, EvaluateSpec):
            return replace(spec, data=absolute_root(spec.data, base))
        return spec

    @property
    def _shares_home(self) -> bool:
        with contextlib.suppress(OSError):
            return (self.home / "address").read_text(encoding="utf-8").strip() == self.url
        return False

    def _check(self, spec: AnySpec) -> str:
        if isinstance(spec, TrainSpec):
            if origin := spec.resume_from or spec.warm_from:
                require_model(self.store.get(origin), later=origin in spec.after)
            return check_training(spec, self.store.catalog(spec.resources.queue))
        if isinstance(spec, CompareSpec):
            require_evaluations(spec, self.store.get(spec.first), self.store.get(spec.second))
            return ""
        trained = self.store.get(spec.job)
        require_model(trained, later=spec.job in spec.after)
        if not isinstance(spec, EvaluateSpec):
            return ""
        return check_evaluation(spec, trained, self.store.catalog(spec.resources.queue))

    def _ring(self, queue: str) -> None:
        from jobs.broker import ring  # noqa: PLC0415 - imports Redis

        ring(queue, self.store)
