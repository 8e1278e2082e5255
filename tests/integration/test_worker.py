"""Whole workers against a real Redis: Celery, supervisors, guards, and a runner without torch."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.artifacts import ArtifactStore
from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.job import Job, JobState, Reason
from jobs.spec import Component, EvaluateSpec, PredictSpec, TrainSpec
from jobs.store import JobStore
from tests.doubles.service import Workers
from tests.doubles.waiting import PATIENCE, eventually

ENDLESS = 100_000


def train(**params: Any) -> TrainSpec:
    return TrainSpec(model=Component("double", params), data=Component("none"))


def endless(**params: Any) -> TrainSpec:
    return train(steps=ENDLESS, step_seconds=0.02, **params)


@pytest.fixture
def workers(tmp_path: Path, redis_server: Any, store: JobStore) -> Iterator[Workers]:
    started = Workers(tmp_path / "home", redis_server.url, store)
    yield started
    started.clear()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, redis_server: Any) -> Iterator[Workers]:
    """Return a home where one worker serves all tests that do it no harm."""
    with connect(redis_server.url) as client:
        home = tmp_path_factory.mktemp("standing") / "home"
        started = Workers(home, redis_server.url, JobStore(client, namespace="standing"))
        started.start(slots=2, clocks={"linger": 0.5})
        yield started
        started.clear()


def wait(store: JobStore, job: Job, wanted: Callable[[Job], Any]) -> Job:
    def look() -> Job | None:
        try:
            record = store.get(job.id)
        except ServiceUnreachable:
            return None
        return record if wanted(record) else None

    found: Job = eventually(look, f"{job.id} did not get there")
    return found


def ended(record: Job) -> bool:
    return record.state.ended


def at_step(step: int) -> Callable[[Job], bool]:
    return lambda record: record.progress.step >= step


def checkpointed(record: Job) -> bool:
    return record.checkpoint is not None


def runner_pid(workers: Workers, job: Job, attempt: int = 1) -> int:
    folder = str(workers.home / "attempts" / job.id / f"{attempt:04d}")
    at_work = (each for each in workers.runners() if each.cwd() == folder)
    return next(
        each.pid for each in at_work if os.getpgid(each.pid) == each.pid != os.getsid(each.pid)
    )


def wait_for_parent(workers: Workers, worker: "subprocess.Popen[bytes]") -> psutil.Process:
    """Return the preloaded parent of a worker once jobs are forked from it."""
    while True:
        job = workers.store.create(train(steps=50, step_seconds=0.01))
        wait(workers.store, job, at_step(1))
        parent = psutil.Process(runner_pid(workers, job)).parent().parent()
        wait(workers.store, job, ended)
        if parent.pid != worker.pid:
            assert parent.ppid() == worker.pid
            return parent


def test_a_job_runs_from_submission_to_result(standing: Workers) -> None:
    store = standing.store
    job = store.create(train(steps=6, checkpoint_every=2, file="hello", say="on stderr"))
    record = wait(store, job, ended)
    assert (record.state, record.reason) == (JobState.SUCCEEDED, Reason.SUCCEEDED)
    assert record.result["val/loss"] == 0.5
    points = store.metrics(job.id)
    assert [(p.name, p.step, p.value, p.attempt) for p in points] == [
        ("train/loss", step, 1 / step, 1) for step in range(1, 7)
    ]
    assert "on stderr" in [line for _, line in store.logs(job.id)]
    assert store.read_file(job.id, "result.txt") == b"hello"
    assert (record.progress.step, record.progress.phase) == (6, "training")
    artifacts = ArtifactStore(standing.home / "store")
    assert record.store == artifacts.id
    assert record.checkpoint is not None
    assert record.checkpoint == record.best
    assert artifacts.check(record.checkpoint.artifact, record.checkpoint.digest)
    kept = [key.rpartition("/")[2] for key in artifacts.list(f"jobs/{job.id}")]
    assert sorted(kept)[:3] == ["metrics.jsonl", "output.log", "result.txt"]
    assert [name[:13] for name in sorted(kept)[3:]] == ["step-00000004", "step-00000006"]
    with artifacts.open(f"jobs/{job.id}/metrics.jsonl") as file:
        assert [json.loads(line)["cursor"] for line in file] == [1, 2, 3, 4, 5, 6]


def test_a_job_without_a_bell_is_found_before_and_after_the_start(
    workers: Workers, store: JobStore
) -> None:
    early = store.create(train())
    workers.start()
    assert wait(store, early, ended).state is JobState.SUCCEEDED
    late = store.create(train())
    assert wait(store, late, ended).state is JobState.SUCCEEDED


def test_a_worker_says_what_it_has_and_takes_its_leave(workers: Workers, store: JobStore) -> None:
    process = workers.start("named", slots=2)
    job = store.create(endless())
    wait(store, job, at_step(1))
    eventually(store.catalog)
    eventually(lambda: store.workers()[0].free_slots == 1 and store.workers()[0].catalog)
    (said,) = store.workers()
    assert (said.id, said.slots, said.pid) == ("named", 2, process.pid)
    process.terminate()
    process.wait(PATIENCE)
    assert not store.workers()
    assert store.catalog() is None


def test_cancel_leaves_no_process_of_the_group(standing: Workers) -> None:
    store = standing.store
    job = store.create(endless(children=2, deaf=True))
    wait(store, job, at_step(2))
    strays = [each for each in psutil.process_iter(["cmdline"]) if _is_stray(each, standing)]
    assert len(strays) == 2
    asked = time.monotonic()
    store.cancel(job.id)
    record = wait(store, job, ended)
    took = time.monotonic() - asked
    assert (record.state, record.reason) == (JobState.CANCELLED, Reason.CANCELLED)
    assert not any(each.is_running() for each in strays)
    eventually(lambda: not standing.runners())
    assert took < 5  # within a second where nothing else runs


def _is_stray(process: psutil.Process, workers: Workers) -> bool:
    try:
        return process.cmdline() == ["sleep", "600"] and workers.home in Path(process.cwd()).parents
    except psutil.Error:
        return False


@pytest.mark.parametrize(("fail", "message"), [("segfault", "SIGSEGV"), ("exit", "status 7")])
def test_a_runner_that_dies_without_a_word_is_tried_again_and_the_record_says_why(
    standing: Workers, fail: str, message: str
) -> None:
    store = standing.store
    job = store.create(train(steps=200, step_seconds=0.01, fail=fail, fail_at=2, fail_attempt=1))
    record = wait(store, job, lambda record: record.attempt == 2)
    assert record.reason is Reason.INFRASTRUCTURE
    assert message in record.message
    assert f"about to fail: {fail}" in record.traceback
    assert wait(store, job, ended).state is JobState.SUCCEEDED
    first, second = store.ends(job.id)
    assert (first.attempt, first.worker, first.reason) == (1, "one", Reason.INFRASTRUCTURE)
    assert message in (f"{first.evidence.signal}", f"status {first.evidence.status}")
    assert first.evidence.peak_memory > 1_000_000
    assert f"about to fail: {fail}" in first.evidence.log
    assert (second.reason, second.evidence.status) == (Reason.SUCCEEDED, 0)


def test_what_the_runner_says_of_its_end_counts(standing: Workers) -> None:
    store = standing.store
    failing = store.create(train(fail="error", fail_at=1))
    record = wait(store, failing, ended)
    assert (record.reason, record.message) == (Reason.USER_ERROR, "no such thing")
    assert record.traceback == "Traceback: here"
    assert record.attempt == 1


@pytest.mark.parametrize("start", ["interpreter", "fork"])
def test_a_killed_worker_loses_nothing(workers: Workers, store: JobStore, start: str) -> None:
    first = workers.start("first", start=start)
    parents = [wait_for_parent(workers, first)] if start == "fork" else []
    job = store.create(endless(checkpoint_every=5, children=1))
    before = wait(store, job, checkpointed)
    assert before.checkpoint is not None
    left = workers.runners() + parents
    assert len(left) == 3 + len(parents)
    first.send_signal(signal.SIGKILL)
    first.wait()
    eventually(lambda: not any(each.is_running() for each in left), "a process was left behind")
    workers.start("second", start=start)
    after = wait(store, job, lambda record: record.attempt == 2 and record.progress.step > 10)
    assert after.worker == "second"
    folder = workers.home / "attempts" / job.id / "0002"
    start = json.loads((folder / "start.ckpt").read_text())["step"]
    assert start >= before.checkpoint.step
    (end,) = store.ends(job.id)
    assert (end.reason, end.evidence.cause) == (Reason.PREEMPTED, "abandoned")
    assert end.message == "the worker first was gone; the job was handed back for it"
    store.cancel(job.id)
    wait(store, job, ended)
    steps = [point.step for point in store.metrics(job.id)]
    assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"


def test_a_killed_parent_costs_no_job(workers: Workers, store: JobStore) -> None:
    worker = workers.start(start="fork", slots=2, clocks={"parent": 0.1})
    parent = wait_for_parent(workers, worker)
    job = store.create(endless())
    wait(store, job, at_step(1))
    parent.kill()
    wait(store, store.create(train()), ended)
    record = store.get(job.id)
    wait(store, job, at_step(record.progress.step + 20))
    assert store.get(job.id).attempt == 1
    assert wait_for_parent(workers, worker).pid != parent.pid
    store.cancel(job.id)
    wait(store, job, ended)
    eventually(lambda: not workers.runners())
    worker.terminate()
    assert worker.wait(PATIENCE) == 0


@pytest.mark.parametrize("start", ["interpreter", "fork"])
def test_a_draining_worker_hands_its_jobs_back_where_they_are(
    workers: Workers, store: JobStore, start: str
) -> None:
    first = workers.start("first", slots=2, start=start)
    if start == "fork":
        wait_for_parent(workers, first)
    jobs = [store.create(endless()), store.create(endless())]
    for job in jobs:
        wait(store, job, at_step(3))
    first.terminate()
    assert first.wait(PATIENCE) == 0
    eventually(lambda: not workers.runners())
    for job in jobs:
        record = store.get(job.id)
        assert (record.state, record.reason) == (JobState.QUEUED, Reason.PREEMPTED)
        assert record.checkpoint is not None
        assert record.checkpoint.step == record.progress.step, "work was lost"
    workers.start("second", slots=2)
    for job in jobs:
        wait(store, job, lambda record: record.attempt == 2 and record.state is JobState.RUNNING)


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1])
def test_a_worker_that_is_stopped_while_it_starts_stops(
    workers: Workers, store: JobStore, moment: float
) -> None:
    process = workers.start()
    eventually(store.workers)
    time.sleep(moment)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert "Traceback" not in workers.log()
    assert not store.workers()


def test_a_drain_waits_for_no_runner_that_does_not_listen(
    workers: Workers, store: JobStore
) -> None:
    process = workers.start(clocks={"drain": 0.5})
    job = store.create(endless(deaf=True))
    wait(store, job, at_step(1))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    eventually(lambda: not workers.runners())
    assert store.get(job.id).state is JobState.QUEUED


def test_a_second_interrupt_does_not_wait_and_still_leaves_nothing(
    workers: Workers, store: JobStore
) -> None:
    process = workers.start()
    job = store.create(endless(deaf=True))
    wait(store, job, at_step(1))
    process.send_signal(signal.SIGINT)
    eventually(lambda: "stops and hands" in workers.log())
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    eventually(lambda: not workers.runners())
    wait(store, job, lambda record: record.state is JobState.QUEUED)


def test_a_worker_that_slept_through_its_lease_stops_what_another_has_taken_over(
    workers: Workers, store: JobStore
) -> None:
    first = workers.start("first", clocks={"lease": 1.5})
    job = store.create(endless(checkpoint_every=5))
    wait(store, job, checkpointed)
    asleep = psutil.Process(runner_pid(workers, job))
    first.send_signal(signal.SIGSTOP)
    workers.start("second", clocks={"lease": 1.5})
    wait(store, job, lambda record: record.attempt == 2)
    assert store.get(job.id).reason is Reason.LOST
    assert asleep.is_running(), "its supervisor does not know yet, and may not write"
    first.send_signal(signal.SIGCONT)
    eventually(lambda: not asleep.is_running())
    eventually(lambda: "another attempt" in workers.log("first"))
    wait(store, job, lambda record: record.attempt == 2 and record.progress.step > 15)
    store.cancel(job.id)
    wait(store, job, ended)
    steps = [point.step for point in store.metrics(job.id)]
    assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"


def test_two_slots_run_two_jobs_and_one_waits(workers: Workers, store: JobStore) -> None:
    workers.start(slots=2)
    first, second, third = (store.create(endless()) for _ in range(3))
    for job in (first, second):
        wait(store, job, at_step(1))
    assert store.get(third.id).state is JobState.QUEUED
    store.cancel(first.id)
    wait(store, third, at_step(1))
    assert store.get(second.id).attempt == 1


def test_a_prediction_runs_beside_a_training_on_the_only_slot(
    workers: Workers, store: JobStore
) -> None:
    workers.start()
    trained = wait(store, store.create(train(checkpoint_every=1)), ended)
    training = store.create(endless())
    wait(store, training, at_step(1))
    waiting = store.create(train())
    answer = wait(store, store.create(PredictSpec(job=trained.id, lines=("a",))), ended)
    assert answer.state is JobState.SUCCEEDED
    assert store.get(training.id).state is JobState.RUNNING
    assert store.get(waiting.id).state is JobState.QUEUED
    store.cancel(training.id)
    assert wait(store, waiting, ended).state is JobState.SUCCEEDED


def test_a_job_goes_on_while_redis_is_away(make_server: Callable[..., Any], tmp_path: Path) -> None:
    server = make_server(durable=True)
    with connect(server.url) as client:
        store = JobStore(client, namespace="outage")
        workers = Workers(tmp_path / "home", server.url, store)
        try:
            workers.start()
            job = store.create(endless(checkpoint_every=20))
            wait(store, job, at_step(5))
            pid = runner_pid(workers, job)
            server.kill()
            events = workers.home / "attempts" / job.id / "0001" / "events.jsonl"
            away = len(events.read_text().splitlines())
            eventually(lambda: len(events.read_text().splitlines()) > away + 200)
            server.start()
            record = wait(store, job, at_step(away // 2 + 100))
            assert record.attempt == 1
            assert runner_pid(workers, job) == pid
            store.cancel(job.id)
            wait(store, job, ended)
            steps = [point.step for point in store.metrics(job.id)]
            assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"
            log = workers.log()
            # One for all routines; of who tried as Redis came back perhaps another.
            assert log.count("no service answers") in {1, 2}
            assert log.count("the service answers again") in {1, 2}
            assert "Traceback" not in log
            assert "Deprecat" not in log
        finally:
            workers.clear()


def test_a_job_goes_on_while_redis_takes_no_writes(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server("--appendonly", "yes")
    with connect(server.url) as client:
        store = JobStore(client)
        started = Workers(tmp_path / "home", server.url, store)
        try:
            worker = started.start()
            job = store.create(endless())
            wait(store, job, at_step(5))
            client.config_set("min-replicas-to-write", 1)  # as a full disk: an error, no silence
            eventually(lambda: "hears no bells any more" in started.log())
            client.config_set("min-replicas-to-write", 0)
            step = store.get(job.id).progress.step
            record = wait(store, job, at_step(step + 50))
            assert (record.attempt, worker.poll()) == (1, None)
            store.cancel(job.id)
            wait(store, job, ended)
            wait(store, store.create(train()), ended)
            worker.terminate()
            assert worker.wait(PATIENCE) == 0
        finally:
            started.clear()


def test_a_drain_without_redis_ends_and_the_lease_goes_back_later(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server(durable=True)
    with connect(server.url) as client:
        store = JobStore(client, namespace="outage")
        workers = Workers(tmp_path / "home", server.url, store)
        try:
            process = workers.start(clocks={"drain": 0.5})
            job = store.create(endless())
            wait(store, job, at_step(3))
            server.kill()
            process.terminate()
            assert process.wait(PATIENCE) == 0
            server.start()
            record = wait(store, job, lambda record: record.state is JobState.QUEUED)
            assert record.reason is Reason.PREEMPTED
        finally:
            workers.clear()


def test_a_job_stops_when_its_time_is_up(standing: Workers) -> None:
    store = standing.store
    spec = TrainSpec(model=endless(checkpoint_every=10).model, data=Component("none"), timeout=1.0)
    record = wait(store, store.create(spec), ended)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.TIMED_OUT)
    eventually(lambda: not standing.runners())


def test_a_job_that_was_removed_or_never_trained_cannot_be_evaluated(standing: Workers) -> None:
    store = standing.store
    job = store.create(EvaluateSpec(job="nobody"))
    record = wait(store, job, ended)
    assert (record.reason, record.attempt) == (Reason.USER_ERROR, 1)
    assert "nobody" in record.message


def test_what_is_removed_leaves_no_file(standing: Workers) -> None:
    store = standing.store
    job = store.create(train(steps=4, checkpoint_every=2, file="hello"))
    wait(store, job, ended)
    places = [standing.home / "attempts" / job.id, standing.home / "store" / "jobs" / job.id]
    assert all(place.is_dir() for place in places)
    store.remove(job.id)
    eventually(lambda: not any(place.exists() for place in places))


def test_a_runner_that_lingers_after_its_last_word_does_not_keep_the_slot(
    standing: Workers,
) -> None:
    store = standing.store
    job = store.create(train(steps=9, fail="linger", fail_at=2))
    assert wait(store, job, ended).state is JobState.SUCCEEDED
    eventually(lambda: not standing.runners())


def test_an_evaluation_gets_the_best_model_and_how_it_was_trained(standing: Workers) -> None:
    store = standing.store
    trained = store.create(train(steps=7, checkpoint_every=1))
    best = wait(store, trained, ended).best
    assert best is not None
    assert best.step == 6
    job = store.create(EvaluateSpec(job=trained.id, data={"test": "other"}))
    record = wait(store, job, ended)
    assert record.result["started_at"] == best.step
    assert record.result["trained"]["data"] == {"name": "none", "test": "other"}
