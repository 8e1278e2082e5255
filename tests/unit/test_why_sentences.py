"""The sentences of `unroll why`: one for each cause, on one line, whatever the record holds."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.job import Job, JobState, Progress, Reason
from jobs.store.reasons import Circumstances, explain

#: 14:05:00 UTC.
NOW = 1_800_021_900.0
QUEUED = Job(id="a1", kind="train", state=JobState.QUEUED, spec={"retries": 5})
FITS = {"w3": (("default",), "")}


@pytest.fixture(autouse=True)
def in_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def around(**known: Any) -> Circumstances:
    return Circumstances(**{"now": NOW, "misfits": FITS, **known})


def misfit(why: str) -> Circumstances:
    return around(misfits={"w3": (("default",), why)})


LOST = replace(
    QUEUED,
    attempt=2,
    worker="w3",
    reason=Reason.LOST,
    message="the lease of w3 ran out",
    free_used=2,
    last_ended=NOW - 100,
)
RUNNING = replace(
    QUEUED,
    state=JobState.RUNNING,
    attempt=2,
    worker="w3",
    started=NOW - 190,
    said=NOW - 4,
    progress=Progress(1200, 4000, 1, 10, "training"),
)
SENTENCES = [
    (QUEUED, around(misfits={}), "queued: no worker is alive; start one with `unroll worker`"),
    (
        replace(QUEUED, queue="gup"),
        around(misfits={"w3": (("gpu", "default"), "")}),
        "queued: no worker serves queue 'gup'; did you mean 'gpu'? (served: default, gpu)",
    ),
    (QUEUED, misfit("free_gpus 2 1"), "queued: needs 2 GPUs, 1 is free on w3"),
    (QUEUED, misfit("free_gpus 2 0"), "queued: needs 2 GPUs, 0 are free on w3"),
    (QUEUED, misfit("gpus 4 2"), "queued: needs 4 GPUs, the worker w3 has 2"),
    (QUEUED, misfit("slots"), "queued: all slots are in use on w3"),
    (
        QUEUED,
        replace(misfit("slots"), place=17),
        "queued: all slots are in use on w3; behind 17 jobs",
    ),
    (
        QUEUED,
        replace(misfit("free_gpus 2 1"), place=1),
        "queued: needs 2 GPUs, 1 is free on w3; behind 1 job",
    ),
    (QUEUED, replace(misfit("gpus 4 2"), place=1), "queued: needs 4 GPUs, the worker w3 has 2"),
    (
        QUEUED,
        misfit("trouble nothing can be written to /h: No space left on device"),
        (
            "queued: the worker w3 takes no jobs: nothing can be written to /h: "
            "No space left on device"
        ),
    ),
    (
        QUEUED,
        misfit("version 0.2.0 0.1.0"),
        "queued: submitted by version 0.2.0, and the worker w3 is of 0.1.0: upgrade a worker",
    ),
    (QUEUED, around(place=17), "queued behind 17 jobs"),
    (QUEUED, around(place=1), "queued behind 1 job"),
    (QUEUED, around(place=0), "queued: next in turn; a worker takes it in a moment"),
    (
        replace(QUEUED, attempt=3, retries_used=2, reason=Reason.HUNG, message="no step for 70 s"),
        around(due=NOW + 40),
        "queued: retry 2 of 5 in 40 s; attempt 3 ended as hung: no step for 70 s",
    ),
    (
        LOST,
        around(due=NOW + 1),
        (
            "queued: retry 2 of 4 in 1 s; attempt 2 ended as lost: the lease of w3 ran out at "
            "14:03:20 UTC"
        ),
    ),
    (
        LOST,
        around(place=3),
        "queued behind 3 jobs; attempt 2 ended as lost: the lease of w3 ran out at 14:03:20 UTC",
    ),
    (
        replace(LOST, last_ended=NOW - 90_000, state=JobState.FAILED),
        around(),
        "failed after 2 attempts (lost): the lease of w3 ran out at 2027-01-14 13:05:00 UTC",
    ),
    (
        replace(QUEUED, state=JobState.BLOCKED, spec={"after": ["b", "c", "d"]}),
        around(parents={"b": "running", "c": "succeeded"}),
        "waits for b (running) and d (removed) to succeed",
    ),
    (
        replace(QUEUED, state=JobState.PAUSED),
        around(),
        "paused by a person; `unroll resume a1` puts it back to its place in the queue",
    ),
    (
        RUNNING,
        around(lease=NOW + 9),
        (
            "running on w3 since 14:01:50 UTC (3m 10s), attempt 2: training, step 1,200 of 4,000, "
            "epoch 1 of 10; last word 4s ago"
        ),
    ),
    (
        replace(RUNNING, wish="pause", progress=Progress(), said=0.0),
        around(lease=NOW - 2),
        (
            "running on w3 since 14:01:50 UTC (3m 10s), attempt 2; last word 3m 10s ago; "
            "its lease ran out at 14:04:58 UTC; is being paused"
        ),
    ),
    (
        replace(
            QUEUED,
            state=JobState.FAILED,
            attempt=1,
            reason=Reason.USER_ERROR,
            message="ValueError: no",
            traceback="Traceback",
        ),
        around(),
        "failed (user_error): ValueError: no; `unroll show a1` has the traceback",
    ),
    (
        replace(
            QUEUED,
            state=JobState.FAILED,
            attempt=1,
            worker="w3",
            reason=Reason.USER_ERROR,
            message="no topology is called 'new'",
            catalog="0123456789ab",
        ),
        around(catalog="ba9876543210"),
        (
            "failed (user_error): no topology is called 'new'; w3 ran other code (catalogue "
            "01234567) than the newest worker of its queue (ba987654)"
        ),
    ),
    (replace(QUEUED, state=JobState.SUCCEEDED, reason=Reason.SUCCEEDED), around(), "succeeded"),
    (
        replace(QUEUED, state=JobState.CANCELLED, message="cancelled while it waited"),
        around(),
        "cancelled: cancelled while it waited",
    ),
]


@pytest.mark.parametrize(("job", "known", "sentence"), SENTENCES, ids=lambda given: str(given)[:40])
def test_each_cause_has_its_sentence(job: Job, known: Circumstances, sentence: str) -> None:
    assert explain(job, known) == sentence


WORDS = ("", "slots", "trouble x", "free_gpus 2 1", "gpus 2 1", "label x", "store s", "version 2 1")
TEXTS = st.text(max_size=20)
TIMES = st.sampled_from([0.0, NOW - 9, NOW, NOW + 9])
JOBS = st.builds(
    Job,
    id=st.just("a1"),
    kind=st.just("train"),
    state=st.sampled_from(JobState),
    spec=st.sampled_from([{}, {"retries": 3}, {"after": ["b"]}]),
    queue=st.sampled_from(["default", "other"]),
    reason=st.sampled_from([None, *Reason]),
    message=TEXTS,
    traceback=TEXTS,
    attempt=st.integers(0, 3),
    worker=TEXTS,
    started=TIMES,
    said=TIMES,
    last_ended=TIMES,
    progress=st.builds(Progress, step=st.integers(0, 9), steps=st.integers(0, 9), phase=TEXTS),
    wish=st.sampled_from(["", "cancel", "pause"]),
)
AROUND = st.builds(
    Circumstances,
    now=st.just(NOW),
    place=st.integers(-1, 3),
    due=TIMES,
    lease=TIMES,
    parents=st.dictionaries(st.sampled_from("bc"), st.sampled_from(JobState)),
    misfits=st.dictionaries(TEXTS, st.tuples(st.just(("default",)), st.sampled_from(WORDS))),
)


@given(job=JOBS, known=AROUND)
def test_any_record_has_one_line_that_can_be_printed(job: Job, known: Circumstances) -> None:
    said = explain(job, known)
    assert said.strip()
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
