"""A Redis whose memory is full and that throws nothing away: what goes on, and what waits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.job import Checkpoint, JobState, Lease, Reason
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker

TTL = 10.0
SPEC = TrainSpec(model=Component("m"), data=Component("d"))
WORKER = Worker(id="w", slots=9, free_slots=9, store="s")
FULL = "the service's memory is full; remove jobs with `unroll rm`, or raise its maxmemory"


class House:
    """A Redis whose memory can be full."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.store = JobStore(client)

    def fill(self) -> None:
        self._client.config_set("maxmemory", "1mb")

    def widen(self) -> None:
        self._client.config_set("maxmemory", "0")


@pytest.fixture
def house(make_server: Callable[..., Any]) -> Iterator[House]:
    server = make_server("--maxmemory-policy", "noeviction")
    with connect(server.url) as client:
        yield House(client)


def take(store: JobStore) -> Lease:
    found = store.acquire(WORKER, TTL)
    assert found is not None
    return found[1]


def test_with_full_memory_leases_live_and_jobs_end(house: House) -> None:
    store = house.store
    for _ in range(3):
        store.create(SPEC)
    goes_on, ends = take(store), take(store)
    house.fill()
    with pytest.raises(ServiceUnreachable, match=FULL):
        store.create(SPEC)
    with pytest.raises(ServiceUnreachable, match=FULL):
        store.report(goes_on, lines=["waits in its file"])
    store.announce(WORKER, TTL)
    assert store.renew(goes_on, TTL) == ""
    store.publish(goes_on, Checkpoint("k", "d", 1, 1), best=True)
    assert store.finish(ends, Reason.SUCCEEDED) is JobState.SUCCEEDED
    assert store.sweep(TTL).expired == []
    store.cancel(goes_on.job)
    assert store.renew(goes_on, TTL) == "cancel"
    assert store.finish(goes_on, Reason.CANCELLED) is JobState.CANCELLED
    store.remove(ends.job)
    assert len(store.list()) == 2
    house.widen()
    store.create(SPEC)
    store.report(take(store), lines=["line"])
