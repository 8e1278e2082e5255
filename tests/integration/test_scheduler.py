"""Schedules by the store, the tick and the registry as they are; only the training is made up."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from jobs.errors import NotAllowed, SpecError, UnknownSchedule
from jobs.gate import Gate
from jobs.job import Job, JobState, Reason
from jobs.registry import Registry
from jobs.schedules import Generation, Outcome, Schedule, Stage
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore, Standing
from jobs.timetable import Timetable
from lightning_modules._row_scores import RowScores
from tests.doubles.mill import ROWS, Mill, system
from worker.scheduler import Scheduler

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
SPEC = TrainSpec(model=Component("m"), data=Component("d", {"root": "corpus"}))
NIGHTLY = Timetable(cron="0 3 * * *")


@dataclass
class House:
    """A service whose clock the test moves."""

    store: JobStore
    shares: list[float] = field(default_factory=list)
    time: int = NOON

    def __post_init__(self) -> None:
        self.store = replace_clock(self.store, lambda: self.time)
        self.schedules = self.store.beside(ScheduleStore)
        self.registry = self.store.beside(Registry)
        self.scheduler = Scheduler(self.store)
        self.mill = Mill(self.store, self._says)

    def _says(self, trained: Job, _set: str) -> RowScores:
        """Let the nth training get the nth share of its words right."""
        number = self.number(trained)
        return system(self.shares[min(number, len(self.shares) - 1)], seed=number)

    def number(self, trained: Job) -> int:
        """Return which of all trainings it is, from 0."""
        trainings = [each for each in self.store.list() if each.kind == "train"]
        order = sorted(trainings, key=lambda each: each.submitted)
        return [each.id for each in order].index(trained.id)

    def add(self, **options: Any) -> Standing:
        given = {"gate": Gate(metric="bleu"), "timetable": NIGHTLY, **options}
        schedule = Schedule(
            name="nightly", model="de-en", spec=SPEC.to_dict(), created=self.time, **given
        )
        return self.schedules.add(schedule)

    def wait(self, milliseconds: int) -> None:
        self.time += milliseconds

    def settle(self) -> list[Generation]:
        """Tick and work until nothing moves any more."""
        for _ in range(12):
            self.scheduler.tick()
            self.mill.turn()
        return self.history()

    def history(self) -> list[Generation]:
        return self.schedules.history("nightly")

    def trainings(self) -> int:
        return sum(each.kind == "train" for each in self.store.list())

    def trail(self) -> list[tuple[str, int]]:
        return [(each.action, each.version) for each in self.registry.history("de-en")]


def replace_clock(store: JobStore, clock: Callable[[], int]) -> JobStore:
    return JobStore(store._client, store.keys.namespace, clock)


@pytest.fixture
def house(store: JobStore) -> House:
    return House(store, [0.5])


def test_nothing_is_trained_before_its_time(house: House) -> None:
    due = house.add().due
    assert due == NOON + 15 * HOUR
    house.wait(15 * HOUR - 1)
    assert house.settle() == []
    house.wait(1)
    (generation,) = house.settle()
    assert generation.due == due
    assert generation.id == f"nightly:{due}"
    assert generation.key() == f"schedule:nightly:{due}"


def test_the_first_model_is_promoted_and_a_better_one_takes_its_place(house: House) -> None:
    house.shares = [0.5, 0.5, 0.7]
    house.add()
    for _ in range(3):
        house.wait(DAY)
        house.settle()
    outcomes = [each.outcome for each in house.history()]
    assert outcomes == [Outcome.PROMOTED, Outcome.KEPT, Outcome.PROMOTED]
    model = house.registry.get("de-en")
    assert (model.champion, len(model.versions)) == (3, 3)
    assert house.trail() == [
        *(("registered", 1), ("promoted", 1)),
        *(("registered", 2), ("kept", 2)),
        *(("registered", 3), ("promoted", 3)),
    ]
    told = house.registry.history("de-en")[-1]
    assert told.by == "schedule nightly"
    assert told.reason.startswith("better on the test set: bleu ")
    assert told.evidence["generation"] == house.history()[-1].id
    assert told.evidence["test.difference"] > 0
    for name in ("test.evaluations.champion", "test.evaluations.challenger", "test.comparison"):
        assert house.store.get(told.evidence[name]).state is JobState.SUCCEEDED


def test_a_worse_model_is_kept_out_and_the_trail_says_why(house: House) -> None:
    house.shares = [0.6, 0.3]
    house.add()
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    newest = house.history()[-1]
    assert newest.outcome is Outcome.KEPT
    assert newest.reason.startswith("the champion is kept: no better on the test set: bleu ")
    assert house.registry.history("de-en")[-1].reason == newest.reason
    assert house.registry.get("de-en").champion == 1


def test_a_training_is_told_what_it_will_be_evaluated_on(house: House) -> None:
    house.add(slices=["data.test=newest", "length<=10"])
    house.wait(DAY)
    (generation,) = house.settle()
    told = house.store.get(generation.train).spec["evaluated_on"]
    assert told == ["test", "data.test=newest", "length<=10"]


def test_a_floor_keeps_a_bad_first_model_out(house: House) -> None:
    house.add(gate=Gate(metric="bleu", floor=90.0))
    house.wait(DAY)
    (generation,) = house.settle()
    assert generation.outcome is Outcome.KEPT
    assert "is not at least 90" in generation.reason
    assert house.registry.get("de-en").champion is None


def test_a_slice_that_got_worse_stops_a_model_that_is_better_on_the_test_set(house: House) -> None:
    shares = {"test": [0.5, 0.7], "val": [0.6, 0.4]}

    def says(trained: Job, each: str) -> RowScores:
        number = house.number(trained)
        return system(shares[each][number], seed=number)

    house.mill.says = says
    house.add(slices=["val"])
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    newest = house.history()[-1]
    assert newest.outcome is Outcome.KEPT
    assert newest.reason.startswith("the champion is kept: worse on val by more than 1")


def test_rows_of_the_test_set_are_a_slice_without_an_evaluation_of_their_own(house: House) -> None:
    short = [row % 4 == 0 for row in range(ROWS)]
    house.mill.properties = {"length": [3 if each else 20 + row for row, each in enumerate(short)]}

    def says(trained: Job, _set: str) -> RowScores:
        number = house.number(trained)
        good, bad = system(0.5 + 0.3 * number, seed=number), system(0.3, seed=number)
        values = [(bad if number and each else good).values[row] for row, each in enumerate(short)]
        return RowScores("bleu", np.array(values))

    house.mill.says = says
    house.add(slices=["length>=20", "length<10"])
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    newest = house.history()[-1]
    assert newest.outcome is Outcome.KEPT
    assert newest.reason.startswith("the champion is kept: worse on length<10 by more than 1: bleu")
    assert {*newest.evaluations} == {"test"}
    assert {*newest.comparisons} == {"test", "length>=20", "length<10"}
    found = newest.evidence["length<10"]
    assert (found["rows"], found["challenger"] < found["champion"]) == (sum(short), True)
    assert newest.evidence["test"]["difference"] > 0
    told = house.registry.history("de-en")[-1].evidence
    assert told["length>=20.difference"] > 0 > told["length<10.difference"]


def test_the_thirds_of_the_test_set_are_three_slices(house: House) -> None:
    house.shares = [0.4, 0.8]
    house.add(slices=["length"])
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    newest = house.history()[-1]
    assert newest.outcome is Outcome.PROMOTED
    thirds = [newest.evidence[f"length={each}"]["rows"] for each in ("short", "middle", "long")]
    assert sum(thirds) == ROWS
    assert min(thirds) > ROWS / 4


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        (["label=sports"], "the rows have no label (they have: length)"),
        (["length>99"], "the lengths of the set go from 1 to 30"),
    ],
)
def test_a_slice_that_cannot_be_made_ends_the_generation_with_the_reason(
    house: House, slices: list[str], said: str
) -> None:
    house.add(slices=slices)
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    newest = house.history()[-1]
    assert newest.outcome is Outcome.FAILED
    assert said in newest.reason


def test_a_test_set_that_changed_stops_the_promotion(house: House) -> None:
    house.shares = [0.4, 0.8]
    house.add()
    house.wait(DAY)
    house.settle()
    house.mill.test_set = "somebody edited it"
    house.wait(DAY)
    newest = house.settle()[-1]
    assert newest.outcome is Outcome.KEPT
    assert newest.reason.startswith("the test set changed: its digest is ")
    assert house.registry.get("de-en").champion == 1


@pytest.mark.parametrize("reason", [Reason.NAN, Reason.OUT_OF_MEMORY, Reason.USER_ERROR])
def test_a_training_that_fails_ends_its_generation(house: House, reason: Reason) -> None:
    house.add()
    house.wait(DAY)
    house.scheduler.tick()
    job = house.history()[0].train
    house.mill.failing[job] = (reason, "loss is nan at step 7")
    (generation,) = house.settle()
    assert generation.outcome is Outcome.FAILED
    assert generation.reason == (
        f"the training failed: job {job} failed ({reason}): loss is nan at step 7"
    )
    house.wait(DAY)
    assert house.settle()[-1].outcome is Outcome.PROMOTED


def test_an_evaluation_that_fails_ends_its_generation_and_the_trail_hears_of_it(
    house: House,
) -> None:
    house.add()
    house.wait(DAY)
    house.scheduler.tick()
    house.mill.turn()
    house.scheduler.tick()
    (evaluation,) = house.store.list(JobState.QUEUED)
    house.mill.failing[evaluation.id] = (Reason.BAD_DATA, "test.en is gone")
    (generation,) = house.settle()
    assert generation.outcome is Outcome.FAILED
    assert "the evaluation of the challenger on test failed: " in generation.reason
    assert house.registry.history("de-en")[-1].reason == generation.reason
    assert house.registry.get("de-en").champion is None


def test_what_a_failed_job_had_to_say_is_one_line_of_the_trail(house: House) -> None:
    house.add()
    house.wait(DAY)
    house.scheduler.tick()
    house.mill.turn()
    house.scheduler.tick()
    (evaluation,) = house.store.list(JobState.QUEUED)
    house.mill.failing[evaluation.id] = (Reason.BAD_DATA, "line 1\n\tline 2\x1b[31m" + 2000 * "x")
    (generation,) = house.settle()
    assert generation.outcome is Outcome.FAILED
    told = house.registry.history("de-en")[-1].reason
    assert "line 1 line 2 [31mxxx" in told
    assert told.isprintable()


def test_a_champion_that_changed_while_evaluations_were_queued_is_evaluated_itself(
    house: House,
) -> None:
    house.shares = [0.4, 0.6, 0.5]
    house.add()
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    house.wait(DAY)
    house.scheduler.tick()
    house.mill.turn()

    class Died(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Died

    house.scheduler._retraining._schedules.move = die  # type: ignore[method-assign, assignment]
    with pytest.raises(Died):
        house.scheduler.tick()
    house.registry.rollback("de-en", by="somebody")
    house.scheduler = Scheduler(house.store)
    newest = house.settle()[-1]
    assert newest.champion == 1
    evaluated = house.store.get(newest.evaluations["test"]["champion"]).spec["job"]
    assert evaluated == house.registry.get("de-en").version(1).job


def test_a_metric_that_the_model_does_not_report_is_named(house: House) -> None:
    house.add(gate=Gate(metric="chrf"))
    house.wait(DAY)
    (generation,) = house.settle()
    assert generation.outcome is Outcome.FAILED
    assert generation.reason == (
        "the model reports no 'test/chrf' (it reports test/bleu, test/loss): "
        "choose one of these for the gate"
    )


def test_a_champion_that_was_moved_meanwhile_is_not_overrun(house: House) -> None:
    house.shares = [0.4, 0.6, 0.8]
    house.add()
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    assert house.registry.get("de-en").champion == 2
    house.wait(DAY)
    for _ in range(3):  # fired, trained, evaluated; the comparison waits
        house.scheduler.tick()
        house.mill.turn()
    house.registry.rollback("de-en", by="somebody")
    newest = house.settle()[-1]
    assert newest.outcome is Outcome.KEPT
    assert "somebody rolled back to version 1" in newest.reason


def test_due_times_that_were_missed_bring_one_generation(house: House) -> None:
    house.add(missed="once")
    house.wait(4 * DAY)
    (generation,) = house.settle()
    assert (generation.missed, generation.due) == (3, NOON + 15 * HOUR + 3 * DAY)
    assert house.trainings() == 1


def test_due_times_that_were_missed_bring_one_generation_each(house: House) -> None:
    house.add(missed="all", overlap="queue")
    house.wait(4 * DAY)
    house.scheduler.tick()
    stages = [each.stage for each in house.history()]
    assert stages == [Stage.TRAINING, Stage.WAITING, Stage.WAITING, Stage.WAITING]
    assert house.trainings() == 1
    house.settle()
    assert [each.due for each in house.history()] == [NOON + 15 * HOUR + n * DAY for n in range(4)]
    for _ in range(4):
        house.settle()
    assert house.trainings() == 4
    assert all(each.stage is Stage.DECIDED for each in house.history())


def test_due_times_that_were_missed_are_passed_over_and_it_is_said(house: House) -> None:
    house.add(missed="skip")
    house.wait(4 * DAY)
    (generation,) = house.settle()
    assert (generation.outcome, generation.missed) == (Outcome.MISSED, 3)
    assert generation.reason == (
        "no worker ran: 2026-01-02 03:00:00 +0000 to 2026-01-05 03:00:00 +0000"
    )
    assert house.trainings() == 0


def test_a_generation_that_goes_on_lets_the_next_one_be_skipped(house: House) -> None:
    house.add(timetable=Timetable(cron="0 3 * * *", zone="Europe/Berlin"))
    house.wait(DAY)
    house.scheduler.tick()
    house.wait(DAY)
    house.scheduler.tick()
    skipped = house.history()[1]
    assert (skipped.outcome, skipped.train) == (Outcome.SKIPPED, "")
    assert skipped.reason == ("the generation of 2026-01-02 03:00:00 +0100 was not decided yet")


def test_a_generation_that_goes_on_is_cancelled_for_the_next_one(house: House) -> None:
    house.add(overlap="cancel-previous")
    house.wait(DAY)
    house.scheduler.tick()
    house.wait(DAY)
    house.settle()
    first, second = house.history()
    assert (first.outcome, second.outcome) == (Outcome.CANCELLED, Outcome.PROMOTED)
    assert first.reason == "the generation of 2026-01-03 03:00:00 +0000 took its place"
    assert house.store.get(first.train).state is JobState.CANCELLED


def test_pausing_takes_the_due_time_away_and_what_passed_was_not_missed(house: House) -> None:
    house.add(missed="all", overlap="queue")
    house.schedules.pause("nightly")
    house.wait(3 * DAY)
    assert house.settle() == []
    assert house.schedules.resume("nightly").due == NOON + 15 * HOUR + 3 * DAY
    house.wait(DAY)
    assert len(house.settle()) == 1


def test_a_generation_is_asked_for_once_also_of_a_paused_schedule(house: House) -> None:
    house.add()
    house.schedules.pause("nightly")
    moment = house.schedules.ask("nightly")
    house.wait(MINUTE)
    assert house.schedules.ask("nightly") == moment
    (generation,) = house.settle()
    assert (generation.trigger, generation.due) == ("asked", moment)
    assert house.schedules.get("nightly").asked is None


def test_removing_cancels_what_is_under_way_and_then_forgets_it(house: House) -> None:
    house.add()
    house.wait(DAY)
    house.scheduler.tick()
    job = house.history()[0].train
    house.schedules.remove("nightly")
    house.settle()
    assert house.store.get(job).state is JobState.CANCELLED
    assert house.history() == [] == house.schedules.open()
    with pytest.raises(UnknownSchedule, match="no schedule is called 'nightly'"):
        house.schedules.get("nightly")
    left = house.store._client.keys(f"unroll:{house.store.keys.namespace}:*:*:nightly*")
    assert left == []


def test_a_name_is_taken_once(house: House) -> None:
    house.add()
    house.wait(1)
    with pytest.raises(NotAllowed, match="there is a schedule nightly: remove it first"):
        house.add()


def test_one_of_many_fires_and_no_due_time_comes_twice(house: House) -> None:
    house.add()
    many = [Scheduler(house.store) for _ in range(5)]
    for _ in range(3):
        house.wait(DAY)
        seen = [each._schedules.list() for each in many]  # all have looked before one fires
        for scheduler, (standing,) in zip(many, seen, strict=True):
            scheduler._fire(standing)
        house.settle()
    assert house.trainings() == 3
    assert len(house.history()) == 3


def test_of_very_many_generations_the_newest_are_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.scheduling.KEEP", 3)
    house.add()
    due = []
    for _ in range(5):
        house.wait(DAY)
        due.append(house.settle()[-1].due)
    assert [each.due for each in house.history()] == due[-3:]


#: What another version, or another machine, may have written of a schedule.
STRANGE = [
    {"timetable": {"cron": "0 3 * * *", "zone": "Europe/Nowhere"}},
    {"timetable": {"cron": "0 3 * * *", "moon": "full"}},
    {"gate": {"metric": "bleu", "mood": "good"}},
    {"spec": {**SPEC.to_dict(), "model": 7}},
    {"model": None},
]


@pytest.mark.parametrize("strange", STRANGE, ids=",".join)
def test_a_schedule_that_cannot_be_read_here_stops_no_other(
    house: House, strange: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    house.add()
    key = house.store.keys("schedules")
    said = json.loads(house.store._client.hget(key, "nightly"))
    other = json.dumps({**said, "name": "alien", **strange})
    house.store._client.hset(key, "alien", other)
    house.store._client.zadd(house.store.keys("due"), {"alien": NOON})
    house.wait(DAY)
    (generation,) = house.settle()
    assert generation.outcome is Outcome.PROMOTED
    assert [each.schedule.name for each in house.schedules.list()] == ["nightly"]
    assert caplog.text.count("schedule alien cannot be read here") == 1
    with pytest.raises(SpecError, match="schedule alien cannot be read here"):
        house.schedules.get("alien")
    house.schedules.remove("alien")
    with pytest.raises(UnknownSchedule):
        house.schedules.get("alien")


@pytest.mark.parametrize("strange", STRANGE, ids=",".join)
def test_what_is_open_of_a_schedule_that_cannot_be_read_here_is_left_to_who_can(
    house: House, strange: dict[str, Any]
) -> None:
    house.add()
    house.wait(DAY)
    house.scheduler.tick()
    keys, client = house.store.keys, house.store._client
    known = client.hget(keys("schedules"), "nightly")
    other = json.dumps({**json.loads(known), **strange})
    (generation,) = house.schedules.open()
    record = keys("generation", generation.id)
    client.hset(keys("schedules"), "nightly", other)
    client.hset(record, "definition", other)
    body = json.loads(client.hget(record, "body"))
    client.hset(record, "body", json.dumps({**body, "colour": "red"}))
    (left,) = house.settle()
    assert (left.stage, left.step) == (Stage.TRAINING, generation.step)
    client.hset(keys("schedules"), "nightly", known)
    client.hset(record, "definition", known)
    assert house.settle()[-1].outcome is Outcome.PROMOTED


def test_a_warm_training_begins_with_the_champion(house: House) -> None:
    house.shares = [0.4, 0.8]
    house.add(warm=True)
    for _ in range(2):
        house.wait(DAY)
        house.settle()
    first, second = (house.store.get(each.train) for each in house.history())
    assert "warm_from" not in first.spec
    assert second.spec["warm_from"] == first.id
    assert house.registry.get("de-en").version(2).parent == 1


def test_a_verdict_whose_bearer_died_is_carried_out_by_another_once(house: House) -> None:
    house.add()
    house.wait(DAY)

    class Died(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Died

    retraining = house.scheduler._retraining
    retraining._carry_out = die  # type: ignore[method-assign, assignment]
    with pytest.raises(Died):
        house.settle()
    (generation,) = house.history()
    assert generation.stage is Stage.DECIDING
    other = Scheduler(house.store)
    other.tick()
    assert house.history()[0].stage is Stage.DECIDING, "the first may yet be at it"
    house.wait(MINUTE)
    other.tick()
    assert house.history()[0].outcome is Outcome.PROMOTED
    assert house.trail() == [("registered", 1), ("promoted", 1)]


def test_a_verdict_that_was_carried_out_is_not_told_twice(house: House) -> None:
    house.shares = [0.6, 0.3]
    house.add()
    house.wait(DAY)
    house.settle()
    house.wait(DAY)
    move = house.schedules.move

    class Died(BaseException):
        pass

    def die_at_the_end(seen: Generation, stage: Stage, **changes: Any) -> Generation | None:
        if stage is Stage.DECIDED:
            raise Died
        return move(seen, stage, **changes)

    house.scheduler._retraining._schedules.move = die_at_the_end  # type: ignore[method-assign]
    with pytest.raises(Died):
        house.settle()
    house.wait(MINUTE)
    Scheduler(house.store).tick()
    assert house.history()[-1].outcome is Outcome.KEPT
    assert house.trail()[-2:] == [("registered", 2), ("kept", 2)]
