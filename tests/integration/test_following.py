"""Who follows a job through the death of Redis misses nothing, repeats nothing, in order."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs.client import Client
from jobs.errors import ServiceUnreachable
from jobs.job import JobState, Lease, Reason
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore, new_nonce
from jobs.workers import Worker
from tests.doubles.waiting import eventually
from worker.events import MetricEvent

SPEC = TrainSpec(model=Component("m"), data=Component("d"))
STEPS = 300


class Writer:
    """Report a step after the other, each until it was answered, as a relay does."""

    def __init__(self, store: JobStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        #: The last step that was acknowledged.
        self.acknowledged = 0
        #: Set when the rest may follow.
        self.goes_on = threading.Event()

    def write(self) -> None:
        for step in range(1, STEPS + 1):
            self._insist(step)
            self.acknowledged = step
            if step == STEPS // 3:
                self.goes_on.wait(20)
        self._store.finish(self._lease, Reason.SUCCEEDED)

    def _insist(self, step: int) -> None:
        point, nonce = MetricEvent("train/loss", 1 / step, step, 1, 0.0), new_nonce()

        def report() -> bool:
            try:
                self._store.report(self._lease, points=[point], lines=[f"line {step}"], nonce=nonce)
            except ServiceUnreachable:
                return False
            return True

        eventually(report)


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    return make_server(durable=True)


@pytest.fixture
def person(server: Any) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_a_follower_goes_on_from_its_cursor_after_redis_was_killed(
    server: Any, person: Client
) -> None:
    job = person.submit(SPEC)
    with Client(server.url) as other, ThreadPoolExecutor(3) as pool:
        found = other.store.acquire(Worker(id="w", store="s"), ttl=600)
        assert found is not None
        writer = Writer(other.store, found[1])
        writing = pool.submit(writer.write)
        points = pool.submit(lambda: list(other.get(job.id).metrics(follow=True)))
        lines = pool.submit(lambda: list(other.get(job.id).logs(follow=True)))
        mine = job.metrics(follow=True)
        seen = list(itertools.islice(mine, STEPS // 4))
        eventually(lambda: writer.acknowledged == STEPS // 3)
        server.kill()
        writer.goes_on.set()
        server.start()
        seen += mine
        writing.result(timeout=60)
        for each in (seen, points.result(timeout=60)):
            assert [point.cursor for point in each] == list(range(1, STEPS + 1))
            assert [point.step for point in each] == list(range(1, STEPS + 1))
        assert lines.result(timeout=60) == [f"line {step}" for step in range(1, STEPS + 1)]
    assert job.state is JobState.SUCCEEDED


def test_a_cursor_of_before_is_good_after(server: Any, person: Client) -> None:
    job = person.submit(SPEC)
    found = person.store.acquire(Worker(id="w", store="s"), ttl=600)
    assert found is not None
    writer = Writer(person.store, found[1])
    writer.goes_on.set()
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(writer.write)
        server.start()
        writing.result(timeout=60)
    for since in (0, 1, STEPS - 1, STEPS):
        got = [point.step for point in job.metrics(since=since)]
        assert got == list(range(since + 1, STEPS + 1))
