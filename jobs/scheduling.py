"""Schedules in a person's hands: `client.schedules["nightly"].history()`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from jobs.errors import SpecError
from jobs.gate import Gate
from jobs.intake import check_parameters, check_training
from jobs.schedules import Generation, Schedule, set_of
from jobs.slicing import row_slice
from jobs.spec import AnySpec, TrainSpec
from jobs.timetable import Timetable

if TYPE_CHECKING:
    from jobs.catalog import Catalog, Entry, Task
    from jobs.store import JobStore
    from jobs.store.scheduling import ScheduleStore, Standing

#: Options of `add` that are the gate's, and those that are the timetable's.
_GATE: Final = {
    "promote_if": "metric",
    **{name: name for name in ("margin", "confidence", "max_drop", "floor")},
}
_TIMES: Final = {"cron": "cron", "every": "every", "tz": "zone", "start": "start", "end": "end"}


class Scheduler(Protocol):
    """What schedules need of the client that they belong to."""

    @property
    def store(self) -> "JobStore":
        """The job records."""

    def made_whole(self, spec: AnySpec, base: Path | None = None) -> AnySpec:
        """Return a spec as it is queued."""


class ScheduleHandle:
    """One schedule: what it does, what became of it, and what can be done with it."""

    def __init__(self, store: "ScheduleStore", name: str) -> None:
        self._store = store
        self.name: Final = name

    def __repr__(self) -> str:
        return f"ScheduleHandle({self.name!r})"

    @property
    def standing(self) -> "Standing":
        """Return the schedule as it is now. Raise UnknownSchedule once it was removed."""
        return self._store.get(self.name)

    def history(self, limit: int = 1000) -> Sequence[Generation]:
        """Return what became of its newest due times, the oldest of them first."""
        return self._store.history(self.standing.schedule.name, limit)

    def pause(self) -> None:
        """Let nothing be due until it is resumed; what is under way goes on."""
        self._store.pause(self.name)

    def resume(self) -> None:
        """Go on from the next due time; those since the pause were not missed."""
        self._store.resume(self.name)

    def run_now(self) -> int:
        """Ask for a generation now; return its moment, in milliseconds since 1970."""
        return self._store.ask(self.name)

    def remove(self) -> None:
        """Remove it and its history; workers cancel what is under way."""
        self._store.remove(self.name)


class Schedules:
    """The schedules of a service, by name."""

    def __init__(self, client: Scheduler) -> None:
        from jobs.store.scheduling import ScheduleStore  # noqa: PLC0415 - imports Redis

        self._client = client
        self._store = client.store.beside(ScheduleStore)

    def __iter__(self) -> Iterator[ScheduleHandle]:
        return (ScheduleHandle(self._store, each.schedule.name) for each in self._store.list())

    def __contains__(self, name: object) -> bool:
        return any(each.schedule.name == name for each in self._store.list())

    def __getitem__(self, name: str) -> ScheduleHandle:
        """Return a schedule. Raise UnknownSchedule."""
        return ScheduleHandle(self._store, self._store.get(name).schedule.name)

    def list(self) -> "Sequence[Standing]":
        """Return all schedules as they are now, by name."""
        return self._store.list()

    def add(
        self, name: str, spec: TrainSpec, *, model: str, base: Path | None = None, **options: Any
    ) -> ScheduleHandle:
        """Retrain a model by a timetable, or on new data; return the schedule.

        `options` are `promote_if` (the metric), margin, confidence, max_drop and floor of the gate
        (`jobs.gate.Gate`); cron, every, tz, start and end (`jobs.timetable.Timetable`); and the
        fields of `jobs.schedules.Schedule`. `base` is what a relative data root is relative to.
        Raise SpecError, and NotAllowed where there is a schedule of this name: nothing is kept.
        """
        from jobs.registry import whoami  # noqa: PLC0415 - imports Redis

        gate = Gate(**_taken(options, _GATE))
        timetable, now = Timetable(**_taken(options, _TIMES)), self._store.now()
        if timetable.every is not None and timetable.start is None:
            timetable = replace(timetable, start=now + timetable.every * 1000)
        whole = self._client.made_whole(spec, base)
        try:
            schedule = Schedule(
                name=name,
                model=model,
                spec=whole.to_dict(),
                gate=gate,
                timetable=timetable,
                by=whoami(),
                created=now,
                **options,
            )
        except TypeError as error:
            raise SpecError(f"a schedule: {str(error).partition(') ')[2]}") from None
        self._check(schedule, self._client.store.catalog(whole.resources.queue))
        return ScheduleHandle(self._store, self._store.add(schedule).schedule.name)

    @staticmethod
    def _check(schedule: Schedule, catalog: "Catalog | None") -> None:
        """Raise SpecError where no worker can build the training, or its model lacks the metric."""
        spec = schedule.train_spec
        check_training(spec, catalog)
        if catalog is not None:
            data = catalog.data[spec.data.name]
            accepted = catalog.models[spec.model.name].tasks_of(spec.model)
            given = data.tasks_of(spec.data)
            for each in schedule.sets:
                split, otherwise = set_of(each, schedule.split)
                data.check_split(split)
                check_parameters(spec.data.name, otherwise, catalog)
            for name in schedule.row_slices:
                _check_rows(name, spec.data.name, accepted & given)
            outputs = {output for _, output in accepted & given}
            schedule.gate.check(outputs, data.scores_of_text(spec.data), _mend(schedule.gate, data))


def _mend(gate: Gate, data: "Entry") -> str:
    """Return how such data comes to have the gate's metric, where a parameter decides."""
    families = (data.text_metrics or {}) if data.text_metrics_by else {}
    found = next((family for family, names in families.items() if gate.metric in names), "")
    return f"add {found!r} to data.{data.text_metrics_by}" if found else ""


def _check_rows(name: str, data: str, tasks: "Iterable[Task]") -> None:
    """Raise SpecError for a slice by labels where no row has one."""
    labelled = any({"label", "tags"} & {*task} for task in tasks)
    if row_slice(name).property == "label" and not labelled:
        raise SpecError(f"the slice {name} cannot be made: rows of {data} have no label")


def _taken(options: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Take the options of these names out, and return those that are set under their own names."""
    given = {own: options.pop(name) for name, own in names.items() if name in options}
    return {name: value for name, value in given.items() if value is not None}
