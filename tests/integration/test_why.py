"""Why a job is where it is, asked of a real store at each turn of its life."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from jobs.catalog import Catalog
from jobs.job import JobState, Reason
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker, own_version
from tests.doubles.clock import Clock

TTL = 10.0
SPEC = TrainSpec(model=Component("m"), data=Component("d"), retries=5)
WORKER = Worker(id="w3", slots=2, free_slots=2, store="s")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(client: Any, clock: Clock) -> JobStore:
    store = JobStore(client, uuid4().hex, clock=clock)
    store.announce(WORKER, ttl=1_000)
    return store


def test_a_life(store: JobStore, clock: Clock) -> None:
    job = store.create(SPEC).id
    assert store.why(job) == "queued: next in turn; a worker takes it in a moment"
    found = store.acquire(WORKER, TTL)
    assert found is not None
    clock.now += 4_000
    said = store.why(job)
    assert said.startswith("running on w3 since ")
    assert said.endswith(" (4s), attempt 1; last word 4s ago")
    store.report(found[1], lines=["a word"])
    assert store.why(job).endswith("last word 0s ago")
    store.finish(found[1], Reason.HUNG, message="no step for a minute")
    clock.now += 1_000
    assert store.why(job) == (
        "queued: retry 1 of 5 in 4 s; attempt 1 ended as hung: no step for a minute"
    )


def test_a_lease_that_ran_out(store: JobStore, clock: Clock) -> None:
    job = store.create(SPEC).id
    store.acquire(WORKER, TTL)
    for _ in range(4):
        store.sweep(TTL)
        clock.now += 4_000
    assert store.get(job).state is JobState.QUEUED
    assert "; attempt 1 ended as lost: the lease of w3 ran out at " in store.why(job)


@pytest.mark.parametrize(
    ("version", "fits"),
    [("", True), ("unknown", True), ("0.0.9", False), ("99.0", True), (own_version(), True)],
)
def test_a_worker_older_than_who_submitted_leaves_the_job_to_others(
    store: JobStore, version: str, fits: bool
) -> None:
    job = store.create(SPEC).id
    worker = replace(WORKER, version=version)
    store.announce(worker, ttl=1_000)
    if not fits:
        assert store.why(job) == (
            f"queued: submitted by version {own_version()}, and the worker w3 is of {version}: "
            "upgrade a worker"
        )
    assert (store.acquire(worker, TTL) is not None) == fits


def test_a_patch_of_a_release_reads_the_same_specs(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.submitting.own_version", lambda: "1.2.9")
    store.create(SPEC)
    assert store.acquire(replace(WORKER, version="1.1.9"), TTL) is None
    assert store.acquire(replace(WORKER, version="1.2.0"), TTL) is not None


def test_a_worker_of_other_code_is_named_where_the_spec_is_refused(store: JobStore) -> None:
    job = store.create(SPEC).id
    found = store.acquire(replace(WORKER, catalog="of old"), TTL)
    assert found is not None
    assert found[0].catalog == "of old"
    store.finish(found[1], Reason.USER_ERROR, message="no such topology")
    assert store.why(job) == "failed (user_error): no such topology"
    store.publish_catalog(["default"], Catalog({}, {}), "w4")
    said = store.why(job)
    assert "w3 ran other code (catalogue of old) than the newest worker of its queue" in said
    assert Catalog({}, {}).digest[:8] in said
