"""The record store on a real Redis: what the state machine's model leaves out."""

import json
import math
import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import pytest

from jobs.connection import connect
from jobs.errors import (
    ArtifactError,
    NotAllowed,
    ServiceUnreachable,
    SpecError,
    StaleToken,
    UnknownJob,
)
from jobs.handle import PREDICT_PRIORITY
from jobs.job import Checkpoint, Job, JobState, Lease, Progress, Reason
from jobs.spec import (
    AnySpec,
    Component,
    EvaluateSpec,
    GenerateSpec,
    Policy,
    PredictSpec,
    Resources,
    TrainSpec,
)
from jobs.store import JobStore, holding, looking
from jobs.store.feed import LOG_LINES, STREAM_POINTS
from jobs.workers import Worker
from tests.doubles.clock import Clock
from worker.events import MetricEvent

TTL = 10.0
#: What comes back to the queue at once, whatever its retries cost.
EAGER = Policy(retry_seconds=0)
SPEC = TrainSpec(model=Component("m", {"size": 3}), data=Component("d"), tags=("a", "b"))
WORKER = Worker(id="w", slots=9, free_slots=9, store="s")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(client: Any, clock: Clock) -> JobStore:
    return JobStore(client, uuid4().hex, clock=clock)


def needing(**resources: Any) -> TrainSpec:
    return replace(SPEC, resources=Resources(**resources))


def take(store: JobStore, worker: Worker = WORKER) -> Lease:
    found = store.acquire(worker, TTL)
    assert found is not None
    return found[1]


def taken(store: JobStore, worker: Worker = WORKER) -> str | None:
    found = store.acquire(worker, TTL)
    return found[0].id if found else None


def points(name: str, *steps: int) -> list[MetricEvent]:
    return [MetricEvent(name, step / 2, step, 1, 1.5) for step in steps]


# -- submission ------------------------------------------------------------------------------


def test_a_new_job_is_what_was_asked_for(store: JobStore) -> None:
    job = store.create(SPEC, note="unchecked")
    assert (job.state, job.spec, job.tags) == (JobState.QUEUED, SPEC.to_dict(), ("a", "b"))
    assert (job.note, job.attempt, job.reason, job.queue) == ("unchecked", 0, None, "default")
    assert job.submitted > 1_700_000_000
    assert store.get(job.id) == job


def test_ids_are_short_and_sort_by_time(store: JobStore) -> None:
    ids = []
    for _ in range(3):
        ids.append(store.create(SPEC).id)
        threading.Event().wait(0.002)
    assert ids == sorted(ids)
    assert all(re.fullmatch("[0-9a-z]{12}", each) for each in ids)


def test_twenty_submissions_at_once_with_one_key_are_one_job(redis_server: Any) -> None:
    namespace = uuid4().hex
    clients = [connect(redis_server.url) for _ in range(20)]
    start = threading.Barrier(20)

    def submit(client: Any) -> str:
        start.wait()
        return JobStore(client, namespace).create(SPEC, key="the-same").id

    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(submit, clients))
    assert len(ids) == 1
    assert [job.id for job in JobStore(clients[0], namespace).list()] == list(ids)
    for client in clients:
        client.close()


def test_an_id_that_is_taken_is_replaced(store: JobStore, monkeypatch: Any) -> None:
    ids = iter(["same", "same", "other"])
    monkeypatch.setattr("jobs.store.submitting.new_id", lambda: next(ids))
    assert [store.create(SPEC).id, store.create(SPEC).id] == ["same", "other"]


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_a_key_has_bounds(store: JobStore, key: str) -> None:
    with pytest.raises(SpecError, match="1 to 200 characters"):
        store.create(SPEC, key=key)


def test_a_spec_too_large_is_refused_before_anything_is_queued(store: JobStore) -> None:
    large = replace(SPEC, model=Component("m", {"text": "x" * 1_000_000}))
    with pytest.raises(SpecError, match="can be queued"):
        store.create(large)
    assert store.list() == []


def test_sixteen_megabytes_of_lines_travel(store: JobStore) -> None:
    lines = tuple("x" * 999 for _ in range(15_000))
    job = store.create(PredictSpec(job="trained", lines=lines))
    assert store.get(job.id).spec["lines"] == list(lines)
    assert [listed.spec for listed in store.list()] == [{}]
    found = store.acquire(WORKER, TTL)
    assert found is not None
    assert found[0].spec["lines"] == list(lines)


def test_after_names_a_job_that_can_still_succeed(store: JobStore) -> None:
    with pytest.raises(UnknownJob, match="no job has the id nothing"):
        store.create(replace(SPEC, after=("nothing",)))
    parent = store.create(SPEC).id
    store.cancel(parent)
    with pytest.raises(SpecError, match=f"job {parent}, .* ended as cancelled"):
        store.create(replace(SPEC, after=(parent,)))


def test_what_a_later_version_says_of_a_job_is_passed_over(store: JobStore) -> None:
    job = store.create(SPEC)
    checkpoint = Checkpoint("a.ckpt", "0" * 64, 1, 1)
    said = {**asdict(checkpoint), "bytes": 5}
    fields = dict.fromkeys(("checkpoint", "previous", "best"), json.dumps(said))
    progress = json.dumps({"step": 3, "mood": "good"})
    store._client.hset(store.keys("job", job.id), mapping={**fields, "progress": progress})
    found = store.acquire(WORKER, TTL)
    assert found is not None
    read = found[0]
    assert read.checkpoint == read.previous == read.best == checkpoint
    assert read.progress == Progress(step=3)


# -- the order of the queue -------------------------------------------------------------------


def test_priority_goes_first_then_age(store: JobStore) -> None:
    ids = [store.create(replace(SPEC, priority=each)).id for each in (0, 5, -100, 5, 100, 0)]
    order = [taken(store) for _ in ids]
    assert order == [ids[each] for each in (4, 1, 3, 0, 5, 2)]
    assert taken(store) is None


def test_a_released_job_keeps_its_place(store: JobStore) -> None:
    first, second = (store.create(SPEC).id for _ in range(2))
    store.release(take(store))
    assert [taken(store), taken(store)] == [first, second]
    assert store.get(first).attempt == 2


def test_only_the_queues_of_a_worker_are_looked_at_together(store: JobStore) -> None:
    slow = store.create(needing(queue="slow")).id
    urgent = store.create(replace(needing(queue="fast"), priority=1)).id
    late = store.create(needing(queue="slow")).id
    assert taken(store) is None
    both = replace(WORKER, queues=("slow", "fast"))
    assert [taken(store, both) for _ in range(3)] == [urgent, slow, late]


def test_long_queues_are_merged_by_priority_and_age(store: JobStore) -> None:
    chance = random.Random(5)
    jobs = []
    for age in range(130):
        priority, queue = chance.choice([0, 0, 3]), chance.choice(["a", "b", "b"])
        job = store.create(replace(needing(queue=queue), priority=priority)).id
        jobs.append((-priority, age, job))
    both = replace(WORKER, queues=("a", "empty", "b"))
    assert [taken(store, both) for _ in jobs] == [job for _, _, job in sorted(jobs)]
    assert taken(store, both) is None


def test_jobs_that_do_not_fit_are_passed_over(store: JobStore) -> None:
    for _ in range(120):
        store.create(needing(labels=["rare"]))
    job = store.create(SPEC).id
    assert taken(store) == job


def test_however_many_jobs_fit_nobody_those_behind_them_come_to_their_turn(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "LOOK", 7)
    for _ in range(40):
        store.create(needing(labels=["rare"]))
    jobs = {store.create(SPEC).id for _ in range(3)}
    found: set[str | None] = set()
    for _ in range(2_000):  # each look is one in six to find them
        found.add(taken(store))
        if jobs <= found:
            break
    assert found - {None} == jobs
    assert taken(store, replace(WORKER, labels=("rare",))), "the head is always looked at"


def test_a_look_behind_the_head_reaches_every_place(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "LOOK", 4)
    for _ in range(4):
        store.create(needing(labels=["rare"]))
    jobs = [store.create(SPEC).id for _ in range(10)]
    for further, found in ((0.999, jobs[8]), (0.34, jobs[4]), (0.0, jobs[0])):
        monkeypatch.setattr("random.random", lambda further=further: further)
        assert taken(store) == found


def test_labels_all_must_be_there(store: JobStore) -> None:
    job = store.create(needing(labels=["a", "b"])).id
    assert taken(store, replace(WORKER, labels=("a",))) is None
    assert taken(store, replace(WORKER, labels=("b", "c", "a"))) == job


def test_no_free_slot_no_job(store: JobStore) -> None:
    store.create(SPEC)
    assert taken(store, replace(WORKER, free_slots=0)) is None


@pytest.mark.parametrize(
    "spec", [PredictSpec(job="trained", lines=("a",)), GenerateSpec(job="trained", prompt="a")]
)
def test_a_slot_for_answers_is_for_these_alone(store: JobStore, spec: AnySpec) -> None:
    busy = replace(WORKER, free_slots=0, answer_slots=1, free_answer_slots=1)
    training = store.create(SPEC).id
    store.announce(busy, TTL)
    assert taken(store, busy) is None
    assert store.why(training) == "queued: all slots are in use on w"
    answer = store.create(spec).id
    assert "all slots" not in store.why(answer)
    full = replace(busy, free_answer_slots=0)
    assert taken(store, full) is None
    store.announce(full, TTL)
    assert store.why(answer) == "queued: all slots are in use on w; behind 1 job"
    assert taken(store, busy) == answer


def test_without_slots_of_their_own_answers_take_any(store: JobStore) -> None:
    answer = store.create(PredictSpec(job="trained", lines=("a",))).id
    assert taken(store, replace(WORKER, free_slots=0)) is None  # also of a version without these
    assert taken(store, replace(WORKER, free_slots=1)) == answer


def test_a_busy_worker_finds_a_prediction_before_hundreds_of_trainings(store: JobStore) -> None:
    for _ in range(2 * holding.ANSWER_LOOK):
        store.create(SPEC)
    answer = store.create(PredictSpec(job="x", lines=("a",), priority=PREDICT_PRIORITY)).id
    assert taken(store, replace(WORKER, free_slots=0, free_answer_slots=1)) == answer


def test_a_job_that_says_nothing_of_gpus_takes_one_where_there_is_one(store: JobStore) -> None:
    job = store.create(SPEC).id
    assert taken(store, replace(WORKER, gpus=2, free_gpus=0)) is None
    assert taken(store, replace(WORKER, gpus=0)) == job


def test_a_big_job_is_not_starved_and_holds_only_where_it_could_run(store: JobStore) -> None:
    big = store.create(needing(gpus=4)).id
    small = [store.create(needing(gpus=1)).id for _ in range(4)]
    no_gpu = store.create(needing(gpus=0)).id
    wide = replace(WORKER, id="wide", gpus=4, free_gpus=3)
    other = replace(wide, id="other")
    narrow = replace(WORKER, id="narrow", gpus=2, free_gpus=2)
    assert taken(store, narrow) == small[0], "it could never fit here"
    assert taken(store, wide) == no_gpu, "its GPUs are kept, what needs none goes on"
    assert taken(store, wide) is None
    assert taken(store, other) == small[1], "one worker keeps its GPUs free, not all"
    assert taken(store, replace(other, free_gpus=4)) == big, "who has them free first takes it"
    assert taken(store, wide) == small[2]


def test_a_hold_lapses_with_its_worker(timed: JobStore, clock: Clock) -> None:
    timed.create(needing(gpus=4))
    small = timed.create(needing(gpus=1)).id
    wide = replace(WORKER, id="wide", gpus=4, free_gpus=3)
    assert taken(timed, wide) is None
    clock.wait(TTL + 1)
    assert taken(timed, replace(wide, id="other")) is None, "the other holds them now"
    assert taken(timed, wide) == small


def test_one_big_job_keeps_the_gpus_however_many_wait_behind_it(
    store: JobStore, client: Any
) -> None:
    big, bigger, _ = (store.create(needing(gpus=number)).id for number in (3, 4, 2))
    wide = replace(WORKER, id="wide", gpus=4, free_gpus=1)
    assert taken(store, wide) is None
    assert client.hkeys(store.keys("holds")) == [big.encode()]
    assert taken(store, replace(wide, id="other")) is None
    assert sorted(client.hkeys(store.keys("holds"))) == sorted([big.encode(), bigger.encode()])


def test_a_job_with_a_checkpoint_stays_with_its_store(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.publish(lease, Checkpoint("key", "digest", 5, 1), best=True)
    store.release(lease)
    assert taken(store, replace(WORKER, store="elsewhere")) is None
    assert taken(store) == job


def test_without_a_checkpoint_any_store_will_do(store: JobStore) -> None:
    job = store.create(SPEC).id
    store.release(take(store))
    assert taken(store, replace(WORKER, store="elsewhere")) == job
    assert store.get(job).store == "elsewhere"


@pytest.mark.parametrize(
    "spec_of",
    [
        lambda trained: EvaluateSpec(job=trained),
        lambda trained: PredictSpec(job=trained, lines=("a",)),
        lambda trained: replace(SPEC, resume_from=trained),
    ],
)
def test_a_job_that_uses_another_ones_files_goes_where_they_are(
    store: JobStore, spec_of: Callable[[str], Any]
) -> None:
    trained = store.create(SPEC).id
    store.finish(take(store), Reason.SUCCEEDED)
    user = store.create(spec_of(trained)).id
    assert taken(store, replace(WORKER, store="elsewhere")) is None
    assert taken(store) == user


# -- attempts and their ends -------------------------------------------------------------------


def test_the_whole_of_a_result_is_kept(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    best, newest = Checkpoint("b", "1", 5, 1, 0.5), Checkpoint("n", "2", 9, 2)
    store.publish(lease, best, best=True)
    store.publish(lease, newest, best=False)
    store.report(lease, progress=Progress(9, 10, 2, 3, "training"))
    result = {"val/bleu": 41.5, "val/loss": math.inf, "bleu_signature": "nrefs:1|é"}
    assert store.finish(lease, Reason.SUCCEEDED, message="done", result=result) is (
        JobState.SUCCEEDED
    )
    record = store.get(job)
    assert (record.best, record.checkpoint) == (best, newest)
    assert record.progress == Progress(9, 10, 2, 3, "training")
    assert record.result == result
    assert (record.worker, record.store, record.message) == ("w", "s", "done")
    assert record.submitted <= record.started <= record.ended


def test_a_failure_keeps_its_traceback_within_bounds(store: JobStore) -> None:
    job = store.create(SPEC).id
    long = "first line\n" + "x" * 100_000 + "\nlast line \udcff"
    store.finish(take(store), Reason.USER_ERROR, message="m" * 5_000, traceback=long)
    record = store.get(job)
    assert record.state is JobState.FAILED
    assert len(record.message) == 1_000
    assert len(record.traceback) == 20_000
    assert record.traceback.endswith("last line ?")


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.HUNG])
def test_counted_ends_use_up_the_retries(store: JobStore, reason: Reason) -> None:
    job = store.create(replace(SPEC, retries=2, policy=EAGER)).id
    states = [store.finish(take(store), reason) for _ in range(3)]
    assert states == ["queued", "queued", "failed"]
    assert store.get(job).retries_used == 2


@pytest.mark.parametrize(("on_nan", "state"), [("fail", "failed"), ("retry", "queued")])
def test_nan_is_tried_again_only_if_asked(store: JobStore, on_nan: Any, state: str) -> None:
    store.create(replace(SPEC, retries=1, policy=Policy(on_nan=on_nan)))
    assert store.finish(take(store), Reason.NAN) == state


@pytest.mark.parametrize("reason", [Reason.USER_ERROR, Reason.BAD_DATA, Reason.TIMED_OUT])
def test_ends_that_a_further_attempt_would_meet_again_are_final(
    store: JobStore, reason: Reason
) -> None:
    store.create(replace(SPEC, retries=9))
    assert store.finish(take(store), reason) is JobState.FAILED


def take_after_the_wait(timed: JobStore, clock: Clock) -> Lease:
    clock.wait(60)
    return take(timed)


def test_five_free_ends_without_a_newer_checkpoint_are_the_end(
    timed: JobStore, clock: Clock
) -> None:
    job = timed.create(SPEC).id
    for step, ends in ((1, 4), (2, 3)):  # a newer checkpoint gives new patience
        for _ in range(ends):
            assert (
                timed.finish(take_after_the_wait(timed, clock), Reason.INFRASTRUCTURE)
                is JobState.QUEUED
            )
        lease = take_after_the_wait(timed, clock)
        timed.publish(lease, Checkpoint("k", "d", step, 1), best=False)
        assert timed.finish(lease, Reason.LOST) is JobState.QUEUED
    for _ in range(3):
        assert timed.finish(take_after_the_wait(timed, clock), Reason.PREEMPTED) is JobState.QUEUED
    assert (
        timed.finish(take_after_the_wait(timed, clock), Reason.LOST, message="gone")
        is JobState.FAILED
    )
    record = timed.get(job)
    assert (record.reason, record.retries_used) == (Reason.LOST, 0)
    assert record.message == (
        "5 attempts in a row ended without a newer checkpoint; the last: gone"
    )


def test_an_end_of_another_kind_breaks_the_row(timed: JobStore, clock: Clock) -> None:
    timed.create(replace(SPEC, retries=1))
    for reason in [*[Reason.LOST] * 4, Reason.HUNG, *[Reason.LOST] * 4]:
        assert timed.finish(take_after_the_wait(timed, clock), reason) is JobState.QUEUED
    assert timed.finish(take_after_the_wait(timed, clock), Reason.LOST) is JobState.FAILED


def test_finishing_twice_is_finishing_once(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    assert store.finish(lease, Reason.SUCCEEDED) == store.finish(lease, Reason.SUCCEEDED)
    with pytest.raises(StaleToken, match=f"attempt 1 of job {job} may write no more"):
        store.finish(lease, Reason.USER_ERROR)
    assert store.get(job).state is JobState.SUCCEEDED


def test_who_asks_again_for_a_lost_answer_gets_the_same_job(timed: JobStore, clock: Clock) -> None:
    first, second = (timed.create(SPEC).id for _ in range(2))
    job, lease = timed.acquire(WORKER, TTL, "nonce") or pytest.fail("no job")
    clock.wait(3)
    again = timed.acquire(WORKER, TTL, "nonce")
    assert again == (job, replace(lease, expires=lease.expires + 3_000))
    assert timed.renew(lease, TTL) == ""
    assert timed.acquire(replace(WORKER, id="v"), TTL, "nonce") == (
        timed.get(second),
        Lease(second, 1, "v", clock.now + 10_000),
    )
    timed.release(lease)
    found = timed.acquire(WORKER, TTL, "nonce")
    assert found is not None
    assert (found[0].id, found[1].attempt) == (first, 2), "that answer holds no more"


def test_no_write_path_takes_a_stale_token(store: JobStore) -> None:
    job = store.create(SPEC).id
    stale = take(store)
    store.release(stale)
    fresh = take(store)
    before = store.get(job)
    for write in (
        lambda: store.renew(stale, TTL),
        lambda: store.report(stale, points=points("loss", 1), lines=["x"]),
        lambda: store.publish(stale, Checkpoint("k", "d", 1, 1), best=True),
        lambda: store.put_file(stale, "name", b""),
        lambda: store.finish(stale, Reason.SUCCEEDED),
    ):
        with pytest.raises(StaleToken, match="the job is running after attempt 2"):
            write()
    assert store.get(job) == before
    assert (store.metrics(job), store.logs(job), store.files(job)) == ([], [], {})
    assert store.renew(fresh, TTL) == ""


def test_no_older_checkpoint_replaces_a_newer_one(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    for step, best in ((3, True), (9, False), (6, False), (9, False)):
        store.publish(lease, Checkpoint(f"at-{step}", "d", step, 1), best=best)
    record = store.get(job)
    assert record.checkpoint == Checkpoint("at-9", "d", 9, 1)
    assert record.best == Checkpoint("at-3", "d", 3, 1)


def test_time_of_running_adds_up_over_attempts(timed: JobStore, clock: Clock) -> None:
    job = timed.create(SPEC).id
    for _ in range(2):
        lease = take(timed)
        clock.wait(7)
        timed.release(lease)
        clock.wait(100)
    assert timed.get(job).ran == 14


# -- leases and the sweep ----------------------------------------------------------------------


def test_a_silent_worker_is_taken_over(timed: JobStore, clock: Clock) -> None:
    job = timed.create(SPEC).id
    timed.sweep(TTL)
    lease = take(timed)
    for _ in range(3):
        clock.wait(4)
        expired = timed.sweep(TTL).expired
    assert expired == [job]
    record = timed.get(job)
    assert (record.state, record.reason) == (JobState.QUEUED, Reason.LOST)
    assert record.message == "the lease of w ran out"
    with pytest.raises(StaleToken):
        timed.renew(lease, TTL)


def test_renewal_keeps_the_lease(timed: JobStore, clock: Clock) -> None:
    timed.create(SPEC)
    lease = take(timed)
    for _ in range(6):
        clock.wait(4)
        assert timed.renew(lease, TTL) == ""
        assert timed.sweep(TTL).expired == []


def test_after_a_silence_of_all_every_lease_runs_anew(timed: JobStore, clock: Clock) -> None:
    job = timed.create(SPEC).id
    lease = take(timed)
    timed.announce(WORKER, 30)
    timed.sweep(TTL)
    clock.wait(3_600)  # Redis was away
    assert timed.sweep(TTL).expired == []
    assert [worker.id for worker in timed.workers()] == ["w"]
    clock.wait(4)
    assert timed.sweep(TTL).expired == []
    assert timed.renew(lease, TTL) == ""
    clock.wait(4)
    assert timed.sweep(TTL).expired == []
    clock.wait(4)
    timed.sweep(TTL)
    clock.wait(4)
    assert timed.sweep(TTL).expired == [job]


def test_a_clock_that_was_set_back_does_not_keep_the_dead_alive(
    timed: JobStore, clock: Clock
) -> None:
    job = timed.create(SPEC).id
    timed.sweep(TTL)
    timed.announce(WORKER, TTL)
    take(timed)
    clock.wait(-3_600)
    assert timed.sweep(TTL).expired == [], "whoever lives has the length of a lease to say so"
    for expired in ([], [], [job]):
        clock.wait(4)
        assert timed.sweep(TTL).expired == expired
    assert timed.workers() == []


def test_what_a_strange_hand_broke_does_not_stop_the_sweep(
    timed: JobStore, clock: Clock, client: Any
) -> None:
    blocker = timed.create(SPEC).id
    waiting = timed.create(replace(SPEC, after=(blocker,))).id
    queued = timed.create(SPEC).id
    timed.sweep(TTL)
    take(timed)
    good = timed.create(SPEC).id
    client.delete(*(timed.keys("request", each) for each in (blocker, waiting, queued)))
    timed.announce(WORKER, 60)
    for _ in range(3):
        clock.wait(4)
        swept = timed.sweep(TTL)
    assert swept.expired == [blocker]
    assert taken(timed) == good
    clock.wait(4)
    assert timed.sweep(TTL).expired == []


def test_a_real_clock_agrees_with_the_servers(store: JobStore, client: Any) -> None:
    store.create(SPEC)
    lease = take(store)
    seconds, microseconds = client.time()
    now = seconds * 1000 + microseconds // 1000
    assert now + TTL * 1000 - 5_000 < lease.expires <= now + TTL * 1000


def test_blocked_jobs_go_when_their_wait_is_over(store: JobStore) -> None:
    first, second = (store.create(SPEC).id for _ in range(2))
    child = store.create(replace(SPEC, after=(first, second))).id
    assert store.get(child).state is JobState.BLOCKED
    leases = {lease.job: lease for lease in (take(store), take(store))}
    store.finish(leases[first], Reason.SUCCEEDED)
    store.sweep(TTL)
    assert store.why(child) == f"waits for {second} (running) to succeed"
    assert taken(store) is None
    store.finish(leases[second], Reason.SUCCEEDED)
    store.sweep(TTL)
    assert taken(store) == child


@pytest.mark.parametrize(
    "end", [Reason.SUCCEEDED, Reason.BAD_DATA, Reason.CANCELLED], ids=lambda reason: reason.value
)
def test_a_job_that_waits_for_an_end_takes_any(store: JobStore, end: Reason) -> None:
    parent = store.create(SPEC).id
    child = store.create(replace(SPEC, after_ended=(parent,))).id
    lease = take(store)
    store.sweep(TTL)
    assert store.why(child) == f"waits for {parent} (running) to end"
    if end is Reason.CANCELLED:
        store.cancel(parent)
    store.finish(lease, end)
    assert store.create(replace(SPEC, after_ended=(parent,))).state is JobState.QUEUED
    store.sweep(TTL)
    assert store.get(child).state is JobState.QUEUED


def test_who_waits_for_the_end_of_a_job_goes_on_where_it_is_removed(store: JobStore) -> None:
    parent, good = store.create(SPEC).id, store.create(SPEC).id
    child = store.create(replace(SPEC, after=(good,), after_ended=(parent,))).id
    assert store.why(child) == f"waits for {good} (queued) to succeed and {parent} (queued) to end"
    store.cancel(parent)
    store.remove(parent)
    store.sweep(TTL)
    assert store.get(child).state is JobState.BLOCKED
    store.finish(take(store), Reason.SUCCEEDED)
    store.sweep(TTL)
    assert store.get(child).state is JobState.QUEUED


def test_a_wait_in_vain_ends_the_job_as_its_parent_ended(store: JobStore) -> None:
    parent = store.create(SPEC).id
    child = store.create(replace(SPEC, after=(parent,))).id
    grandchild = store.create(replace(SPEC, after=(child,))).id
    store.finish(take(store), Reason.BAD_DATA, message="no train.de")
    store.sweep(TTL)
    store.sweep(TTL)
    said = f"job {parent}, which this one waited for, ended as failed (bad_data): no train.de"
    for job in (child, grandchild):
        record = store.get(job)
        assert (record.state, record.reason) == (JobState.FAILED, Reason.BAD_DATA)
        assert record.message.endswith(said), "the first failure is named in each that follows"


def test_a_retry_waits_again_for_what_it_comes_after(store: JobStore) -> None:
    parent = store.create(SPEC).id
    child = store.create(replace(SPEC, after=(parent,))).id
    store.finish(take(store), Reason.BAD_DATA)
    store.sweep(TTL)
    store.retry(parent)
    store.retry(child)
    assert store.get(child).state is JobState.BLOCKED
    store.sweep(TTL)
    store.finish(take(store), Reason.SUCCEEDED)
    assert taken(store) is None
    store.sweep(TTL)
    assert taken(store) == child


def test_a_retry_of_a_job_that_ran_waits_for_nobody(store: JobStore) -> None:
    parent = store.create(SPEC).id
    child = store.create(replace(SPEC, after=(parent,))).id
    store.finish(take(store), Reason.SUCCEEDED)
    store.sweep(TTL)
    store.finish(take(store), Reason.USER_ERROR)
    store.remove(parent)
    store.retry(child)
    assert taken(store) == child


def test_bells_ring_only_where_a_living_worker_could_take_a_job(
    timed: JobStore, clock: Clock
) -> None:
    timed.create(needing(queue="q", labels=["rare"]))
    assert timed.sweep(TTL).bells == []
    timed.announce(replace(WORKER, queues=("q",)), 5)
    assert timed.sweep(TTL).bells == [], "the label is missing"
    rare = replace(WORKER, id="v", queues=("q",), labels=("rare",))
    timed.announce(replace(rare, free_slots=0), 5)
    assert timed.sweep(TTL).bells == [], "no slot is free"
    timed.announce(rare, 5)
    assert timed.sweep(TTL).bells == ["q"]
    clock.wait(4)
    timed.sweep(TTL)
    clock.wait(2)
    assert timed.sweep(TTL).bells == [], "that worker is gone"


def test_two_rings_in_a_moment_are_one(store: JobStore) -> None:
    assert [store.bell("a"), store.bell("a"), store.bell("b")] == [True, False, True]


def test_a_ring_that_nobody_has_heard_is_enough(store: JobStore, client: Any) -> None:
    client.lpush(f"{store.keys.celery}a", "a ring")
    assert not store.bell("a")
    client.rpop(f"{store.keys.celery}a")
    assert store.bell("a")


# -- wishes ----------------------------------------------------------------------------------


def test_a_job_that_nobody_holds_is_cancelled_at_once(store: JobStore) -> None:
    job = store.create(SPEC).id
    store.cancel(job)
    store.cancel(job)
    record = store.get(job)
    assert (record.state, record.reason) == (JobState.CANCELLED, Reason.CANCELLED)
    assert record.ended >= record.submitted
    assert taken(store) is None


def test_a_job_cancelled_again_shows_the_newer_end(timed: JobStore, clock: Clock) -> None:
    job = timed.create(SPEC).id
    lease = take(timed)
    timed.cancel(job)
    timed.finish(lease, Reason.CANCELLED, message="while it ran")
    timed.retry(job)
    clock.wait(60)
    timed.cancel(job)
    record = timed.get(job)
    assert (record.message, record.ended) == ("cancelled while it waited", clock.now / 1000)


def test_a_running_job_hears_the_wish(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.cancel(job)
    assert store.get(job).wish == "cancel"
    assert store.why(job).endswith("; is being cancelled")
    assert store.renew(lease, TTL) == "cancel"
    assert store.finish(lease, Reason.PREEMPTED) is JobState.CANCELLED
    assert store.get(job).wish == ""


def test_a_success_that_was_faster_than_the_wish_stands(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.cancel(job)
    assert store.finish(lease, Reason.SUCCEEDED) is JobState.SUCCEEDED
    with pytest.raises(NotAllowed, match="is succeeded: there is nothing left to cancel"):
        store.cancel(job)


def test_a_pause_keeps_the_place_and_costs_nothing(store: JobStore) -> None:
    first, _second = (store.create(SPEC).id for _ in range(2))
    lease = take(store)
    store.pause(first)
    assert store.renew(lease, TTL) == "pause"
    assert store.finish(lease, Reason.PREEMPTED) is JobState.PAUSED
    assert store.why(first).startswith(f"paused by a person; `unroll resume {first}`")
    store.resume(first)
    assert taken(store) == first
    with pytest.raises(NotAllowed, match="only a paused job can be resumed"):
        store.resume(first)


def test_a_job_that_ended_while_it_was_paused_is_not_resumed(store: JobStore) -> None:
    job = store.create(SPEC).id
    store.pause(job)
    store.cancel(job)
    with pytest.raises(NotAllowed, match="is cancelled: only a paused job can be resumed"):
        store.resume(job)


def test_a_retry_is_a_new_round_from_the_newest_checkpoint(store: JobStore) -> None:
    job = store.create(replace(SPEC, retries=1, policy=EAGER)).id
    younger = store.create(SPEC).id
    lease = take(store)
    checkpoint = Checkpoint("k", "d", 3, 1)
    store.publish(lease, checkpoint, best=False)
    store.finish(lease, Reason.HUNG)
    store.finish(take(store), Reason.HUNG)
    with pytest.raises(NotAllowed, match="is queued: only a failed or a cancelled job"):
        store.retry(younger)
    store.retry(job)
    record = store.get(job)
    assert (record.state, record.checkpoint, record.retries_used) == ("queued", checkpoint, 0)
    assert (record.reason, record.ended) == (Reason.HUNG, 0)
    assert [taken(store), taken(store)] == [younger, job]
    assert store.get(job).attempt == 3, "tokens never come twice"


# -- removal ---------------------------------------------------------------------------------


def everything_of(client: Any, job: str) -> list[bytes]:
    return [key for key in client.keys("unroll:*") if key.endswith(f":{job}".encode())]


def ended_job_with_everything(store: JobStore) -> str:
    job = store.create(SPEC, key="k").id
    lease = take(store)
    store.report(lease, points=points("a", *range(5_000)), lines=["line"])
    store.put_file(lease, "f", b"x")
    store.finish(lease, Reason.SUCCEEDED)
    return job


def test_remove_leaves_no_key_of_an_ended_job(store: JobStore, client: Any) -> None:
    running = store.create(SPEC).id
    take(store)
    with pytest.raises(NotAllowed, match="is running: cancel it before you remove it"):
        store.remove(running)
    job = ended_job_with_everything(store)
    assert len(everything_of(client, job)) == 8
    store.remove(job)
    assert everything_of(client, job) == []
    assert [each.id for each in store.list()] == [running]
    with pytest.raises(UnknownJob):
        store.get(job)
    assert store.create(SPEC, key="k").id != job


def test_whoever_has_files_of_a_cleared_job_hears_of_it_once(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_some(count: int) -> list[str]:
        jobs = [store.create(SPEC).id for _ in range(count)]
        for job in jobs:
            store.cancel(job)
            store.remove(job)
        return jobs

    monkeypatch.setattr(looking, "_PAGE", 2)
    first = remove_some(3)
    page, since = store.cleared()
    rest, since = store.cleared(since)
    assert page + rest == first
    assert store.cleared(since) == ([], since)
    second = remove_some(1)
    assert store.cleared(since)[0] == second
    assert store.cleared()[0] == first[:2], "who starts anew hears of all"


def test_jobs_past_their_keep_time_are_cleared(timed: JobStore, clock: Clock, client: Any) -> None:
    job = ended_job_with_everything(timed)
    cancelled = timed.create(SPEC).id
    timed.cancel(cancelled)
    queued = timed.create(SPEC).id
    clock.wait(29.9 * 86_400)
    timed.sweep(TTL)
    assert timed.cleared() == ([], "-")
    clock.wait(0.2 * 86_400)
    timed.sweep(TTL)
    assert sorted(timed.cleared()[0]) == sorted([job, cancelled])
    assert everything_of(client, job) == []
    assert [each.id for each in timed.list()] == [queued]


def test_only_ended_jobs_are_cleared_whatever_the_index_says(store: JobStore, client: Any) -> None:
    job = store.create(SPEC).id
    client.zadd(store.keys("clearing"), {job: 0})
    store.sweep(TTL)
    assert store.cleared() == ([], "-")
    assert taken(store) == job


def test_a_job_asked_for_again_is_kept(timed: JobStore, clock: Clock) -> None:
    job = timed.create(SPEC).id
    timed.cancel(job)
    timed.retry(job)
    clock.wait(40 * 86_400)
    timed.sweep(TTL)
    assert timed.cleared() == ([], "-")
    assert timed.get(job).state is JobState.QUEUED


# -- what hangs on a job -----------------------------------------------------------------------


def test_points_are_one_sequence_that_a_resumed_attempt_goes_on_with(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.report(lease, points=points("loss", 1, 2, 3) + points("val/bleu", 3))
    store.release(lease)
    lease = take(store)
    store.report(lease, points=points("val/bleu", 3) + points("loss", 2, 3, 4))
    found = store.metrics(job)
    assert [(each.name, each.step, each.attempt) for each in found] == [
        ("loss", 1, 1),
        ("loss", 2, 1),
        ("loss", 3, 1),
        ("val/bleu", 3, 1),
        ("loss", 4, 2),
    ]
    assert [each.cursor for each in found] == [1, 2, 3, 4, 5]
    for since in range(7):
        assert store.metrics(job, since) == found[since:]


def test_values_that_are_no_numbers_survive(store: JobStore) -> None:
    job = store.create(SPEC).id
    values = [math.nan, math.inf, -math.inf, 0.1 + 0.2, 5e-324]
    events = [MetricEvent("é\n", value, step, 1, 1.5) for step, value in enumerate(values)]
    store.report(take(store), points=events)
    found = store.metrics(job)
    assert math.isnan(found[0].value)
    assert [each.value for each in found[1:]] == values[1:]
    assert found[0].name == "é\n"


def test_all_points_can_be_read_though_the_stream_is_capped(store: JobStore, client: Any) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    total = 3 * STREAM_POINTS + 77
    for start in range(0, total, 333):
        store.report(lease, points=points("loss", *range(start, min(total, start + 333))))
    streamed = sum(
        len(fields[b"text"].split(b"\n")) for _, fields in client.xrange(store.keys("points", job))
    )
    assert STREAM_POINTS <= streamed <= 2 * STREAM_POINTS
    found = store.metrics(job)
    assert [each.step for each in found] == list(range(total))
    for since in (0, 1, 332, 333, 334, 1_999, 4_000, total - 1, total, total + 1):
        assert store.metrics(job, since) == found[since:]


def test_what_an_ended_attempt_said_is_kept_compressed(store: JobStore, client: Any) -> None:
    job = store.create(SPEC).id
    for attempt in range(2):
        lease = take(store)
        for start in (0, 50):
            first = attempt * 100 + start
            store.report(lease, points=points("loss", *range(first, first + 50)))
        found = store.metrics(job)
        store.release(lease)
        assert client.xlen(store.keys("points", job)) == 0
        assert store.metrics(job) == found
        assert store.metrics(job, since=70) == found[70:]
    assert [each.cursor for each in found] == list(range(1, 201))


def test_a_follower_loses_and_repeats_nothing_while_chunks_are_made(
    redis_server: Any, store: JobStore
) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    total = 2 * STREAM_POINTS + 1_500
    with connect(redis_server.url) as other:
        follower = JobStore(other, store.keys.namespace)
        seen: list[int] = []

        def follow() -> None:
            while len(seen) < total:
                seen.extend(each.cursor for each in follower.metrics(job, len(seen), block=5))

        thread = threading.Thread(target=follow)
        thread.start()
        for start in range(0, total, 100):
            store.report(lease, points=points("loss", *range(start, start + 100)))
        thread.join(timeout=60)
    assert seen == list(range(1, total + 1))


def test_a_blocking_read_wakes_up_and_gives_up(store: JobStore, monkeypatch: Any) -> None:
    monkeypatch.setattr(looking, "_BLOCK", 0.02)
    job = store.create(SPEC).id
    assert store.metrics(job, block=0.05) == []
    assert store.logs(job, block=0.05) == []
    lease = take(store)
    timer = threading.Timer(0.1, lambda: store.report(lease, points=points("loss", 1)))
    timer.start()
    assert [each.step for each in store.metrics(job, block=30)] == [1]
    timer.join()


def test_the_newest_log_lines_are_kept_with_their_cursors(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.report(lease, lines=["one", "two"])
    store.report(lease, lines=["x" * 9_000, "two\nlines", "bad \udcff"])
    found = store.logs(job)
    assert [cursor for cursor, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [line for _, line in found[3:]] == ["two", "lines", "bad ?"]
    assert found[2][1] == "x" * 3_996 + " ..."
    assert store.logs(job, since=5) == found[5:]
    for start in range(0, 3_000, 500):
        store.report(lease, lines=[f"line {number}" for number in range(start, start + 500)])
    kept = store.logs(job)
    assert kept[-1] == (3_006, "line 2999")
    assert LOG_LINES <= len(kept) < LOG_LINES + 500


def test_lines_that_are_said_again_for_a_lost_answer_stand_there_once(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    for nonce in ("one", "one", "two", ""):
        store.report(lease, lines=["same"], points=points("loss", 1), nonce=nonce)
    assert store.logs(job) == [(1, "same"), (2, "same"), (3, "same")]
    assert len(store.metrics(job)) == 1


def test_small_files_travel_within_their_bound(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    content = bytes(range(256)) * 40_000
    store.put_file(lease, "a.bin", content)
    store.put_file(lease, "b", b"")
    store.put_file(lease, "a.bin", content)
    assert store.files(job) == {"a.bin": len(content), "b": 0}
    assert store.read_file(job, "a.bin") == content
    with pytest.raises(ArtifactError, match="16,000,000 bytes"):
        store.put_file(lease, "c", content)
    with pytest.raises(ArtifactError, match=r"has no file 'a\.bim'; did you mean 'a\.bin'"):
        store.read_file(job, "a.bim")


# -- looking ---------------------------------------------------------------------------------


def test_ids_may_be_shortened(store: JobStore, monkeypatch: Any) -> None:
    ids = iter(["abc1", "abc2", "ab", "xyz"])
    monkeypatch.setattr("jobs.store.submitting.new_id", lambda: next(ids))
    for _ in range(4):
        store.create(SPEC)
    assert [store.resolve(each) for each in ("abc1", "ab", "x")] == ["abc1", "ab", "xyz"]
    with pytest.raises(UnknownJob, match="2 jobs have an id that begins with 'abc'"):
        store.resolve("abc")
    with pytest.raises(UnknownJob, match="no job has the id 'abd1'; did you mean 'abc1'"):
        store.resolve("abd1")
    for unknown in ("", "é", "\udcff", "\0"):
        with pytest.raises(UnknownJob):
            store.resolve(unknown)


def test_a_list_is_bounded_and_the_newest_come_first(timed: JobStore, clock: Clock) -> None:
    ids = []
    for _ in range(130):
        ids.append(timed.create(SPEC).id)
        clock.wait(1)
    timed.cancel(ids[3])
    assert [job.id for job in timed.list()] == ids[::-1]
    assert [job.id for job in timed.list(limit=2)] == ids[:-3:-1]
    assert [job.id for job in timed.list(JobState.CANCELLED)] == [ids[3]]
    assert timed.known([ids[0], "nothing"]) == {ids[0]}


def test_a_list_of_one_state_is_that_of_all_jobs_less_the_others(
    timed: JobStore, clock: Clock
) -> None:
    first = timed.create(SPEC).id
    for _ in range(6):
        timed.create(SPEC)
        timed.create(replace(SPEC, after=(first,)))
        clock.wait(1)
    for _ in range(4):
        lease = take(timed)
    timed.finish(lease, Reason.USER_ERROR)
    timed.cancel(timed.list(JobState.BLOCKED)[2].id)
    clock.now -= 60_000  # ids of one moment, and a clock set back: the order is the list's own
    timed.create(SPEC, key="late")
    jobs = timed.list()
    assert {job.state for job in jobs} == {"running", "blocked", "queued", "failed", "cancelled"}
    for state in JobState:
        assert timed.list(state) == [job for job in jobs if job.state is state]
    assert timed.list(JobState.BLOCKED, limit=2) == timed.list(JobState.BLOCKED)[:2]


def test_workers_are_there_until_they_fall_silent_or_leave(timed: JobStore, clock: Clock) -> None:
    full = Worker(
        id="full worker",
        host="h",
        pid=7,
        slots=2,
        free_slots=1,
        gpus=4,
        free_gpus=3,
        queues=("a", "b"),
        labels=("x",),
        version="1",
        store="s",
        catalog="c",
    )
    timed.announce(full, 5)
    clock.wait(1)
    timed.announce(WORKER, 5)
    assert timed.workers() == [
        replace(full, seen=1_800_000_000.0),
        replace(WORKER, seen=1_800_000_001.0),
    ]
    clock.wait(4.5)
    assert [worker.id for worker in timed.workers()] == ["w"]
    timed.withdraw("w")
    assert timed.workers() == []


@pytest.mark.parametrize("act", ["cancel", "pause", "resume", "retry", "remove", "why", "get"])
def test_an_unknown_job_is_called_so(store: JobStore, act: str) -> None:
    with pytest.raises(UnknownJob, match=r"no job has the id '?nothing"):
        getattr(store, act)("nothing")


def why_of(store: JobStore, **resources: Any) -> str:
    return store.why(store.create(needing(**resources)).id)


def test_why_says_what_a_queued_job_waits_for(store: JobStore) -> None:
    assert why_of(store) == "queued: no worker is alive; start one with `unroll worker`"
    store.announce(replace(WORKER, id="g", gpus=2, free_gpus=1, queues=("gpu",)), TTL)
    store.announce(replace(WORKER, id="busy", free_slots=0, queues=("busy",)), TTL)
    store.announce(WORKER, TTL)
    assert why_of(store, queue="gup") == (
        "queued: no worker serves queue 'gup'; did you mean 'gpu'? (served: busy, default, gpu)"
    )
    assert why_of(store, queue="gpu", gpus=2) == "queued: needs 2 GPUs, 1 is free on g"
    assert why_of(store, queue="gpu", gpus=3) == "queued: needs 3 GPUs, the worker g has 2"
    assert why_of(store, labels=["a100"]) == (
        "queued: no worker of its queue carries the label 'a100'"
    )
    assert why_of(store, queue="busy") == "queued: all slots are in use on busy"
    assert why_of(store) == "queued behind 2 jobs"
    assert why_of(store, queue="gpu", gpus=0) == "queued behind 2 jobs"


def test_why_names_the_store_that_is_missing(store: JobStore) -> None:
    job = store.create(SPEC).id
    lease = take(store)
    store.publish(lease, Checkpoint("k", "d", 1, 1), best=False)
    store.release(lease)
    store.announce(replace(WORKER, store="elsewhere"), TTL)
    assert store.why(job) == "queued: its files lie in store s, which no living worker shares"
    store.announce(WORKER, TTL)
    assert store.why(job) == "queued: next in turn; a worker takes it in a moment"


def test_why_says_how_a_job_ended(store: JobStore) -> None:
    jobs: list[Job] = [store.create(SPEC) for _ in range(2)]
    store.finish(take(store), Reason.SUCCEEDED)
    store.finish(take(store), Reason.BAD_DATA, message="no such file: a.de")
    assert [store.why(job.id) for job in jobs] == [
        "succeeded",
        "failed (bad_data): no such file: a.de",
    ]


# -- Redis itself ------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_the_death_of_redis(
    make_server: Callable[..., Any],
) -> None:
    server = make_server(durable=True)
    with connect(server.url) as client:
        store = JobStore(client)
        ids = [store.create(SPEC, key=str(number)).id for number in range(20)]
        lease = take(store)
        store.report(lease, points=points("loss", *range(100)), lines=["line"])
        store.publish(lease, Checkpoint("k", "d", 3, 1), best=True)
        before = store.list(), store.metrics(lease.job), store.logs(lease.job)
        server.kill()
        with pytest.raises(ServiceUnreachable):
            store.get(ids[0])
        server.start()
        assert (store.list(), store.metrics(lease.job), store.logs(lease.job)) == before
        assert store.renew(lease, TTL) == "", "the scripts are sent again to a new server"
        assert store.create(SPEC, key="7").id == ids[7]
        assert taken(store) == ids[1]


def test_a_wrong_password_is_one_line_without_it(make_server: Callable[..., Any]) -> None:
    server = make_server(password="right")
    for url, said in (
        (
            server.url,
            "asks for a password; write redis://:PASSWORD@HOST:PORT/0 into UNROLL_REDIS_URL",
        ),
        (
            server.url + "?password=wrong",
            "refuses the password; put the right one into UNROLL_REDIS_URL",
        ),
    ):
        with connect(url) as client, pytest.raises(ServiceUnreachable) as caught:
            JobStore(client).list()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "wrong" not in str(caught.value)
    with connect(server.login_url) as client:
        assert JobStore(client).list() == []


def test_full_memory_is_one_line(make_server: Callable[..., Any]) -> None:
    server = make_server("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with connect(server.url) as client:
        store, lines = JobStore(client), ("x" * 2_000_000,)
        with pytest.raises(ServiceUnreachable, match="memory is full"):
            [store.create(PredictSpec(job="a", lines=lines)) for _ in range(10)]
