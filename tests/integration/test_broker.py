"""Rings over a real Redis: what is sent, and that nobody waits for a service that is gone."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from jobs.broker import TASK, make_app, ring
from jobs.connection import connect
from jobs.store import JobStore


def waiting_rings(client: "redis.Redis", store: JobStore, queue: str) -> Any:
    return client.llen(f"{store.keys.celery}{queue}")


def all_keys(client: Any) -> set[bytes]:
    return set(client.keys())


class AlwaysRings(JobStore):
    """A store whose bell is never muted, also where no Redis could tell."""

    def bell(self, queue: str) -> bool:
        return True


def test_rings_are_coalesced_and_each_queue_has_its_own(
    redis_server: Any, client: "redis.Redis", store: JobStore
) -> None:
    for _ in range(3):
        ring("default", store)
    ring("gpu", store)
    assert waiting_rings(client, store, "default") == 1
    assert waiting_rings(client, store, "gpu") == 1


def test_a_ring_is_what_celery_itself_would_leave(
    redis_server: Any, client: "redis.Redis", store: JobStore
) -> None:
    key = f"{store.keys.celery}gpu"
    ring("gpu", store)
    make_app(redis_server.url, store.keys.namespace).send_task(
        TASK, args=("gpu",), queue="gpu", ignore_result=True
    )
    theirs, ours = (json.loads(each) for each in client.lrange(key, 0, -1))  # type: ignore[union-attr]
    assert ours["body"] == theirs["body"]
    assert ours.keys() == theirs.keys()
    its_own = {"id", "root_id"}
    said = {name: value for name, value in ours["headers"].items() if name not in its_own}
    assert said.items() <= theirs["headers"].items()
    assert (
        ours["headers"]["id"] == ours["headers"]["root_id"] == ours["properties"]["correlation_id"]
    )
    where = ("delivery_info", "delivery_mode", "priority", "body_encoding")
    assert [ours["properties"][each] for each in where] == [
        theirs["properties"][each] for each in where
    ]


def test_every_key_of_a_ring_stands_in_the_namespace(
    redis_server: Any, client: "redis.Redis", store: JobStore
) -> None:
    before = all_keys(client)
    ring("default", store)
    made = all_keys(client) - before
    namespace = f"unroll:{store.keys.namespace}:".encode()
    assert made
    assert [key for key in made if not key.startswith(namespace)] == []


@pytest.mark.parametrize("password", ["", "s/e:c@r?et%"])
def test_a_threads_worker_takes_rings_of_its_queues(
    make_server: Callable[..., Any], password: str
) -> None:
    server = make_server(password=password)
    with connect(server.login_url) as client:
        store = JobStore(client)
        app = make_app(server.login_url)
        taken: Queue[str] = Queue()
        app.task(name=TASK, shared=False)(taken.put)
        ring("gpu", store)
        options = {"pool": "threads", "concurrency": 2, "perform_ping_check": False}
        with start_worker(app, queues=["default", "gpu"], **options):
            assert taken.get(timeout=20) == "gpu"
            ring("default", store)
            assert taken.get(timeout=20) == "default"
            assert client.keys("*pidbox*") == [], "nobody else tells a worker what to do"
        assert client.keys(f"{store.keys.celery}unacked*") == []


@contextmanager
def frozen(pid: int) -> Any:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_ring_gives_up_where_nobody_answers(make_server: Callable[..., Any]) -> None:
    server = make_server()
    store = AlwaysRings(connect(server.url))
    ring("default", store)
    begun = time.monotonic()
    with frozen(server.pid):
        ring("default", store)
    server.kill()
    ring("default", store)
    ring("default", JobStore(connect(server.url)))
    assert time.monotonic() - begun < 60  # without limits of its own it would wait for ever
