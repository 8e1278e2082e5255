"""How long a job takes to get going: forked from the preloaded parent, and in a new interpreter."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

from jobs.broker import ring
from jobs.client import Client
from jobs.connection import connect
from jobs.job import Job, JobState
from jobs.service.embedded import EmbeddedRedis
from jobs.spec import Component, TrainerOptions, TrainSpec
from jobs.store import JobStore
from tests.benchmarks.speed._measure import Row
from worker.settings import Clocks

JOBS: Final = 20
NO_OPS: Final = 50
#: Rows of the corpus, about as many as Multi30k has.
_ROWS: Final = 29_000
_PATIENCE: Final = 300.0
#: A worker whose runners do not know torch.
_DOUBLE: Final = Path(__file__).parents[2] / "doubles" / "worker.py"


@dataclass(frozen=True)
class Start:
    """Seconds from the submission of one job."""

    running: float
    first_step: float
    end: float


def rows() -> Iterator[Row]:
    """Yield how long jobs take to start, and how many that do nothing go through a second."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder) / "data"
        write_corpus(data)
        forked = stack.enter_context(service(Path(folder) / "fork", "fork"))
        executed = stack.enter_context(service(Path(folder) / "interpreter", "interpreter"))
        for client in (forked, executed):  # the cache is filled, and the parent gets ready
            run(client, data)
            run(client, data)
        pairs = [(run(forked, data), run(executed, data)) for _ in range(JOBS)]
        yield from starts(*map(list, zip(*pairs, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedRedis(Path(folder))
        redis.start()
        try:
            forked_rate, executed_rate = (
                no_ops(Path(folder), redis.url, start) for start in ("fork", "interpreter")
            )
        finally:
            redis.stop()
    yield Row(
        name="jobs that do nothing, through the queue",
        size=f"{NO_OPS} jobs, 2 slots, no torch",
        figure=forked_rate,
        unit="jobs/s",
        against=executed_rate,
        against_name="new interpreter",
    )


def starts(ours: list[Start], theirs: list[Start]) -> Iterator[Row]:
    """Yield the rows of jobs that were run in turn."""
    for what, goal in (("running", ""), ("first_step", "95 % within 1 s"), ("end", "")):
        for share in (50, 95):
            figure, against = (
                percentile([getattr(each, what) for each in side], share) for side in (ours, theirs)
            )
            yield Row(
                name=f"submit to {what.replace('_', ' ')}",
                size=f"{share} % of {len(ours)} jobs",
                figure=figure,
                unit="s",
                against=against,
                against_name="new interpreter",
                goal=goal if share == 95 else "",
            )


def percentile(values: list[float], share: int) -> float:
    """Return the value that `share` percent of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


@contextlib.contextmanager
def service(home: Path, start: str) -> Iterator[Client]:
    """Run a service whose worker starts its runners in this way."""
    settings = {"UNROLL_START": start, "UNROLL_DATA_ROOTS": str(home.parent / "data")}
    with patch.dict(os.environ, settings), Client.embedded(home=home) as client:
        client.catalog(timeout=_PATIENCE)
        yield client


def no_ops(home: Path, url: str, start: str) -> float:
    """Return how many jobs a second a worker with two slots sees through, of such as do nothing."""
    told = {"home": str(home / start), "namespace": start, "name": start, "start": start}
    told |= {"slots": 2, "clocks": asdict(Clocks())}
    spec = TrainSpec(model=Component("double", {"steps": 0}), data=Component("none"))
    environment = {**os.environ, "UNROLL_REDIS_URL": url}
    with (
        connect(url) as connection,
        subprocess.Popen(
            [sys.executable, "-P", str(_DOUBLE), json.dumps(told)],
            env=environment,
            stderr=subprocess.DEVNULL,
        ) as worker,
    ):
        store = JobStore(connection, start)
        for _ in range(2):  # the worker starts, and its parent
            see_through(store, url, [store.create(spec)])
            time.sleep(1)
        began = time.perf_counter()
        see_through(store, url, [store.create(spec) for _ in range(NO_OPS)])
        took = time.perf_counter() - began
        worker.terminate()
    return NO_OPS / took


def see_through(store: JobStore, url: str, jobs: list[Job]) -> None:
    """Ring, and wait until all of the jobs have ended."""
    ring("default", store)
    for job in jobs:
        while not store.get(job.id).state.ended:
            time.sleep(0.01)


def run(client: Client, data: Path) -> Start:
    """Run one short training, and say when what happened."""
    spec = TrainSpec(
        model=Component("attention_encoder_decoder", {"hidden_size": 64, "embedding_size": 32}),
        data=Component(
            "parallel_text",
            {"root": str(data), "source": "fw", "target": "bw", "tokens": "words"},
        ),
        trainer=TrainerOptions(max_steps=2, log_every=1),
    )
    submitted = time.time()
    job = client.submit(spec).wait(_PATIENCE)
    if job.state is not JobState.SUCCEEDED:
        raise RuntimeError(f"the job ended otherwise: {job.message}")
    step = next(point.time for point in client.store.metrics(job.id) if point.step == 1)
    return Start(job.started - submitted, step - submitted, job.ended - submitted)


def write_corpus(folder: Path) -> None:
    """Write pairs of sentences, the second the first backwards, of words as common as in texts."""
    chance = random.Random(5)
    words = [f"w{number}" for number in range(6_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    folder.mkdir()
    for split, count in (("train", _ROWS), ("val", 100), ("test", 100)):
        lines = [chance.choices(words, weights, k=chance.randint(6, 20)) for _ in range(count)]
        for side, step in (("fw", 1), ("bw", -1)):
            text = "".join(" ".join(line[::step]) + "\n" for line in lines)
            (folder / f"{split}.{side}").write_text(text, encoding="utf-8")
