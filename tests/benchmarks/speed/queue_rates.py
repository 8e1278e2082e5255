"""How fast the queue is, and what it costs to look at, as it grows.

One real Redis server as `unroll up` starts it, and a worker that publishes its catalogue, takes
jobs and does not run them. What grows with the number of jobs shows: every figure at the full size
stands beside the same figure at a hundredth of it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from jobs.artifacts import ArtifactStore
from jobs.cli import main as unroll
from jobs.client import Client
from jobs.connection import connect
from jobs.job import Reason
from jobs.service.embedded import EmbeddedRedis
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker
from tests.benchmarks.speed._measure import Row, seconds
from worker.events import MetricEvent, ProgressEvent
from worker.folder import AttemptFolder
from worker.relay import Relay
from worker.runner.catalog import whole_catalog

JOBS: Final = 10_000
FEW: Final = JOBS // 100
#: Calls whose median is one figure.
CALLS: Final = 100
#: Seconds of a lease: longer than the benchmark takes.
LEASE: Final = 3600.0
WORKER: Final = Worker(id="bench", store="bench")
#: Events that wait for the relay: of steps that each report four metrics and their progress.
STEPS: Final = 2_000
#: What takes a user or a worker how long, at most, however long the queue is; our own goals.
GOALS: Final = {
    "submit": "<= 5 ms",
    "acquire": "<= 1 ms",
    "unroll ls": "<= 500 ms",
    "unroll ls --json": "<= 500 ms",
    "unroll ls --state running": "<= 500 ms",
    "unroll why": "<= 50 ms",
    "sweep": "<= 2 ms",
    "no-op job": "<= 3 ms",
}


def spec(number: int) -> TrainSpec:
    """Return a spec as people write them."""
    return TrainSpec(
        model=Component("attention_encoder_decoder", {"hidden_size": 256, "dropout": 0.3}),
        data=Component("parallel_text", {"root": "/data/m30k", "source": "de", "target": "en"}),
        name=f"run-{number}",
        seed=number,
    )


@dataclass(frozen=True)
class Queue:
    """A service whose worker runs nothing."""

    client: Client

    def grow(self, count: int) -> float:
        """Submit so many jobs; return the bytes that each takes in Redis."""
        before = self._memory()
        for number in range(count):
            self.client.submit(spec(number))
        return (self._memory() - before) / count

    def _memory(self) -> int:
        with connect(self.client.url) as connection:
            said: Any = connection.info("memory")
            return int(said["used_memory"])


def typical(call: Callable[[], Any], calls: int) -> float:
    """Return the median of the seconds that a call takes."""
    return statistics.median(seconds(call) for _ in range(calls))


@contextmanager
def service() -> Iterator[Queue]:
    """Run a Redis server for the length of a block."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder))
        server.start()
        # The command line finds the service by the environment.
        where = {"UNROLL_REDIS_URL": server.url, "UNROLL_HOME": folder}
        try:
            with mock.patch.dict(os.environ, where), Client() as client:
                client.store.announce(WORKER, LEASE)
                client.store.publish_catalog(WORKER.queues, whole_catalog()[0], WORKER.id)
                yield Queue(client)
        finally:
            server.stop()


def command(*arguments: str) -> None:
    """Run the command line in this process; what Python itself takes to start is left out."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        if status := unroll(arguments):
            raise RuntimeError(f"unroll {' '.join(arguments)} ended with {status}")


def figures(queue: Queue) -> dict[str, float]:
    """Return the seconds of everything that is done with the queue, as long as it is."""
    store, last = queue.client.store, queue.client.list(limit=1)[0].id
    return {
        "unroll ls": typical(lambda: command("ls"), 5),
        "unroll ls --json": typical(lambda: command("ls", "--json"), 5),
        "unroll ls --state running": typical(lambda: command("ls", "--state", "running"), 5),
        "unroll why": typical(lambda: command("why", last), 5),
        "sweep": typical(lambda: store.sweep(LEASE), 20),
        "submit": typical(lambda: queue.client.submit(spec(0)), CALLS),
        "acquire": typical(lambda: store.acquire(WORKER, LEASE), CALLS),
        "no-op job": typical(lambda: no_op(store), CALLS),
    }


def no_op(store: JobStore) -> None:
    """Queue a job; take the first of the queue and end it, with nothing done."""
    store.create(spec(0))
    taken = store.acquire(WORKER, LEASE)
    assert taken is not None
    store.finish(taken[1], Reason.SUCCEEDED)


def relaying(queue: Queue, folder: Path) -> float:
    """Return the seconds in which a supervisor relays what a runner said, an event."""
    store = queue.client.store
    taken = store.acquire(WORKER, LEASE)
    assert taken is not None
    attempt = AttemptFolder(folder / "attempt")
    attempt.make()
    relay = Relay(store, ArtifactStore(folder / "store"), *taken, attempt)
    events = [event for step in range(1, STEPS + 1) for event in _said(step)]
    text = "".join(event.to_json() + "\n" for event in events)
    attempt.events_file.write_text(text, encoding="utf-8")
    return seconds(relay.drain) / len(events)


def _said(step: int) -> list[MetricEvent | ProgressEvent]:
    names = ("train/loss", "train/accuracy", "train/lr", "train/tokens_per_second")
    metrics = [MetricEvent(name, 1 / step, step, 1, time.time()) for name in names]
    return [*metrics, ProgressEvent(step, STEPS, 1, 1)]


def rows() -> Iterator[Row]:
    """Yield what the queue costs at its full size, beside a hundredth of it."""
    with tempfile.TemporaryDirectory() as folder, service() as queue:
        queue.grow(FEW)
        few = figures(queue)
        bytes_each = queue.grow(JOBS)
        many = figures(queue)
        for name, took in many.items():
            yield Row(
                name=name,
                size=f"{JOBS:,} jobs",
                figure=1e3 * took,
                unit="ms",
                against=1e3 * few[name],
                against_name=f"{FEW} jobs",
                goal=GOALS[name],
            )
        yield Row(name="memory of Redis", figure=bytes_each, unit="bytes a job", goal="<= 3,000")
        yield Row(
            name="events relayed",
            figure=1 / relaying(queue, Path(folder)),
            unit="a second",
            goal=">= 5,000",
        )
