"""The job record: what a job is at one moment, and every way in which it can move on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class JobState(StrEnum):
    """Where a job stands."""

    #: Waits for another job to succeed.
    BLOCKED = "blocked"
    #: Waits for a worker.
    QUEUED = "queued"
    #: A worker holds its lease.
    RUNNING = "running"
    #: A person set it aside.
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self in ENDED


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

#: The only moves there are; the Lua scripts make no other.
TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.BLOCKED: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    # `unroll retry`; a job that never ran waits again for those it comes after
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.BLOCKED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED, JobState.BLOCKED}),
}


class Reason(StrEnum):
    """Why an attempt, or with its last attempt the job, ended."""

    SUCCEEDED = "succeeded"
    #: The spec cannot be built or trained as it is written.
    USER_ERROR = "user_error"
    #: A file of the data is missing or is not what it should be.
    BAD_DATA = "bad_data"
    OUT_OF_MEMORY = "out_of_memory"
    #: The loss or the gradient was not a number.
    NAN = "nan"
    #: No step for far longer than usual.
    HUNG = "hung"
    #: The worker was told to stop and handed the job back.
    PREEMPTED = "preempted"
    #: The machine or the service failed, not the job.
    INFRASTRUCTURE = "infrastructure"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    #: The worker fell silent for longer than its lease.
    LOST = "lost"


#: Ends that do not use up the job's retries.
FREE_RETRIES: Final = frozenset({Reason.PREEMPTED, Reason.INFRASTRUCTURE, Reason.LOST})
#: Ends that use up one of the job's retries.
COUNTED_RETRIES: Final = frozenset({Reason.OUT_OF_MEMORY, Reason.NAN, Reason.HUNG})
#: Milliseconds before the second free retry of a row; each later one waits twice as long as the one
#: before. The first comes at once: a killed worker shall cost no more than a second.
FREE_BACKOFF_MS: Final = 1_000
#: Free retries in a row, without a newer checkpoint, after which the job ends all the same.
MAX_FREE_RETRIES: Final = 5


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that counts: published by a fenced write."""

    #: Key in the artifact store.
    artifact: str
    #: SHA-256 of the file, in hex.
    digest: str
    step: int
    epoch: int
    #: Value of the monitored metric where the checkpoint is the best so far.
    score: float | None = None


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write to a job's record."""

    job: str
    #: Number of the attempt, from 1: the fencing token of every later write.
    attempt: int
    worker: str
    #: Milliseconds of Redis server time at which the lease runs out.
    expires: int


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric."""

    #: `split/metric`, e.g. `val/bleu`.
    name: str
    value: float
    #: Optimiser steps taken, over all attempts.
    step: int
    epoch: int
    attempt: int
    #: Seconds since 1970, on the worker's clock.
    time: float
    #: Index in the job's sequence of points; `since=cursor` goes on behind it.
    cursor: int


@dataclass(frozen=True)
class Progress:
    """How far a running attempt has come."""

    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    #: What the runner is doing: "preparing", "training", "validating", ...
    phase: str = ""


@dataclass(frozen=True)
class Job:
    """The record of a job as it was read."""

    id: str
    kind: str
    state: JobState
    #: The spec as plain JSON.
    spec: Mapping[str, Any]
    priority: int = 0
    queue: str = "default"
    #: Why the job, or its newest ended attempt, ended; None while there is none.
    reason: Reason | None = None
    #: One line about the end, for people.
    message: str = ""
    #: Traceback or tail of stderr of the newest failure.
    traceback: str = ""
    #: Number of the newest attempt; 0 before the first.
    attempt: int = 0
    worker: str = ""
    retries_used: int = 0
    #: Free ends in a row, without a newer checkpoint; see MAX_FREE_RETRIES.
    free_used: int = 0
    #: Seconds since 1970 of Redis server time; 0 where it has not happened.
    submitted: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    #: When the newest attempt last reported something, on the same clock; at first its start.
    said: float = 0.0
    #: When the newest ended attempt ended, likewise.
    last_ended: float = 0.0
    #: Seconds that earlier attempts ran; the newest one, while it runs, did so since `started`.
    ran: float = 0.0
    progress: Progress = field(default_factory=Progress)
    #: The newest checkpoint, the one before it, and the best one.
    checkpoint: Checkpoint | None = None
    previous: Checkpoint | None = None
    best: Checkpoint | None = None
    #: Final metrics by name, and further plain values such as `bleu_signature`.
    result: Mapping[str, Any] = field(default_factory=dict)
    #: Id of the artifact store that holds the job's files; empty before the first attempt.
    store: str = ""
    #: Digest of the catalogue of the newest attempt's worker; empty where it had none yet.
    catalog: str = ""
    #: "unchecked" where no catalogue was there at submission.
    note: str = ""
    tags: Sequence[str] = ()
    #: A wish that the worker has not yet fulfilled: "cancel", "pause", or empty.
    wish: str = ""
