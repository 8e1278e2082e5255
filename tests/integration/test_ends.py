"""What the record remembers of ended attempts, and which checkpoints count."""

from typing import Any

from jobs.evidence import MAX_ENDS, MAX_LOG, Evidence
from jobs.job import Checkpoint, Lease, Reason
from jobs.spec import Component, Policy, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker

WORKER = Worker(id="w3", slots=9, free_slots=9, store="s")


def spec(**changes: Any) -> TrainSpec:
    policy = Policy(retry_seconds=0)
    return TrainSpec(model=Component("m"), data=Component("d"), policy=policy, **changes)


def take(store: JobStore) -> Lease:
    found = store.acquire(WORKER, 60)
    assert found is not None
    return found[1]


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(f"{step}.ckpt", "0" * 64, step, 1)


def test_each_ended_attempt_is_told_with_what_was_seen_of_it(store: JobStore) -> None:
    job = store.create(spec(retries=1)).id
    seen = Evidence("exited", None, "SIGSEGV", 1, 0, 300_000_000, 0, log="x" * 5_000 + "é the end")
    store.finish(take(store), Reason.HUNG, message="no step", evidence=seen)
    store.release(take(store))
    store.finish(take(store), Reason.SUCCEEDED, evidence=Evidence("exited", 0))
    first, second, third = store.ends(job)
    assert (first.attempt, first.worker, first.reason, first.message) == (
        *(1, "w3", Reason.HUNG, "no step"),
    )
    kept = first.evidence
    assert (kept.signal, kept.rank, kept.peak_memory) == ("SIGSEGV", 1, 300_000_000)
    assert len(kept.log) == MAX_LOG
    assert kept.log.endswith("é the end")
    assert (second.reason, second.message) == (Reason.PREEMPTED, "handed back by w3")
    assert second.evidence == Evidence()
    assert (third.reason, third.evidence.status) == (Reason.SUCCEEDED, 0)
    assert first.started <= first.ended <= second.started <= third.ended
    assert third.ended == store.get(job).ended


def test_only_the_newest_ends_are_remembered(store: JobStore) -> None:
    job = store.create(spec(retries=MAX_ENDS + 3)).id
    for _ in range(MAX_ENDS + 3):
        store.finish(take(store), Reason.HUNG)
    assert [each.attempt for each in store.ends(job)] == list(range(4, MAX_ENDS + 4))


def test_the_checkpoint_before_the_newest_stays_in_the_record(store: JobStore) -> None:
    job = store.create(spec()).id
    lease = take(store)
    for step in (1, 2, 3):
        store.publish(lease, checkpoint(step), best=step == 1)
    store.publish(lease, Checkpoint("3 again", "1" * 64, 3, 1), best=False)
    record = store.get(job)
    assert (record.checkpoint, record.previous, record.best) == (
        *(Checkpoint("3 again", "1" * 64, 3, 1), checkpoint(2), checkpoint(1)),
    )


def test_a_damaged_checkpoint_gives_way_to_the_one_before(store: JobStore) -> None:
    job = store.create(spec()).id
    lease = take(store)
    for step in (1, 2):
        store.publish(lease, checkpoint(step), best=True)
    store.retract(lease, checkpoint(2))
    record = store.get(job)
    assert (record.checkpoint, record.previous, record.best) == (checkpoint(1), None, None)
    store.retract(lease, checkpoint(2))  # an answer that was lost
    assert store.get(job) == record
    store.retract(lease, checkpoint(1))
    assert store.get(job).checkpoint is None
    store.publish(lease, checkpoint(1), best=False)
    assert store.get(job).checkpoint == checkpoint(1)


def test_of_two_damaged_ones_none_comes_back(store: JobStore) -> None:
    job = store.create(spec()).id
    lease = take(store)
    for step in (1, 2):
        store.publish(lease, checkpoint(step), best=False)
    store.retract(lease, checkpoint(1))
    store.retract(lease, checkpoint(2))
    record = store.get(job)
    assert (record.checkpoint, record.previous) == (None, None)
