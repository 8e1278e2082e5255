"""Real trainings that are preempted, paused, timed out and torn: exact all the same."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.artifacts import ArtifactStore
from jobs.client import Client
from jobs.handle import JobHandle
from jobs.job import Job, JobState, Reason
from jobs.spec import TrainSpec, spec_from_dict
from jobs.store.records import write_checkpoint
from tests.benchmarks.chaos.specs import PLUGINS
from tests.doubles.waiting import is_alive
from tests.integration.conftest import TINY
from tests.integration.test_ranks_service import wait_until

Points = dict[tuple[str, int], float]


class Service:
    """A Redis, a home, and one worker after the other."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self._environment = {
            **os.environ,
            "UNROLL_REDIS_URL": url,
            "UNROLL_PLUGINS": str(PLUGINS),
            "OMP_NUM_THREADS": "1",
        }
        self.client = Client(url, home)
        self._worker: subprocess.Popen[bytes] | None = None

    @property
    def worker(self) -> "subprocess.Popen[bytes]":
        """Return the worker that runs; start one where none does."""
        if self._worker is None or self._worker.poll() is not None:
            log = (self.home.parent / "worker.log").open("ab")
            with log:
                self._worker = subprocess.Popen(
                    [sys.executable, "-m", "worker", "--home", str(self.home), "--slots", "2"],
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                )
        return self._worker

    def submit(self, devices: int = 1, **more: Any) -> JobHandle:
        """Submit a training of some hundred steps that wait, so that no machine ends it at once."""
        assert self.worker
        trainer = {**TINY["trainer"], "max_epochs": 8, "batch_tokens": 500}
        trainer |= more.pop("trainer", {})
        plain = {
            "model": TINY["model"],
            "data": {"name": "paced_dates", "pause": 0.04},
            "trainer": trainer,
            "resources": {"devices": devices},
            "policy": {"checkpoint_seconds": 0.1},
            **more,
        }
        spec = spec_from_dict(plain)
        assert isinstance(spec, TrainSpec)
        return self.client.submit(spec)

    def processes(self) -> list[psutil.Process]:
        """Return what works in the home: guards and runners."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(process.cwd()).is_relative_to(self.home / "attempts"):
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kill the worker, and wait until nothing of its jobs is left."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        wait_until(lambda: not self.processes())


@pytest.fixture(scope="module")
def service(
    make_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    server = make_server()
    started = Service(server.url, tmp_path_factory.mktemp("drain") / "home")
    yield started
    started.kill()
    started.client.close()


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> dict[int, JobHandle]:
    """Return trainings that nothing happens to, by their number of ranks."""
    jobs = {devices: service.submit(devices) for devices in (1, 2)}
    for job in jobs.values():
        job.result(timeout=200)
    return jobs


def record_when(job: JobHandle, wanted: Callable[[Job], Any]) -> Job:
    wait_until(lambda: bool(wanted(job.record)))
    return job.record


def at_step(step: int, attempt: int = 1) -> Callable[[Job], bool]:
    return lambda job: job.attempt >= attempt and job.progress.step >= step


def assert_same(job: JobHandle, expected: JobHandle) -> None:
    """Compare what two jobs have told: each point once, each to the last bit."""

    def points_of(told: JobHandle) -> Points:
        points = [each for each in told.metrics() if each.name != "train/tokens_per_second"]
        found = {(each.name, each.step): each.value for each in points}
        assert len(found) == len(points), "a point was told twice"
        return found

    assert job.result(timeout=200).values == expected.result().values
    assert points_of(job) == points_of(expected)


def test_a_preempted_worker_hands_its_work_back_and_nothing_is_repeated(
    service: Service, undisturbed: dict[int, JobHandle]
) -> None:
    job = service.submit()
    record_when(job, at_step(20))
    worker = service.worker
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    worker.kill()  # as a provider of spot machines does, once the grace is over
    record = job.record
    assert (record.state, record.reason) == (JobState.QUEUED, Reason.PREEMPTED)
    assert record.checkpoint is not None
    first = max(point.step for point in job.metrics())
    assert record.checkpoint.step == first, "work was lost"
    assert not service.processes()
    assert service.worker.pid != worker.pid
    assert_same(job, undisturbed[1])
    again = [each for each in job.metrics() if each.attempt == 2]
    assert min(each.step for each in again) == first + 1


def test_a_worker_that_is_killed_in_its_grace_loses_nothing_but_time(
    service: Service, undisturbed: dict[int, JobHandle]
) -> None:
    job = service.submit()
    record_when(job, at_step(20))
    worker = service.worker
    worker.send_signal(signal.SIGTERM)
    worker.kill()
    worker.wait()
    assert service.worker.pid != worker.pid
    assert_same(job, undisturbed[1])
    assert job.record.attempt == 2


def test_two_ranks_are_paused_and_go_on(
    service: Service, undisturbed: dict[int, JobHandle]
) -> None:
    job = service.submit(2)
    record_when(job, at_step(20))
    job.pause()
    record = record_when(job, lambda record: record.state is JobState.PAUSED)
    assert record.checkpoint is not None
    assert record.checkpoint.step == max(point.step for point in job.metrics()), "work was lost"
    wait_until(lambda: not service.processes())
    assert job.why().startswith("paused by a person")
    job.resume()
    assert_same(job, undisturbed[2])
    assert [end.reason for end in job.attempts()] == [Reason.PREEMPTED, Reason.SUCCEEDED]


def damage(service: Service, record: Job, how: str) -> None:
    """Damage the newest checkpoint of a job: its file, or the digest in the record."""
    newest = record.checkpoint
    assert newest is not None
    file = ArtifactStore(service.home / "store").path(newest.artifact)
    content = bytearray(file.read_bytes())
    if how == "truncated":
        del content[-100:]
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    else:
        key, other = service.client.store.keys("job", record.id), replace(newest, digest="0" * 64)
        fields = ["checkpoint", "best"] if record.best == newest else ["checkpoint"]
        service.client.store._client.hset(
            key, mapping=dict.fromkeys(fields, write_checkpoint(other))
        )
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped", "record"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(
    service: Service, undisturbed: dict[int, JobHandle], how: str
) -> None:
    job = service.submit()
    record_when(job, lambda record: record.previous and record.progress.step >= 20)
    service.kill()
    record = job.record
    assert record.checkpoint is not None
    assert record.previous is not None
    damage(service, record, how)
    assert service.worker
    assert_same(job, undisturbed[1])
    lines = list(job.logs())
    step = record.checkpoint.step
    assert any(f"the checkpoint of step {step} " in each and "damaged" in each for each in lines)
    assert f"going on from the checkpoint of step {record.previous.step}" in lines


def test_the_time_of_a_job_counts_over_all_its_attempts(service: Service) -> None:
    job = service.submit(trainer={"max_epochs": 100_000}, timeout=6.0)
    record_when(job, at_step(20))
    runners = [each for each in service.processes() if each.name() == "unroll-runner"]
    runners[0].kill()
    record = record_when(job, lambda record: record.state.ended)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.TIMED_OUT)
    assert record.attempt == 2
    first, second = job.attempts()
    assert first.reason is Reason.INFRASTRUCTURE
    ran = [end.ended - end.started for end in (first, second)]
    assert record.ran == pytest.approx(sum(ran))
    assert record.ran >= 6.0 > ran[1]
    wait_until(lambda: not any(is_alive(each.pid) for each in runners))
