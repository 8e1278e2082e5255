"""The record store against a model in plain Python, with everything that can go wrong between.

Several workers, leases that run out, stale tokens, cancel, pause and retry; a clock that jumps;
bells that are lost or ring twice; answers that are lost, so that the same call comes again; a Redis
that is killed at any point and starts again from its append-only file. The clock is the test's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from jobs.connection import connect
from jobs.errors import NotAllowed, SpecError, StaleToken, UnrollError
from jobs.job import TRANSITIONS, Checkpoint, JobState, Lease, Reason
from jobs.spec import Component, Policy, Resources, TrainSpec
from jobs.store import JobStore
from jobs.store.scripts import load
from jobs.workers import Worker
from tests.doubles.queue_model import COUNTED, ENDED, FREE, LONGEST_WAIT, ModelJob
from worker.events import MetricEvent

TTL = 10_000
WORKERS = {  # name -> GPUs, labels
    "cpu": (0, ("fast",)),
    "two": (2, ()),
    "twin": (2, ()),
}


CHOICES = st.integers(0, 99)


class Forgetful:
    """Lose the answer of every nth write, so that it is sent twice, as redis-py does."""

    def __init__(self, scripts: Any) -> None:
        self._scripts = scripts
        self._writes = 0
        #: 0: none is lost; 1: all are.
        self.every = 0

    def run(self, name: str, /, **arguments: Any) -> Any:
        self._writes += bool(load(name).written)
        if load(name).written and self.every and self._writes % self.every == 0:
            with suppress(UnrollError):  # the refusal is an answer, too
                self._scripts.run(name, **dict(arguments))
        return self._scripts.run(name, **arguments)


class StoreMachine(RuleBasedStateMachine):
    """Do the same to the store and to the model, and compare what both say."""

    client: Any
    server: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000_000
        self.swept = 0
        namespace = uuid4().hex
        self.store = JobStore(self.client, namespace, clock=lambda: self.now)
        self.store._scripts = self.answers = Forgetful(self.store._scripts)  # type: ignore[assignment]
        self.sweeper = JobStore(self.client, namespace, clock=lambda: self.now)
        self.alive: dict[str, tuple[Worker, int]] = {}
        self.model: dict[str, ModelJob] = {}
        self.keys: dict[str, str] = {}
        #: Jobs of which points came since they were last looked at.
        self.reported: set[str] = set()
        self.leases: list[Lease] = []
        self.holds: dict[str, tuple[str, int]] = {}
        self.age = 0

    @initialize(every=st.sampled_from([1, 2, 0]))
    def begin(self, every: int) -> None:
        self.answers.every = every
        for priority in (5, 0, 0):
            self.put(ModelJob("", priority, 0, 2, 3_000, None, (), None), None)
        for name in ("two", "twin"):
            self.take(name)
        self.sweep()

    # -- what a submitter does ---------------------------------------------------------------

    @rule(
        priority=st.sampled_from([0, 0, 0, 5, -5]),
        retries=st.sampled_from([0, 1, 2, 2]),
        needs=st.lists(st.sampled_from([None, 0, 1, 1, 2]), min_size=1, max_size=3),
        labels=st.sampled_from([(), (), (), ("fast",)]),
        key=st.sampled_from([None, None, "a", "b"]),
        wait=st.sampled_from([3, 3, 0]),
    )
    def submit(
        self, priority: int, retries: int, needs: Any, labels: Any, key: Any, wait: int
    ) -> None:
        for gpus in needs:
            self.put(ModelJob("", priority, 0, retries, wait * 1000, gpus, labels, None), key)

    @rule(choice=CHOICES)
    def submit_after(self, choice: int) -> None:
        if parent := self.any_job(choice):
            job = ModelJob("", 0, 0, 0, 0, None, (), parent.id)
            if parent.state in ("failed", "cancelled"):
                with pytest.raises(SpecError, match="which this one would wait for"):
                    self.put(job, None)
            else:
                job.state = "queued" if parent.state == "succeeded" else "blocked"
                self.put(job, None)

    def any_job(self, choice: int) -> ModelJob | None:
        jobs = list(self.model.values())
        return jobs[choice % len(jobs)] if jobs else None

    def put(self, job: ModelJob, key: str | None) -> None:
        spec = TrainSpec(
            model=Component("m"),
            data=Component("d"),
            priority=job.priority,
            retries=job.retries,
            policy=Policy(retry_seconds=job.backoff / 1000, retry_max_seconds=LONGEST_WAIT / 1000),
            resources=Resources(gpus=job.gpus, labels=list(job.labels)),
            after=(job.after,) if job.after else (),
        )
        job.id = self.store.create(spec, key=key).id
        if key in self.keys:
            assert job.id == self.keys[key], "one key, one job"
            return
        assert job.id not in self.model
        self.age += 1
        job.age = self.age
        self.model[job.id] = job
        if key:
            self.keys[key] = job.id

    @contextmanager
    def refused(self, allowed: bool, error: type[Exception] = NotAllowed) -> Iterator[None]:
        if allowed:
            yield
        else:
            with pytest.raises(error):
                yield

    @rule(
        wishes=st.lists(
            st.tuples(
                CHOICES, st.sampled_from(["retry", "pause", "resume", "cancel", "remove", "retry"])
            ),
            min_size=1,
            max_size=4,
        )
    )
    def wish(self, wishes: list[tuple[int, str]]) -> None:
        for choice, wish in wishes:
            if job := self.job_for(wish, choice):
                getattr(self, wish)(job)

    def job_for(self, wish: str, choice: int) -> ModelJob | None:
        """Choose among the jobs that the wish is meant for, or at times among all."""
        apt = [job for job in self.model.values() if job.allows(wish)]
        return apt[choice % len(apt)] if apt and choice >= 20 else self.any_job(choice)

    def cancel(self, job: ModelJob) -> None:
        with self.refused(job.allows("cancel") or job.state == "cancelled"):
            self.store.cancel(job.id)
        if job.state == "running":
            job.wish = "cancel"
        elif job.state not in ENDED:
            job.move("cancelled")

    def pause(self, job: ModelJob) -> None:
        if job.wish == "cancel":
            return
        with self.refused(job.allows("pause") or job.state == "paused"):
            self.store.pause(job.id)
        if job.state == "queued":
            job.move("paused")
        elif job.state == "running":
            job.wish = "pause"

    def resume(self, job: ModelJob) -> None:
        if job.wish == "cancel":
            return
        with self.refused(job.allows("resume")):
            self.store.resume(job.id)
        if job.state == "paused":
            job.move("queued")
        job.wish = ""

    @rule(choice=CHOICES, reason=st.sampled_from(["preempted", "lost", "hung"]))
    def pause_and_end_the_attempt(self, choice: int, reason: str) -> None:
        lease = self.any_lease(choice + 25)
        job = self.holding(lease) if lease else None
        if lease and job and not job.wish:
            self.pause(job)
            assert self.store.finish(lease, Reason(reason)) is not None
            job.end_attempt(reason, self.now)

    def retry(self, job: ModelJob) -> None:
        again = job.state in ("failed", "cancelled")
        with self.refused(job.allows("retry")):
            self.store.retry(job.id)
        job.due = None
        if again:
            self.age += 1
            job.age, job.used, job.free = self.age, 0, 0
            job.move("blocked" if job.after and not job.attempt else "queued")

    def remove(self, job: ModelJob) -> None:
        with self.refused(job.allows("remove")):
            self.store.remove(job.id)
        if job.state in ENDED:
            del self.model[job.id]
            self.keys = {key: kept for key, kept in self.keys.items() if kept != job.id}

    # -- what workers do ---------------------------------------------------------------------

    @rule(name=st.sampled_from(["two", "twin", "two", "twin", "cpu"]), lost=st.booleans())
    def acquire(self, name: str, lost: bool) -> None:
        self.take(name, lost)

    def take(self, name: str, lost: bool = False) -> bool:
        worker = self.worker(name)
        self.promote(self.now)
        expected = self.choose(worker)
        nonce = uuid4().hex
        found = self.store.acquire(worker, TTL / 1000, nonce)
        if lost:  # it asks again
            found = self.store.acquire(worker, TTL / 1000, nonce)
        assert (found[0].id if found else None) == (expected.id if expected else None)
        if found and expected:
            self.holds.pop(expected.id, None)
            expected.move("running")
            expected.attempt += 1
            expected.worker = name
            expected.taken = expected.needs(WORKERS[name][0])
            expected.expires = self.now + TTL
            assert found[1] == Lease(expected.id, expected.attempt, name, expected.expires)
            self.leases.append(found[1])
        return found is not None

    def promote(self, until: float) -> None:
        for job in self.model.values():
            job.promote(until)

    @rule(name=st.sampled_from(sorted(WORKERS)), there=st.sampled_from([True, True, False]))
    def come_and_go(self, name: str, there: bool) -> None:
        if there:
            worker = self.worker(name)
            self.store.announce(worker, TTL / 1000)
            self.alive[name] = worker, self.now + TTL
        else:
            self.store.withdraw(name)
            self.alive.pop(name, None)

    @rule(name=st.sampled_from(sorted(WORKERS)), times=st.integers(0, 2))
    def ring(self, name: str, times: int) -> None:
        """A bell is lost, or heard once or twice: the worker takes jobs until nothing fits."""
        for _ in range(times):
            while self.take(name):
                pass

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
        waiting = [job for job in self.model.values() if job.state == "queued" and job.due is None]
        for job in sorted(waiting, key=lambda job: (-job.priority, job.age)):
            needed = job.needs(worker.gpus)
            if not set(job.labels) <= set(worker.labels) or needed > worker.gpus:
                continue
            if worker.free_slots < 1:
                continue
            if needed <= free:
                return job
            holder, until = self.holds.get(job.id, (worker.id, 0))
            if free and (holder == worker.id or until <= self.now):
                self.holds[job.id] = (worker.id, self.now + TTL)
                free = 0
        return None

    def holding(self, lease: Lease) -> ModelJob | None:
        job = self.model.get(lease.job)
        held = job and job.state == "running" and job.attempt == lease.attempt
        return job if held else None

    def any_lease(self, choice: int) -> Lease | None:
        """Choose among the leases that hold, or at times among those that another one replaced."""
        held = [lease for lease in self.leases if self.holding(lease)]
        if choice < 25:
            running = {lease.job for lease in held}
            past = [lease for lease in self.leases if lease not in held]
            held = [lease for lease in past if lease.job in running] or past
        return held[choice % len(held)] if held else None

    @rule(
        choice=CHOICES,
        writes=st.lists(
            st.tuples(
                st.sampled_from(["renew", "report", "report", "publish", "put_file"]),
                st.integers(0, 5),
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def write(self, choice: int, writes: list[tuple[str, int]]) -> None:
        if lease := self.any_lease(choice):
            job = self.holding(lease)
            for write, step in writes:
                with self.refused(job is not None, StaleToken):
                    getattr(self, write)(lease, job, step)

    def renew(self, lease: Lease, job: ModelJob | None, step: int) -> None:
        assert self.store.renew(lease, TTL / 1000) == (job.wish if job else "never")
        if job:
            job.expires = self.now + TTL

    def report(self, lease: Lease, job: ModelJob | None, first: int) -> None:
        steps = range(first, first + 3)
        points = [MetricEvent("val/bleu", float(step), step, 1, 0.0) for step in steps]
        self.reported.add(lease.job)
        self.store.report(lease, points=points)
        for step in steps if job else ():
            if job and step > job.highest:
                job.highest = step
                job.points.append(step)

    def publish(self, lease: Lease, job: ModelJob | None, step: int) -> None:
        self.store.publish(lease, Checkpoint(f"at-{step}", "0", step, 1), best=False)
        if job and step > job.step:
            job.step, job.free = step, 0

    def put_file(self, lease: Lease, job: ModelJob | None, step: int) -> None:
        self.store.put_file(lease, "name", b"content")

    @rule(
        choice=CHOICES, reason=st.sampled_from([*COUNTED, *FREE, *COUNTED, *FREE, *sorted(Reason)])
    )
    def finish(self, choice: int, reason: str) -> None:
        if lease := self.any_lease(choice):
            job = self.holding(lease)
            if job:
                state = self.store.finish(lease, Reason(reason))
                job.end_attempt(reason, self.now)
                assert state == job.state
            elif lease.job in self.model:
                self.finish_late(lease, Reason(reason))

    def finish_late(self, lease: Lease, reason: Reason) -> None:
        """A finish that comes again changes nothing, whether it is understood or refused."""
        before = self.store.get(lease.job)
        with suppress(StaleToken):
            assert self.store.finish(lease, reason) == before.state
        assert self.store.get(lease.job) == before

    @rule(choice=st.integers(25, 99), jump=st.sampled_from([-3_600, 5, -3_600, 3_600]))
    def hang_and_let_the_clock_jump(self, choice: int, jump: int) -> None:
        if lease := self.any_lease(choice):
            job = self.holding(lease)
            assert job is not None
            job.end_attempt("hung", self.now)
            assert self.store.finish(lease, Reason.HUNG) == job.state
        self.sweep()
        self.now += jump * 1000
        self.sweep()

    @rule(name=st.sampled_from(sorted(WORKERS)), reason=st.sampled_from([*FREE, *COUNTED]))
    def crash_again_and_again(self, name: str, reason: str) -> None:
        for _ in range(5):
            before = len(self.leases)
            self.now += 4_000  # the longest wait before a free retry
            self.take(name)
            for lease in self.leases[before:]:
                job = self.holding(lease)
                assert job is not None
                assert self.store.finish(lease, Reason(reason)) is not None
                job.end_attempt(reason, self.now)

    @rule(
        seconds=st.sampled_from([0, 1, 4, 4, 4, 6, 11, -3_600, -3_600, 3_600]),
        swept=st.sampled_from([True, True, False]),
    )
    def wait(self, seconds: int, swept: bool) -> None:
        self.now += seconds * 1000
        if swept:
            self.sweep()

    def sweep(self) -> None:
        set_back = self.now < self.swept
        silent = self.now - self.swept > TTL / 2 or set_back
        self.swept = self.now
        if set_back:
            self.holds.clear()
        running = [job for job in self.model.values() if job.state == "running"]
        expired = [] if silent else [job for job in running if job.expires <= self.now]
        for job in running:
            if silent:
                job.expires = max(0 if set_back else job.expires, self.now + TTL)
            elif job in expired:
                job.end_attempt("lost", self.now)
        self.alive = {
            name: (worker, max(0 if set_back else until, self.now + TTL) if silent else until)
            for name, (worker, until) in self.alive.items()
            if silent or until > self.now
        }
        self.promote(float("inf") if set_back else self.now)
        found = self.sweeper.sweep(TTL / 1000)
        assert sorted(found.expired) == sorted(job.id for job in expired)
        self.unblock()
        rung = self.sweeper.sweep(TTL / 1000).bells
        assert rung == (["default"] if self.somebody_could_work() else [])

    def somebody_could_work(self) -> bool:
        waiting = [job for job in self.model.values() if job.state == "queued" and job.due is None]
        workers = [worker for worker, _ in self.alive.values() if worker.free_slots]
        return any(
            set(job.labels) <= set(worker.labels) and job.needs(worker.gpus) <= worker.free_gpus
            for worker in workers
            for job in waiting
        )

    @rule(often=st.sampled_from([False, False, True]))
    def kill_redis(self, often: bool) -> None:
        if often:
            self.server.kill()
            self.server.start()

    def unblock(self) -> None:
        changed = True
        while changed:
            changed = False
            for job in self.model.values():
                if job.state == "blocked":
                    self.sweeper.sweep(TTL / 1000)  # one goes through them once, in any order
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

    # -- what must always hold ----------------------------------------------------------------

    @invariant()
    def records_agree(self) -> None:
        records = {job.id: job for job in self.store.list()}
        assert records.keys() == self.model.keys()
        for name, job in self.model.items():
            record = records[name]
            said = (record.state, record.attempt, record.retries_used, record.wish, record.reason)
            assert said == (job.state, job.attempt, job.used, job.wish, job.shown_reason)
            assert record.free_used == job.free
            step = record.checkpoint.step if record.checkpoint else -1
            assert step == job.step

    @invariant()
    def points_agree(self) -> None:
        reported, self.reported = self.reported & self.model.keys(), set()
        for name in reported:
            job, points = self.model[name], self.store.metrics(name)
            assert [point.step for point in points] == job.points
            assert [point.cursor for point in points] == list(range(1, len(points) + 1))

    @invariant()
    def every_state_has_a_sentence(self) -> None:
        for job in list(self.model.values())[-1:]:  # all of them come to be the newest
            said = self.store.why(job.id)
            assert said.strip(), job.state
            assert said.isprintable(), said

    @invariant()
    def only_known_moves(self) -> None:
        for job in self.model.values():
            for before, after in job.moves:
                assert JobState(after) in TRANSITIONS[JobState(before)], (before, after)


@pytest.fixture
def durable(make_server: Callable[..., Any]) -> Iterator[Any]:
    """Return a server that loses nothing that it has acknowledged, however it dies."""
    server = make_server(durable=True)
    with connect(server.url) as client:
        StoreMachine.client, StoreMachine.server = client, server
        yield server


def test_the_store_does_what_the_model_does(durable: Any) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
