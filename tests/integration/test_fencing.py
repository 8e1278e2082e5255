"""Every script of an attempt, with every kind of stale token: refused, and nothing is written."""

from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from typing import Any
from uuid import uuid4

import pytest

from jobs.errors import StaleToken
from jobs.job import Checkpoint, JobState, Lease, Reason
from jobs.spec import Component, Policy, TrainSpec
from jobs.store import JobStore
from jobs.store.records import plain, write_checkpoint
from jobs.store.scripts import load
from jobs.workers import Worker
from tests.doubles.clock import Clock

TTL = 10.0
SPEC = TrainSpec(
    model=Component("m"), data=Component("d"), retries=9, policy=Policy(retry_seconds=0)
)
WORKER = Worker(id="w", slots=9, free_slots=9, store="s")

NAMES = [
    file.name.removesuffix(".lua")
    for file in (resources.files("jobs.store") / "lua").iterdir()
    if file.name != "common.lua"
]
FENCED = sorted(name for name in NAMES if "attempt" in load(name).arguments)
#: What the scripts take beside the job and the token.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "renew": {"ttl": 10_000},
    "report": {
        "points": plain([["val/loss", 9, "text"]]),
        "progress": "{}",
        "lines": plain(["line"]),
        "nonce": "new",
        "keep": 10,
    },
    "pack": {"before": "0", "last": 1, "chunk": b"chunk"},
    "publish": {"checkpoint": write_checkpoint(Checkpoint("k", "d", 99, 1)), "best": 1},
    "put_file": {"name": "file", "content": b"content", "bound": 1_000},
    "finish": {
        "reason": "succeeded",
        "message": "",
        "traceback": "",
        "result": "{}",
        "evidence": "",
    },
    "retract": {"artifact": "k"},
}


def take(store: JobStore) -> Lease:
    found = store.acquire(WORKER, TTL)
    assert found is not None
    return found[1]


def handed_back(store: JobStore, clock: Clock, lease: Lease) -> None:
    store.release(lease)


def ran_out(store: JobStore, clock: Clock, lease: Lease) -> None:
    for _ in range(5):
        store.sweep(TTL)
        clock.now += 4_000
    assert store.get(lease.job).state is JobState.QUEUED


def taken_over(store: JobStore, clock: Clock, lease: Lease) -> None:
    ran_out(store, clock, lease)
    assert take(store) == replace(lease, attempt=2, expires=clock.now + 10_000)


def paused(store: JobStore, clock: Clock, lease: Lease) -> None:
    store.pause(lease.job)
    store.release(lease)


def delayed(store: JobStore, clock: Clock, lease: Lease) -> None:
    store.release(lease)
    store.release(take(store))
    assert store.acquire(WORKER, TTL) is None


def failed(store: JobStore, clock: Clock, lease: Lease) -> None:
    store.finish(lease, Reason.USER_ERROR)


def cancelled(store: JobStore, clock: Clock, lease: Lease) -> None:
    store.cancel(lease.job)
    store.finish(lease, Reason.CANCELLED)


def asked_again(store: JobStore, clock: Clock, lease: Lease) -> None:
    failed(store, clock, lease)
    store.retry(lease.job)


def in_another_round(store: JobStore, clock: Clock, lease: Lease) -> None:
    asked_again(store, clock, lease)
    take(store)


def removed(store: JobStore, clock: Clock, lease: Lease) -> None:
    failed(store, clock, lease)
    store.remove(lease.job)


LOSSES = [
    handed_back, ran_out, taken_over, paused, delayed, failed, cancelled, asked_again,
    in_another_round, removed,
]  # fmt: skip


def test_every_fenced_script_is_tried() -> None:
    assert sorted(ARGUMENTS) == FENCED


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("script", FENCED)
def test_no_fenced_script_takes_a_stale_token(
    client: Any, script: str, lose: Callable[[JobStore, Clock, Lease], None]
) -> None:
    clock = Clock()
    store = JobStore(client, uuid4().hex, clock=clock)
    store.create(SPEC)
    lease = take(store)
    lose(store, clock, lease)

    def everything() -> dict[bytes, bytes]:
        keys = sorted(client.keys(f"unroll:{store.keys.namespace}:*"))
        return {key: client.dump(key) for key in keys}

    before = everything()
    for token in (lease.attempt, lease.attempt + 7, 0, -1, "1 ", "", "nan"):
        with pytest.raises(StaleToken, match=r"may write no more|was removed"):
            store._run(script, id=lease.job, attempt=token, **ARGUMENTS[script])
        assert everything() == before


@pytest.mark.parametrize("script", FENCED)
def test_with_the_token_each_writes(client: Any, script: str) -> None:
    store = JobStore(client, uuid4().hex, clock=Clock())
    store.create(SPEC)
    lease = take(store)
    store._run(script, id=lease.job, attempt=lease.attempt, **ARGUMENTS[script])
