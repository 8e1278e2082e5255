"""A job of two ranks through a whole service: as exact as one process, retried when a rank dies."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.client import Client
from jobs.handle import JobHandle
from jobs.spec import TrainSpec, spec_from_dict
from tests.integration.conftest import TINY

OFF = {"embedding_dropout": 0.0, "dropout": 0.0}


@pytest.fixture
def service(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("UNROLL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNROLL_DATA_ROOTS", str(data_root))
    with Client.embedded() as client:
        yield client


@pytest.fixture
def submit(service: Client, data_root: Path) -> Callable[..., JobHandle]:
    """Return a function that submits the tiny job for so many ranks."""

    def submitted(devices: int, **trainer: Any) -> JobHandle:
        spec = {
            "model": {**TINY["model"], **OFF},
            "data": {**TINY["data"], "root": str(data_root / "corpus")},
            "trainer": {**TINY["trainer"], **trainer},
            "resources": {"devices": devices},
        }
        found = spec_from_dict(spec)
        assert isinstance(found, TrainSpec)
        return service.submit(found)

    return submitted


def points_of(job: JobHandle) -> dict[tuple[str, int], float]:
    points = [point for point in job.metrics() if point.name != "train/tokens_per_second"]
    found = {(point.name, point.step): point.value for point in points}
    assert len(found) == len(points), "a point was told twice"
    return found


def ranks_of(job: JobHandle) -> list[psutil.Process]:
    """Return the processes in a job's folder that are no parent: all but their guard."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if job.id in process.cwd() and not process.children():
                found.append(process)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_of_two_ranks_tells_what_a_job_of_one_tells(submit: Callable[..., JobHandle]) -> None:
    one, two = submit(1), submit(2)
    expected, found = one.result(timeout=200).metrics, two.result(timeout=200).metrics
    assert found == pytest.approx(expected, rel=1e-5)
    assert points_of(two) == pytest.approx(points_of(one), rel=1e-5)


def test_a_rank_that_is_killed_is_missed_and_the_attempt_repeated(
    service: Client, submit: Callable[..., JobHandle]
) -> None:
    job = submit(2, max_epochs=200)
    wait_until(lambda: bool(points_of(job)))
    first = ranks_of(job)
    assert len(first) == 2
    first[1].kill()
    wait_until(lambda: service.store.get(job.id).attempt == 2)
    assert "SIGKILL" in service.store.get(job.id).message
    assert not any(each.is_running() for each in first)
    before = len(points_of(job))
    wait_until(lambda: len(points_of(job)) > before)
    job.cancel()
