"""Full disks, read-only folders, a Redis with full memory: a clear word, and workers live on."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import ArtifactStore
from jobs.connection import connect
from jobs.errors import ServiceUnreachable, SetupError
from jobs.job import Job, JobState, Reason
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from tests.doubles.disk import small_disk
from tests.doubles.service import Workers
from tests.doubles.waiting import PATIENCE, eventually
from worker.settings import Settings

ENDLESS = 100_000


def train(**params: Any) -> TrainSpec:
    return TrainSpec(model=Component("double", params), data=Component("none"))


def endless(**params: Any) -> TrainSpec:
    return train(steps=ENDLESS, step_seconds=0.02, **params)


def when(store: JobStore, job: Job, wanted: Callable[[Job], Any]) -> Job:
    def look() -> Job | None:
        record = store.get(job.id)
        return record if wanted(record) else None

    found: Job = eventually(look, f"{job.id} did not get there")
    return found


def at_step(step: int) -> Callable[[Job], bool]:
    return lambda record: record.progress.step >= step


@contextmanager
def working(home: Path, server: Any) -> Iterator[Workers]:
    with connect(server.url) as client:
        started = Workers(home, server.url, JobStore(client, namespace=home.parent.name))
        try:
            yield started
        finally:
            started.clear()


def test_a_full_disk_ends_attempts_with_its_name_and_the_job_goes_on_when_there_is_room(
    redis_server: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home / "attempts", 4) as disk, working(home, redis_server) as workers:
        worker, store = workers.start(), workers.store
        job = store.create(train(steps=400, step_seconds=0.01, checkpoint_every=20))
        when(store, job, lambda record: record.checkpoint)
        disk.fill()
        told = when(store, job, lambda record: record.reason is Reason.INFRASTRUCTURE)
        assert f"the disk of {disk.folder}" in told.message
        assert "full; free some of it" in told.message
        assert "\n" not in told.message
        disk.free()
        ended = when(store, job, lambda record: record.state.ended)
        assert (ended.state, worker.poll()) == (JobState.SUCCEEDED, None)
        assert ended.result["started_at"] >= 20, "it went on from what it had"


def test_a_full_artifact_store_costs_checkpoints_and_says_so(
    redis_server: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home / "store", 4) as disk, working(home, redis_server) as workers:
        workers.start()
        job = workers.store.create(endless(checkpoint_every=10))
        when(workers.store, job, lambda record: record.checkpoint)
        disk.fill()

        def told() -> bool:
            return any("cannot be kept" in line for _, line in workers.store.logs(job.id))

        eventually(told)
        lost = workers.store.get(job.id).checkpoint
        assert lost is not None
        disk.free()
        record = when(workers.store, job, lambda it: it.checkpoint.step > lost.step)
        assert record.attempt == 1, "the training was never disturbed"


def test_a_read_only_attempt_folder_takes_no_jobs_and_why_says_so(
    redis_server: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home / "attempts", 4) as disk, working(home, redis_server) as workers:
        worker, store = workers.start(), workers.store
        when(store, store.create(train()), lambda record: record.state.ended)
        eventually(lambda: _locked(disk))
        said = (
            f"queued: the worker one takes no jobs: nothing can be written to {disk.folder}: "
            "Read-only file system"
        )
        eventually(lambda: store.workers()[0].trouble)
        job = store.create(train())
        assert store.why(job.id) == said
        disk.unlock()
        assert when(store, job, lambda record: record.state.ended).state is JobState.SUCCEEDED
        assert worker.poll() is None


def _locked(disk: Any) -> bool:
    try:
        disk.lock()
    except subprocess.CalledProcessError:  # the last runner's files are still open
        return False
    return True


def test_a_read_only_home_or_store_is_refused_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        artifacts = ArtifactStore(disk.folder / "store")
        settings = Settings(home=disk.folder / "home", roots=(), url="")
        settings.make_folders()
        disk.lock()
        with pytest.raises(SetupError, match=r"cannot write to the home .*Read-only file system"):
            settings.make_folders()
        with pytest.raises(SetupError, match=r"Read-only file system; name a folder in UNROLL_ST"):
            artifacts.ensure_writable()


def test_a_redis_whose_disk_is_full_is_named_and_jobs_go_on(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "redis", 2) as disk:
        server = make_server("--dir", str(disk.folder))
        with working(tmp_path / "home", server) as workers:
            worker, store = workers.start(), workers.store
            job = store.create(endless())
            when(store, job, at_step(5))
            disk.fill()

            def refused() -> bool:
                try:
                    store.create(train())
                except ServiceUnreachable as error:
                    return "the service cannot write to its disk; free some of it" in str(error)
                return False

            eventually(refused)
            with connect(server.url) as anew:  # who only reads still can
                looker = JobStore(anew, store.keys.namespace)
                assert looker.get(job.id).state is JobState.RUNNING
                assert looker.why(job.id).endswith("cannot write to its disk; free some of it")
            eventually(lambda: "hears no bells any more" in workers.log())
            disk.free()
            eventually(lambda: _can(lambda: store.create(train())))
            assert "its disk" not in store.why(job.id)
            step = store.get(job.id).progress.step
            record = when(store, job, at_step(step + 20))
            assert (record.attempt, worker.poll()) == (1, None)
            assert "Traceback" not in workers.log()
        server.kill()


def _can(act: Callable[[], Any]) -> bool:
    try:
        act()
    except ServiceUnreachable:
        return False
    return True


@contextmanager
def full_memory(
    make_server: Callable[..., Any], tmp_path: Path
) -> Iterator[tuple[Workers, subprocess.Popen[bytes], Job, Any]]:
    """Let a job run on a Redis whose memory is full from then on; yield the Redis last."""
    server = make_server("--maxmemory-policy", "noeviction")
    with working(tmp_path / "home", server) as workers, connect(server.url) as admin:
        worker = workers.start()
        job = workers.store.create(endless())
        when(workers.store, job, at_step(5))
        admin.config_set("maxmemory", "1mb")
        yield workers, worker, job, admin


def test_jobs_outlive_a_redis_with_full_memory(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    with full_memory(make_server, tmp_path) as (workers, worker, job, admin):
        store = workers.store
        with pytest.raises(ServiceUnreachable, match="memory is full; remove jobs with"):
            store.create(train())
        events = workers.home / "attempts" / job.id / "0001" / "events.jsonl"
        written = len(events.read_text().splitlines())
        eventually(lambda: len(events.read_text().splitlines()) > written + 300)
        admin.config_set("maxmemory", "0")
        record = when(store, job, at_step(written // 2 + 150))
        assert (record.attempt, worker.poll()) == (1, None)
        store.cancel(job.id)
        when(store, job, lambda it: it.state.ended)
        steps = [point.step for point in store.metrics(job.id)]
        assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"


def test_a_job_is_cancelled_also_where_redis_has_no_room_for_its_last_words(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    with full_memory(make_server, tmp_path) as (workers, worker, job, _):
        store = workers.store
        store.cancel(job.id)
        record = when(store, job, lambda it: it.state.ended)
        assert (record.state, worker.poll()) == (JobState.CANCELLED, None)


def test_two_workers_of_one_name_are_one_too_many(redis_server: Any, tmp_path: Path) -> None:
    with working(tmp_path / "home", redis_server) as workers:
        first = workers.start("one")
        eventually(workers.store.workers)
        second = workers.start("one")
        assert second.wait(PATIENCE) != 0
        assert "a worker called 'one' runs already" in workers.log("one")
        assert first.poll() is None
        first.kill()
        first.wait()
        third = workers.start("one")
        job = workers.store.create(train())
        when(workers.store, job, lambda record: record.state.ended)
        assert third.poll() is None, "the name of a worker that was killed is free"


def test_a_line_of_ten_megabytes_is_whole_in_the_file_and_cut_elsewhere(
    redis_server: Any, tmp_path: Path
) -> None:
    with working(tmp_path / "home", redis_server) as workers:
        workers.start()
        job = workers.store.create(train(say_bytes=10_000_000, say="the line after"))
        when(workers.store, job, lambda record: record.state.ended)
        lines = [line for _, line in workers.store.logs(job.id)]
        assert "the line after" in lines
        assert max(map(len, lines)) <= 4_000
        assert any("bytes left out here" in line for line in lines)
        kept = ArtifactStore(workers.home / "store").path(f"jobs/{job.id}/attempt-0001/output.log")
        assert kept.stat().st_size > 10_000_000


def test_a_worker_says_what_a_redis_wants_that_asks_for_a_password(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server(password="right")
    for url, sentence in (
        (server.url, "asks for a password; write redis://:PASSWORD@HOST:PORT/0 into UNROLL_REDIS"),
        (server.url + "?password=wrong", "refuses the password; put the right one into UNROLL_RE"),
    ):
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "worker", "--home", str(tmp_path / "home")],
            env={"UNROLL_REDIS_URL": url, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 3
        assert sentence in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert "wrong" not in ended.stderr
