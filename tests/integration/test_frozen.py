"""Workers that are frozen or starved: the one is taken over and harms nothing, the other is not."""

import json
import signal

import psutil

from jobs.artifacts import ArtifactStore
from jobs.job import JobState, Reason
from jobs.store import JobStore
from tests.doubles.waiting import eventually
from tests.integration.test_worker import (
    Workers,
    at_step,
    checkpointed,
    ended,
    endless,
    runner_pid,
    wait,
    workers,
)

__all__ = ["workers"]  # a fixture


def test_a_frozen_worker_loses_its_job_and_what_it_wrote_meanwhile_counts_nowhere(
    workers: Workers, store: JobStore
) -> None:
    first = workers.start("first", clocks={"lease": 1.5})
    job = store.create(endless(checkpoint_every=5))
    wait(store, job, checkpointed)
    asleep = psutil.Process(runner_pid(workers, job))
    first.send_signal(signal.SIGSTOP)
    frozen = store.get(job.id).checkpoint
    assert frozen is not None
    workers.start("second", clocks={"lease": 1.5})
    wait(store, job, lambda record: record.attempt == 2 and record.state is JobState.RUNNING)
    attempts = workers.home / "attempts" / job.id
    start = attempts / "0002" / "start.ckpt"
    eventually(start.exists)
    assert json.loads(start.read_text())["step"] == frozen.step

    # Its runner knows of nothing and goes on, in a folder of its own.
    later = f"step-{frozen.step + 20:08d}.ckpt"  # it may be cleared again before it is seen
    stale = attempts / "0001" / "checkpoints"
    eventually(lambda: any(each.name >= later for each in stale.glob("step-*.ckpt")))
    assert asleep.is_running()
    first.send_signal(signal.SIGCONT)
    eventually(lambda: "another attempt holds the job" in workers.log("first"))
    eventually(lambda: not asleep.is_running())
    wait(store, job, at_step(frozen.step + 40))
    store.cancel(job.id)
    record = wait(store, job, ended)
    assert record.attempt == 2
    end, _ = store.ends(job.id)
    assert (end.attempt, end.worker, end.reason) == (1, "first", Reason.LOST)
    artifacts = ArtifactStore(workers.home / "store")
    for counted in (record.checkpoint, record.previous, record.best):
        assert counted is not None
        assert "attempt-0002" in counted.artifact
        assert artifacts.check(counted.artifact, counted.digest)
    points = store.metrics(job.id)
    steps = [point.step for point in points]
    assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"
    by_first = [point.step for point in points if point.attempt == 1]
    assert max(by_first) < frozen.step + 20, "the frozen worker could write"


def test_a_runner_that_eats_all_cores_does_not_starve_its_supervisor(
    workers: Workers, store: JobStore
) -> None:
    workers.start("hungry", clocks={"lease": 2.0})
    workers.start("waiting", clocks={"lease": 2.0})  # it would take over what ran out
    job = store.create(endless(burn=4 * (psutil.cpu_count() or 1)))
    wait(store, job, at_step(1))
    renewed = {store.get(job.id).worker}
    wait(store, job, at_step(100))
    record = store.get(job.id)
    assert {record.worker} == renewed
    assert (record.attempt, store.ends(job.id)) == (1, [])
    store.cancel(job.id)
    wait(store, job, ended)
    eventually(lambda: not workers.runners())
