"""Ninety nights of retraining, with the clock under the test's control.

The zone is Morocco's, which sets its clocks back for Ramadan and forward again 35 days later: both
within one quarter, at the very hour of the nightly training. What models say is made of what real
ones said (`tests/doubles/outputs.py`); store, transitions, tick, registry and statistics are the
real ones, and schedulers and server die at any call.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from jobs.errors import ServiceUnreachable
from jobs.gate import Gate
from jobs.job import Job
from jobs.registry import Registry
from jobs.schedules import Generation, Outcome, Schedule, Stage
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore
from jobs.timetable import Timetable
from lightning_modules._row_scores import RowScores
from tests.doubles.mill import Mill
from tests.doubles.mortal import Killed, mortal
from tests.doubles.outputs import Outputs
from worker.new_data import NewData
from worker.scheduler import Scheduler

ZONE = ZoneInfo("Africa/Casablanca")
FIRST, NIGHTS = date(2026, 1, 10), 90
#: The night whose 02:30 comes twice, and the one that has none.
TWICE, NEVER = date(2026, 2, 15), date(2026, 3, 22)
#: Nights, by their number, at which no worker ran, on whose evening new data came, and before
#: which somebody shuffled the labels.
AWAY, NEW_DATA, SHUFFLED = range(40, 43), (12, 25, 50, 61, 77), 68
KILLS, RESTARTS, SCHEDULERS = 50, 5, 3
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def due_at(night: date) -> int:
    """Return when the training of a night is due, worked out by hand."""
    hour, minute = (3, 0) if night == NEVER else (2, 30)
    moment = datetime(night.year, night.month, night.day, hour, minute, tzinfo=ZONE, fold=0)
    return round(moment.timestamp() * 1000)


NIGHT = [FIRST + timedelta(days=number) for number in range(NIGHTS)]
DUE = [due_at(night) for night in NIGHT]


class Quarter:
    """A service whose schedulers and server die at any call."""

    def __init__(self, server: Any, data: Path, chance: random.Random) -> None:
        self.server, self.chance = server, chance
        self.time = DUE[0] - 12 * HOUR
        self.kills = self.restarts = 0
        self._calls_to_kill, self._calls_to_restart = 0, 0
        self._lock = Lock()
        self._data = data
        self.store = self._store(lambda: None)
        self.schedules = self.store.beside(ScheduleStore)
        self.registry = self.store.beside(Registry)
        self.outputs = Outputs()
        self.mill = Mill(self.store, self._says)
        self.workers = [self._worker() for _ in range(SCHEDULERS)]
        self.learned = 0
        self._trained_on: dict[str, tuple[int, bool]] = {}
        self.is_shuffled = False

    def _store(
        self, before: Callable[[], None], after: Callable[[], None] = lambda: None
    ) -> JobStore:
        client = mortal(self.server.url, before, after)
        return JobStore(client, "quarter", lambda: self.time)

    def _worker(self) -> tuple[Scheduler, NewData]:
        """Return a worker that was just started."""
        store = self._store(self._fate, self._fate)
        scheduler = Scheduler(store)
        return scheduler, NewData(store, scheduler, roots=[self._data], queues=["default"])

    def _fate(self) -> None:
        """Die, or restart the server, once so many calls were made."""
        with self._lock:
            self._calls_to_kill -= 1
            self._calls_to_restart -= 1
            dies = self._calls_to_kill == 0
            if self._calls_to_restart == 0:
                self.restarts += 1
                self.server.kill()
                self.server.start()
        if dies:
            self.kills += 1
            raise Killed

    def kill_soon(self) -> None:
        """Let a scheduler die at one of its next calls, whichever does it."""
        self._calls_to_kill = self.chance.randint(1, 60)

    def restart_soon(self) -> None:
        """Let the server die at one of the next calls."""
        self._calls_to_restart = self.chance.randint(1, 60)

    def round(self) -> None:
        """Let all workers tick at the same time; those that die are started again."""
        with ThreadPoolExecutor(SCHEDULERS) as pool:
            lived = list(pool.map(self._tick, self.workers))
        self.workers = [
            worker if lives else self._worker()
            for worker, lives in zip(self.workers, lived, strict=True)
        ]

    @staticmethod
    def _tick(worker: tuple[Scheduler, NewData]) -> bool:
        try:
            with suppress(ServiceUnreachable):
                worker[0].tick()
                worker[1].look()
        except Killed:
            return False
        return True

    def settle(self) -> None:
        """Work until every generation is decided."""
        for _ in range(40):
            self.round()
            self.note_trainings()
            self.mill.turn()
            self.time += MINUTE
            if not self.schedules.open():
                return
        raise AssertionError("a generation is not decided after 40 rounds")

    def note_trainings(self) -> None:
        """Keep what data each training has seen."""
        for generation in self.schedules.open():
            self._trained_on.setdefault(generation.train, (self.learned, self.is_shuffled))

    def _says(self, trained: Job, _set: str) -> RowScores:
        learned, shuffled = self._trained_on[trained.id]
        if shuffled:
            return self.outputs.shuffled()
        rng = np.random.default_rng(int.from_bytes(trained.id.encode()[-6:]))
        return self.outputs.better(rng, learned / len(NEW_DATA))

    def history(self) -> list[Generation]:
        return self.schedules.history("nightly")


@pytest.fixture(scope="module")
def quarter(
    make_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Quarter]:
    """Return the quarter after its end."""
    data = tmp_path_factory.mktemp("quarter")
    (data / "corpus").mkdir()
    (data / "corpus" / "train.en").write_text("the first day\n")
    quarter = Quarter(make_server(durable=True), data, random.Random(7))
    spec = TrainSpec(model=Component("m"), data=Component("d", {"root": "corpus"}))
    quarter.schedules.add(
        Schedule(
            name="nightly",
            model="de-en",
            spec=spec.to_dict(),
            gate=Gate(metric="bleu"),
            timetable=Timetable(cron="30 2 * * *", zone=ZONE.key),
            on_data=True,
            created=quarter.time,
        )
    )
    live_through(quarter, data)
    return quarter


def live_through(quarter: Quarter, data: Path) -> None:
    """Let ninety nights pass."""
    chance = quarter.chance
    there = [number for number in range(NIGHTS) if number not in AWAY]
    restarts = chance.sample(there, RESTARTS)
    quarter.round()
    quarter.round()  # what data there is counts after two looks
    for number, due in enumerate(DUE):
        if number in AWAY:
            continue
        quarter.is_shuffled = number == SHUFFLED
        quarter.time = due - 4 * HOUR
        quarter.settle()
        quarter.time = due + chance.randint(0, 2 * MINUTE)
        if quarter.kills < KILLS:
            quarter.kill_soon()
        if number in restarts:
            quarter.restart_soon()
        quarter.settle()
        if number in NEW_DATA:
            new_data(quarter, data, number, due)


def new_data(quarter: Quarter, data: Path, number: int, due: int) -> None:
    quarter.time = due + 9 * HOUR
    quarter.learned += 1
    (data / "corpus" / f"train-{number}.en").write_text(f"day {number}\n")
    quarter.round()
    quarter.round()
    quarter.settle()


def by_trigger(quarter: Quarter, trigger: str) -> list[Generation]:
    return [each for each in quarter.history() if each.trigger == trigger]


def test_schedulers_and_server_died_as_often_as_they_should(quarter: Quarter) -> None:
    assert (quarter.kills, quarter.restarts) == (KILLS, RESTARTS)


def test_no_night_is_missed_or_doubled(quarter: Quarter) -> None:
    fired = by_trigger(quarter, "time")
    # The last night of the absence was made up for, and stands for those before it, too.
    absent = AWAY[:-1]
    assert [each.due for each in fired] == [
        due for number, due in enumerate(DUE) if number not in absent
    ]
    assert {each.due: each.missed for each in fired if each.missed} == {DUE[AWAY[-1]]: len(absent)}
    assert all(each.stage is Stage.DECIDED for each in quarter.history())
    assert Counter(each.outcome for each in fired).keys() == {Outcome.PROMOTED, Outcome.KEPT}


def test_both_changes_of_the_clock_were_among_the_nights() -> None:
    offsets = [datetime.fromtimestamp(due / 1000, ZONE).utcoffset() for due in DUE]
    hours = [offset // timedelta(hours=1) for offset in offsets if offset is not None]
    changes = [NIGHT[n] for n in range(1, NIGHTS) if hours[n] != hours[n - 1]]
    assert changes == [TWICE + timedelta(days=1), NEVER]


def test_each_training_was_queued_once(quarter: Quarter) -> None:
    trainings = [each for each in quarter.store.list(limit=5000) if each.kind == "train"]
    assert sorted(each.id for each in trainings) == sorted(each.train for each in quarter.history())


def test_new_data_brought_a_training_each_time(quarter: Quarter) -> None:
    fired = by_trigger(quarter, "data")
    assert [each.due // DAY for each in fired] == [
        (DUE[number] + 9 * HOUR) // DAY for number in NEW_DATA
    ]


def test_the_model_of_shuffled_labels_was_kept_out(quarter: Quarter) -> None:
    (bad,) = [each for each in quarter.history() if each.due == DUE[SHUFFLED]]
    assert bad.outcome is Outcome.KEPT
    assert bad.reason.startswith("the champion is kept: no better on the test set: bleu ")
    assert bad.evidence["test"]["challenger"] < 5 < bad.evidence["test"]["champion"]


def test_models_became_better_with_the_data(quarter: Quarter) -> None:
    promoted = [each for each in quarter.history() if each.outcome is Outcome.PROMOTED]
    scores = [each.evidence["test"]["challenger"] for each in promoted]
    assert scores == sorted(scores)
    assert scores[-1] - scores[0] > 1
    assert len(promoted) < NIGHTS / 4, "most nights bring nothing new, and the gate says so"


def test_the_trail_tells_the_story_once(quarter: Quarter) -> None:
    told = quarter.registry.history("de-en")
    decided = [each for each in told if each.action in ("promoted", "kept")]
    names = [each.evidence["generation"] for each in decided]
    assert names == [each.id for each in quarter.history()]
    champion = None
    for event, generation in zip(decided, quarter.history(), strict=True):
        assert (event.version, event.reason) == (generation.version, generation.reason)
        assert event.action == generation.outcome
        assert event.before == generation.champion == champion
        champion = event.version if event.action == "promoted" else champion
    assert quarter.registry.get("de-en").champion == champion


def test_the_champion_before_is_back_by_one_call(quarter: Quarter) -> None:
    promoted = [each.version for each in quarter.history() if each.outcome is Outcome.PROMOTED]
    assert quarter.registry.rollback("de-en", by="test").champion == promoted[-2]
    assert quarter.registry.history("de-en")[-1].action == "rolled_back"
