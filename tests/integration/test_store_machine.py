"""The record store against a model in plain Python: several workers, expiry, cancel, stale tokens.

The model knows no Redis, no scripts and no keys; it is the queue's section of the design written
down once more, as simply as it can be. The clock is the test's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs.errors import NotAllowed, StaleToken
from jobs.job import TRANSITIONS, Checkpoint, JobState, Lease, Reason
from jobs.spec import Component, Resources, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker
from worker.events import MetricEvent

TTL = 10_000
ENDED = ("succeeded", "failed", "cancelled")
FREE = ("preempted", "infrastructure", "lost")
COUNTED = ("out_of_memory", "hung")
WORKERS = {  # name -> GPUs, labels
    "cpu": (0, ()),
    "one": (1, ("fast",)),
    "two": (2, ()),
}


@dataclass
class ModelJob:
    """What the design says of one job."""

    id: str
    priority: int
    age: int
    retries: int
    gpus: int | None
    labels: tuple[str, ...]
    after: str | None
    state: str = "queued"
    reason: str | None = None
    wish: str = ""
    attempt: int = 0
    worker: str = ""
    used: int = 0
    free: int = 0
    expires: int = 0
    taken: int = 0
    step: int = -1
    highest: int = -1
    points: list[int] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)

    def move(self, state: str, reason: str | None = None) -> None:
        self.moves.append((self.state, state))
        self.state, self.wish = state, ""
        if reason:
            self.reason = reason

    def end_attempt(self, reason: str) -> None:
        if self.wish == "cancel" and reason != "succeeded":
            reason = "cancelled"
        if reason in ("succeeded", "cancelled"):
            self.move(reason, reason)
        elif reason == "preempted" and self.wish == "pause":
            self.move("paused", reason)
        else:
            self.move(self.after_failure(reason), reason)

    def after_failure(self, reason: str) -> str:
        again = "paused" if self.wish == "pause" else "queued"
        if reason in FREE:
            self.free += 1
            return again if self.free < 5 else "failed"
        if reason in COUNTED:
            self.free = 0
            if self.used < self.retries:
                self.used += 1
                return again
        return "failed"

    @property
    def shown_reason(self) -> str | None:
        """A cancelled request shows that; asked for again, it shows what its last attempt said."""
        return "cancelled" if self.state == "cancelled" else self.reason

    def needs(self, gpus: int) -> int:
        return min(1, gpus) if self.gpus is None else self.gpus


class StoreMachine(RuleBasedStateMachine):
    """Do the same to the store and to the model, and compare what both say."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000_000
        self.swept = 0
        self.store = JobStore(self.client, uuid4().hex, clock=lambda: self.now)
        self.model: dict[str, ModelJob] = {}
        self.keys: dict[str, str] = {}
        self.holds: dict[str, tuple[str, int]] = {}
        self.age = 0

    submitted = Bundle("submitted")
    leases = Bundle("leases")

    # -- what a submitter does ---------------------------------------------------------------

    @rule(
        target=submitted,
        priority=st.sampled_from([0, 0, 0, 5, -5]),
        retries=st.integers(0, 2),
        gpus=st.sampled_from([None, None, 0, 1, 2]),
        labels=st.sampled_from([(), (), (), ("fast",)]),
        key=st.sampled_from([None, None, "a", "b"]),
    )
    def submit(self, priority: int, retries: int, gpus: Any, labels: Any, key: Any) -> str:
        return self.put(ModelJob("", priority, 0, retries, gpus, labels, None), key)

    @rule(target=submitted, parent=submitted)
    def submit_after(self, parent: str) -> Any:
        job = ModelJob("", 0, 0, 0, None, (), parent)
        before = self.model.get(parent)
        if before is None or before.state in ("failed", "cancelled"):
            with pytest.raises(Exception, match="which this one would wait for"):
                self.put(job, None)
            return multiple()
        job.state = "queued" if before.state == "succeeded" else "blocked"
        return self.put(job, None)

    def put(self, job: ModelJob, key: str | None) -> str:
        spec = TrainSpec(
            model=Component("m"),
            data=Component("d"),
            priority=job.priority,
            retries=job.retries,
            resources=Resources(gpus=job.gpus, labels=list(job.labels)),
            after=(job.after,) if job.after else (),
        )
        job.id = self.store.create(spec, key=key).id
        if key in self.keys:
            assert job.id == self.keys[key], "one key, one job"
            return job.id
        assert job.id not in self.model
        self.age += 1
        job.age = self.age
        self.model[job.id] = job
        if key:
            self.keys[key] = job.id
        return job.id

    @contextmanager
    def refused(self, allowed: bool, error: type[Exception] = NotAllowed) -> Iterator[None]:
        if allowed:
            yield
        else:
            with pytest.raises(error):
                yield

    @rule(name=submitted)
    def cancel(self, name: str) -> None:
        if job := self.model.get(name):
            with self.refused(job.state not in ("succeeded", "failed")):
                self.store.cancel(name)
            if job.state == "running":
                job.wish = "cancel"
            elif job.state not in ENDED:
                job.move("cancelled")

    @rule(name=submitted)
    def pause_or_resume(self, name: str) -> None:
        job = self.model.get(name)
        if job is None or job.wish == "cancel":
            return
        if job.state == "paused":
            self.store.resume(name)
            job.move("queued")
        elif job.wish == "pause":
            self.store.resume(name)
            job.wish = ""
        else:
            with self.refused(job.state in ("queued", "running")):
                self.store.pause(name)
            if job.state == "queued":
                job.move("paused")
            elif job.state == "running":
                job.wish = "pause"

    @rule(name=submitted)
    def retry(self, name: str) -> None:
        if job := self.model.get(name):
            again = job.state in ("failed", "cancelled")
            with self.refused(again):
                self.store.retry(name)
            if again:
                self.age += 1
                job.age, job.used, job.free = self.age, 0, 0
                job.state, job.wish = ("blocked" if job.after else "queued"), ""

    @rule(name=submitted)
    def remove(self, name: str) -> None:
        if job := self.model.get(name):
            with self.refused(job.state in ENDED):
                self.store.remove(name)
            if job.state in ENDED:
                del self.model[name]
                self.keys = {key: kept for key, kept in self.keys.items() if kept != name}

    # -- what workers do ---------------------------------------------------------------------

    @rule(target=leases, name=st.sampled_from(sorted(WORKERS)))
    def acquire(self, name: str) -> Any:
        worker = self.worker(name)
        expected = self.choose(worker)
        found = self.store.acquire(worker, TTL / 1000)
        assert (found[0].id if found else None) == (expected.id if expected else None)
        if not found or not expected:
            return multiple()
        self.holds.pop(expected.id, None)
        expected.move("running")
        expected.attempt += 1
        expected.worker = name
        expected.taken = expected.needs(WORKERS[name][0])
        expected.expires = self.now + TTL
        assert found[1] == Lease(expected.id, expected.attempt, name, expected.expires)
        return found[1]

    def worker(self, name: str) -> Worker:
        gpus, labels = WORKERS[name]
        used = sum(job.taken for job in self.model.values() if self.runs_on(job, name))
        running = sum(self.runs_on(job, name) for job in self.model.values())
        return Worker(
            id=name,
            slots=3,
            free_slots=3 - running,
            gpus=gpus,
            free_gpus=gpus - used,
            labels=labels,
            store="s",
        )

    @staticmethod
    def runs_on(job: ModelJob, name: str) -> bool:
        return job.state == "running" and job.worker == name

    def choose(self, worker: Worker) -> ModelJob | None:
        free = worker.free_gpus
        waiting = [job for job in self.model.values() if job.state == "queued"]
        for job in sorted(waiting, key=lambda job: (-job.priority, job.age)):
            needed = job.needs(worker.gpus)
            if not set(job.labels) <= set(worker.labels) or needed > worker.gpus:
                continue
            if worker.free_slots < 1:
                continue
            if needed <= free:
                return job
            holder, until = self.holds.get(job.id, (worker.id, 0))
            if holder == worker.id or until <= self.now:
                self.holds[job.id] = (worker.id, self.now + TTL)
                free = 0
        return None

    def holding(self, lease: Lease) -> ModelJob | None:
        job = self.model.get(lease.job)
        held = job and job.state == "running" and job.attempt == lease.attempt
        return job if held else None

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        job = self.holding(lease)
        with self.refused(job is not None, StaleToken):
            assert self.store.renew(lease, TTL / 1000) == (job.wish if job else "never")
        if job:
            job.expires = self.now + TTL

    @rule(lease=leases, first=st.integers(0, 5), count=st.integers(0, 4))
    def report(self, lease: Lease, first: int, count: int) -> None:
        job = self.holding(lease)
        steps = range(first, first + count)
        points = [MetricEvent("val/bleu", float(step), step, 1, 0.0) for step in steps]
        with self.refused(job is not None, StaleToken):
            self.store.report(lease, points=points)
        for step in steps if job else ():
            if job and step > job.highest:
                job.highest = step
                job.points.append(step)

    @rule(lease=leases, step=st.integers(0, 5))
    def publish(self, lease: Lease, step: int) -> None:
        job = self.holding(lease)
        with self.refused(job is not None, StaleToken):
            self.store.publish(lease, Checkpoint(f"at-{step}", "0", step, 1), best=False)
        if job and step > job.step:
            job.step, job.free = step, 0

    @rule(lease=leases, reason=st.sampled_from(sorted(Reason)))
    def finish(self, lease: Lease, reason: Reason) -> None:
        job = self.holding(lease)
        if job is None and self.store.known([lease.job]):
            self.model_repeats(lease, reason)
            return
        with self.refused(job is not None, StaleToken):
            state = self.store.finish(lease, reason)
        if job:
            job.end_attempt(reason.value)
            assert state == job.state

    def model_repeats(self, lease: Lease, reason: Reason) -> None:
        """A finish that comes again changes nothing, whether it is understood or refused."""
        before = self.store.get(lease.job)
        with suppress(StaleToken):
            assert self.store.finish(lease, reason) == before.state
        assert self.store.get(lease.job) == before

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        if job := self.holding(lease):
            self.store.release(lease)
            job.end_attempt("preempted")

    @rule(lease=leases)
    def put_file(self, lease: Lease) -> None:
        with self.refused(self.holding(lease) is not None, StaleToken):
            self.store.put_file(lease, "name", b"content")

    @rule()
    def sweep(self) -> None:
        silent = self.now - self.swept > TTL / 2
        self.swept = self.now
        running = [job for job in self.model.values() if job.state == "running"]
        expired = [] if silent else [job for job in running if job.expires <= self.now]
        for job in running:
            if silent:
                job.expires = max(job.expires, self.now + TTL)
            elif job in expired:
                job.end_attempt("lost")
        found = self.store.sweep(TTL / 1000)
        assert sorted(found.expired) == sorted(job.id for job in expired)
        self.unblock()

    def unblock(self) -> None:
        changed = True
        while changed:  # the store goes through them once; the order of a chain is not said
            self.store.sweep(TTL / 1000)
            changed = False
            for job in self.model.values():
                if job.state == "blocked":
                    changed |= self.look_at_parent(job)

    def look_at_parent(self, job: ModelJob) -> bool:
        parent = self.model.get(job.after or "")
        if parent is None or parent.state in ("failed", "cancelled"):
            failed = parent is not None and parent.state == "failed"
            job.move("failed", parent.reason if parent and failed else "cancelled")
            return True
        if parent.state == "succeeded":
            job.move("queued")
            return True
        return False

    @rule(seconds=st.sampled_from([0, 1, 4, 4, 4, 6, 11]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1000

    # -- what must always hold ----------------------------------------------------------------

    @invariant()
    def records_agree(self) -> None:
        records = {job.id: job for job in self.store.list()}
        assert records.keys() == self.model.keys()
        for name, job in self.model.items():
            record = records[name]
            said = (record.state, record.attempt, record.retries_used, record.wish, record.reason)
            assert said == (job.state, job.attempt, job.used, job.wish, job.shown_reason)
            step = record.checkpoint.step if record.checkpoint else -1
            assert step == job.step

    @invariant()
    def points_agree(self) -> None:
        for name, job in self.model.items():
            points = self.store.metrics(name)
            assert [point.step for point in points] == job.points
            assert [point.cursor for point in points] == list(range(1, len(points) + 1))

    @invariant()
    def only_known_moves(self) -> None:
        for job in self.model.values():
            for before, after in job.moves:
                assert JobState(after) in TRANSITIONS[JobState(before)], (before, after)


def test_the_store_does_what_the_model_does(redis_server: Any, client: Any) -> None:
    StoreMachine.client = client
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
