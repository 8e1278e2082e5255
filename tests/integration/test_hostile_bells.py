"""Who may ring may put anything into the queue of bells: nothing of it is run, and work goes on."""

import base64
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.broker import TASK
from jobs.connection import connect
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from tests.doubles.service import Workers
from tests.doubles.waiting import eventually

SPEC = TrainSpec(model=Component("double", {"steps": 3}), data=Component("none"))


class Bomb:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def message(body: bytes, kind: str, task: str = TASK) -> str:
    """Return what kombu puts into a list, with this body of this kind."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": kind,
            "headers": {"lang": "py", "task": task, "id": uuid4().hex, "argsrepr": "()"},
            "properties": {
                "body_encoding": "base64",
                "correlation_id": uuid4().hex,
                "delivery_info": {"exchange": "", "routing_key": "default"},
                "delivery_mode": 1,
                "delivery_tag": uuid4().hex,
                "priority": 0,
            },
        }
    )


@pytest.fixture
def workers(redis_server: Any, tmp_path: Path) -> Iterator[Workers]:
    with connect(redis_server.url) as client:
        started = Workers(tmp_path / "home", redis_server.url, JobStore(client, uuid4().hex))
        yield started
        started.clear()


def test_nothing_that_is_put_in_for_a_bell_is_run(
    workers: Workers, client: Any, tmp_path: Path
) -> None:
    store, bells = workers.store, f"{workers.store.keys.celery}default"
    worker = workers.start()
    first = store.create(SPEC)
    eventually(lambda: store.get(first.id).state.ended)
    bomb = pickle.dumps(Bomb(tmp_path / "it went off"), protocol=2)
    no_task = json.dumps([[], {}, {}]).encode()
    for hostile in (
        message(bomb, "application/x-python-serialize"),
        message(bomb, "application/x-yaml"),
        message(no_task, "application/json", task="os.system"),
        message(no_task, "application/json", task="celery.backend_cleanup"),
    ):
        client.lpush(bells, hostile)
    eventually(lambda: not client.exists(bells), "nobody has heard them")
    for malformed in (message(b'{"not": "a list"}', "application/json"), "{}", "no json at all"):
        client.lpush(bells, malformed)  # Celery may give up: jobs are found without it
    for _ in range(2):
        after = store.create(SPEC)
        eventually(lambda job=after: store.get(job.id).state.ended)
    assert worker.poll() is None
    assert not (tmp_path / "it went off").exists()
