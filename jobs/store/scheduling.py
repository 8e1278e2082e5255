"""Schedules in the store: what is retrained when, and what became of each due time.

The roles are those of the job records: a person adds, pauses, asks and removes; workers fire due
times and move generations on, each step a compare-and-set on what they saw.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from jobs.errors import SpecError, UnknownSchedule, did_you_mean
from jobs.firing import Firing
from jobs.schedules import Generation, Outcome, Schedule, Stage
from jobs.schema import known_fields
from jobs.spec import TrainSpec
from jobs.store.base import StoreBase
from jobs.store.records import MAX_MESSAGE, head, plain, text
from jobs.store.submitting import asked_with, new_id
from jobs.timetable import Timetable

logger = logging.getLogger(__name__)

#: Generations of a schedule that are remembered.
KEEP: Final = 1_000
#: Fields of a generation that transitions neither read nor write.
_BODY: Final = (
    *("trigger", "missed", "version", "champion", "evaluations", "comparisons", "evidence"),
    *("promote", "claimed"),
)


@dataclass(frozen=True)
class Standing:
    """A schedule as it stands in the store."""

    schedule: Schedule
    #: The same as it is written there: who fires says that this is what they saw.
    definition: str
    #: Next due time, in milliseconds; None where there is none.
    due: int | None
    #: When a generation was asked for that no worker has begun yet; None where none was.
    asked: int | None
    paused: bool
    #: When it was last fired, in milliseconds; 0 before.
    fired: int


# The class has a method called `list`, so that inside it these types need names of their own.
Standings = list[Standing]
Generations = list[Generation]


class ScheduleStore(StoreBase):
    """Keep the schedules of one namespace; `store.beside(ScheduleStore)` shares a connection.

    All methods raise ServiceUnreachable where Redis does not answer.
    """

    def now(self) -> int:
        """Return the milliseconds of Redis server time."""
        if self._clock:
            return self._clock()
        with self._reaching():
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def add(self, schedule: Schedule) -> Standing:
        """Keep a schedule. Raise NotAllowed where there is one of this name."""
        due = schedule.timetable.next(schedule.created)
        self._run(
            "schedule_add",
            schedule=schedule.name,
            definition=plain(schedule.to_dict()),
            moment=_written(due),
        )
        return self.get(schedule.name)

    def pause(self, name: str) -> Standing:
        """Let nothing be due until it is resumed. Raise UnknownSchedule."""
        self._run("schedule_hold", schedule=name, hold=1, moment="")
        return self.get(name)

    def resume(self, name: str) -> Standing:
        """Go on from the next due time; those since the pause were not missed.

        Raise UnknownSchedule.
        """
        due = self.get(name).schedule.timetable.next(self.now())
        self._run("schedule_hold", schedule=name, hold=0, moment=_written(due))
        return self.get(name)

    def ask(self, name: str) -> int:
        """Ask for a generation now; return its moment. Raise UnknownSchedule."""
        return int(self._run("schedule_ask", schedule=name))

    def remove(self, name: str) -> None:
        """Remove a schedule; workers cancel what is open of it. Raise UnknownSchedule."""
        self._run("schedule_remove", schedule=name)

    def get(self, name: str) -> Standing:
        """Return a schedule. Raise UnknownSchedule, and SpecError for one that is not readable."""
        for each in self.list():
            if each.schedule.name == name:
                return each
        with self._reaching():
            known = [text(each) for each in self._client.hkeys(self.keys("schedules"))]
        if name in known:
            raise SpecError(f"schedule {name} cannot be read here: see the log")
        raise UnknownSchedule(f"no schedule is called {name!r}{did_you_mean(name, known)}")

    def list(self) -> Standings:
        """Return all schedules, by name, but for those that cannot be read here."""
        with self._reaching():
            pipe = self._client.pipeline(transaction=True)
            pipe.hgetall(self.keys("schedules"))
            pipe.zrange(self.keys("due"), 0, -1, withscores=True)
            pipe.zrange(self.keys("asked"), 0, -1, withscores=True)
            pipe.smembers(self.keys("paused"))
            found, due, asked, paused = pipe.execute()
            names = sorted(found)
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.hget(self.keys("memory", text(name)), "fired")
            fired = pipe.execute() if names else []
        due, asked = dict(due), dict(asked)
        return [
            Standing(
                schedule=schedule,
                definition=text(found[name]),
                due=_moment(due.get(name)),
                asked=_moment(asked.get(name)),
                paused=name in paused,
                fired=int(last or 0),
            )
            for name, last in zip(names, fired, strict=True)
            if (schedule := _read_schedule(text(name), found[name]))
        ]

    def was_removed(self, generation: Generation) -> bool:
        """Return whether a generation's schedule is gone, or another of its name took its place."""
        with self._reaching():
            found = self._client.hget(self.keys("schedules"), generation.schedule)
        return not found or json.loads(found)["created"] != generation.definition["created"]

    def fire(self, standing: Standing, firing: Firing, spec: TrainSpec) -> Stage | None:
        """Move a trigger on, and begin a generation with it. None where another was faster."""
        schedule = standing.schedule
        generation = Generation(
            schedule=schedule.name,
            due=firing.moment,
            stage=Stage.TRAINING,
            trigger=firing.trigger,
            missed=firing.missed,
        )
        arguments = asked_with(spec, generation.key())
        while not (
            stage := self._run(
                "schedule_fire",
                schedule=schedule.name,
                definition=standing.definition,
                trigger=firing.trigger,
                seen=firing.seen,
                following=firing.following,
                moment=firing.moment,
                outcome=firing.outcome or "",
                reason=head(firing.reason, MAX_MESSAGE),
                overlap=schedule.overlap,
                body=_body(generation),
                id=new_id(),
                **arguments,
            )
        ):
            pass  # the id of the training was taken: chance gives another
        return None if stage == b"moved" else Stage(text(stage))

    def begin(self, generation: Generation, spec: TrainSpec) -> None:
        """Begin a generation that waited, if its turn has come."""
        arguments = asked_with(spec, generation.key())
        while not self._run(
            "generation_begin",
            schedule=generation.schedule,
            generation=generation.id,
            id=new_id(),
            **arguments,
        ):
            pass  # as above

    def move(self, seen: Generation, stage: Stage, **changes: Any) -> Generation | None:
        """Move a generation on. Return it as it then is; None where another was faster."""
        moved = replace(seen, stage=stage, step=seen.step + 1, **changes)
        done = self._run(
            "generation_move",
            schedule=seen.schedule,
            generation=seen.id,
            step=seen.step,
            stage=stage,
            outcome=moved.outcome or "",
            reason=head(moved.reason, MAX_MESSAGE),
            body=_body(moved),
            keep=KEEP,
        )
        return moved if done else None

    def open(self) -> Generations:
        """Return the generations that are not decided yet, the earliest due first."""
        with self._reaching():
            found = self._generations(self._client.zrange(self.keys("open"), 0, -1))
        return [each for each in found if each.stage is not Stage.DECIDED]  # meanwhile

    def history(self, name: str, limit: int = KEEP) -> Generations:
        """Return the newest generations of a schedule, the oldest of them first."""
        with self._reaching():
            ids = self._client.zrange(self.keys("generations", name), -limit, -1)
            return self._generations(ids)

    def _generations(self, ids: Sequence[bytes]) -> Generations:
        pipe = self._client.pipeline(transaction=False)
        for each in ids:
            pipe.hgetall(self.keys("generation", text(each)))
        found = zip(ids, pipe.execute() if ids else [], strict=True)
        return [_generation(text(each), fields) for each, fields in found if fields]

    def data_digest(self, standing: Standing) -> str:
        """Return the digest of the data that was seen last; empty before the first look."""
        field = f"data:{standing.schedule.created}"
        with self._reaching():
            seen = self._client.hget(self.keys("memory", standing.schedule.name), field)
        return text(seen)

    def learn_data(self, standing: Standing, digest: str) -> None:
        """Keep a digest as that of the data that was there at the first look."""
        self._learn(standing.schedule, "data", digest)

    def pin(self, schedule: Schedule, digest: str) -> str:
        """Return the digest of the frozen test set, which is this one if it is the first."""
        return self._learn(schedule, "test", digest)

    def _learn(self, schedule: Schedule, what: str, digest: str) -> str:
        key, field = self.keys("memory", schedule.name), f"{what}:{schedule.created}"
        with self._reaching():
            pipe = self._client.pipeline(transaction=True)
            pipe.hsetnx(key, field, digest)
            pipe.sadd(self.keys("scheduled"), schedule.name)
            pipe.hget(key, field)
            return text(pipe.execute()[-1])

    def forget(self) -> None:
        """Forget what became of schedules that were removed."""
        self._run("schedule_forget")


@lru_cache(maxsize=256)
def _read_schedule(name: str, definition: bytes) -> Schedule | None:
    """Read a schedule once: every worker looks at all of them each second.

    None, and a word in the log, for one that means nothing here: it is of a later version, or in a
    time zone that this machine does not know.
    """
    try:
        return Schedule.from_dict(json.loads(definition))
    except (SpecError, TypeError, ValueError, KeyError) as error:
        logger.warning("schedule %s cannot be read here: %s", name, error)
        return None


def _body(generation: Generation) -> str:
    return plain({name: getattr(generation, name) for name in _BODY})


def _generation(id: str, fields: Mapping[bytes, bytes]) -> Generation:  # noqa: A002 - the field
    said = {text(name): text(value) for name, value in fields.items()}
    schedule, _, due = id.rpartition(":")
    definition = json.loads(said["definition"])
    return Generation(
        schedule=schedule,
        due=int(due),
        stage=Stage(said["stage"]),
        step=int(said["step"]),
        fired=int(said["fired"]),
        ended=int(said.get("ended", 0)),
        train=said["train"],
        outcome=Outcome(said["outcome"]) if said["outcome"] else None,
        reason=_with_times(said["reason"], schedule, definition["timetable"].get("zone", "")),
        definition=definition,
        **known_fields(Generation, json.loads(said["body"])),
    )


def _with_times(reason: str, schedule: str, zone: str) -> str:
    """Return a reason in which other generations are called by their due times, as clocks show it.

    Transitions name them by their ids: Redis has no calendar.
    """
    try:
        table = Timetable(zone=zone)
    except SpecError:  # this machine does not know it
        table = Timetable()
    return re.sub(
        rf"\bthe generation {re.escape(schedule)}:" + r"(\d{1,14})\b",
        lambda found: f"the generation of {table.shown(int(found[1]))}",
        reason,
    )


def _moment(score: float | None) -> int | None:
    return None if score is None else int(score)


def _written(moment: int | None) -> str:
    return "" if moment is None else str(moment)
