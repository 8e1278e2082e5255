"""What waits before a retry: for how long, and how a person cuts it short."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from jobs.job import JobState, Lease, Reason
from jobs.spec import Component, Policy, Resources, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker
from tests.doubles.clock import Clock

TTL = 10.0
SPEC = TrainSpec(model=Component("m"), data=Component("d"), retries=100)
WORKER = Worker(id="w", slots=9, free_slots=9, store="s")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(client: Any, clock: Clock) -> JobStore:
    return JobStore(client, uuid4().hex, clock=clock)


def take(store: JobStore) -> Lease | None:
    found = store.acquire(WORKER, TTL)
    return found[1] if found else None


def waits_of(store: JobStore, clock: Clock, reason: Reason, times: int) -> list[float]:
    """End one attempt after the other so; return the seconds until each next one began."""
    waits = []
    lease = take(store)
    for _ in range(times):
        assert lease is not None
        assert store.finish(lease, reason) is JobState.QUEUED
        ended = clock.now
        while (lease := take(store)) is None:
            clock.now += 500
            assert clock.now < ended + 1_000_000, "it never comes back"
        waits.append((clock.now - ended) / 1000)
    return waits


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.PREEMPTED, Reason.INFRASTRUCTURE])
def test_the_first_free_retry_comes_at_once_and_the_others_wait_longer_and_longer(
    store: JobStore, clock: Clock, reason: Reason
) -> None:
    store.create(SPEC)
    assert waits_of(store, clock, reason, 4) == [0, 1, 2, 4]


def test_counted_retries_double_their_wait_up_to_a_bound(store: JobStore, clock: Clock) -> None:
    store.create(SPEC)
    waits = waits_of(store, clock, Reason.HUNG, 9)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize(
    ("seconds", "longest", "waits"), [(0, 300, [0, 0, 0]), (2, 3, [2, 3, 3]), (9, 0, [0, 0, 0])]
)
def test_the_policy_says_how_long(
    store: JobStore, clock: Clock, seconds: float, longest: float, waits: list[float]
) -> None:
    policy = Policy(retry_seconds=seconds, retry_max_seconds=longest)
    store.create(replace(SPEC, policy=policy))
    assert waits_of(store, clock, Reason.HUNG, 3) == waits


def delayed(store: JobStore) -> str:
    """Return a job that waits before a retry."""
    job = store.create(SPEC).id
    lease = take(store)
    assert lease is not None
    store.finish(lease, Reason.HUNG)
    assert take(store) is None
    return job


def test_what_is_delayed_is_queued_and_comes_back_to_its_place(
    store: JobStore, clock: Clock
) -> None:
    job = delayed(store)
    younger = store.create(SPEC).id
    assert [each.id for each in store.list(JobState.QUEUED)] == [younger, job]
    clock.now += 5_000
    first, second = take(store), take(store)
    assert first is not None
    assert second is not None
    assert (first.job, second.job) == (job, younger)


def test_the_sweep_brings_it_back_too_and_rings(store: JobStore, clock: Clock) -> None:
    delayed(store)
    store.announce(WORKER, 60)
    store.sweep(TTL)
    assert store.sweep(TTL).bells == []
    clock.now += 5_000
    assert store.sweep(TTL).bells == ["default"]


def test_a_clock_that_was_set_back_delays_nothing_for_as_long_as_it_was(
    store: JobStore, clock: Clock
) -> None:
    job = delayed(store)
    store.sweep(TTL)
    clock.now -= 3_600_000
    store.sweep(TTL)
    lease = take(store)
    assert lease is not None
    assert lease.job == job


def test_retry_means_now_in_the_same_round(store: JobStore) -> None:
    job = delayed(store)
    store.retry(job)
    assert store.get(job).retries_used == 1, "it is the retry that it was, only earlier"
    lease = take(store)
    assert lease == replace(lease, job=job, attempt=2) if lease else pytest.fail("no job came")


def test_cancel_acts_at_once_and_nothing_comes_back(store: JobStore, clock: Clock) -> None:
    job = delayed(store)
    store.cancel(job)
    assert store.get(job).state is JobState.CANCELLED
    clock.now += 60_000
    store.sweep(TTL)
    assert take(store) is None


def test_pause_acts_at_once_and_who_goes_on_waits_no_longer(store: JobStore, clock: Clock) -> None:
    job = delayed(store)
    store.pause(job)
    assert store.get(job).state is JobState.PAUSED
    clock.now += 60_000
    store.sweep(TTL)
    assert take(store) is None
    store.resume(job)
    assert take(store) is not None


def test_it_waits_in_any_queue(store: JobStore, clock: Clock) -> None:
    job = store.create(replace(SPEC, resources=Resources(queue="other"))).id
    other = replace(WORKER, queues=("other",))
    found = store.acquire(other, TTL)
    assert found is not None
    store.finish(found[1], Reason.HUNG)
    clock.now += 5_000
    assert take(store) is None, "another queue's worker lets it go, and takes it not"
    again = store.acquire(other, TTL)
    assert again is not None
    assert again[0].id == job
