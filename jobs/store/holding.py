"""The worker's side of the store: every write to a job is fenced by the attempt of its lease."""

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.catalog import Catalog
from jobs.errors import ArtifactError, ServiceFull
from jobs.evidence import Evidence
from jobs.job import Checkpoint, Job, JobState, Lease, Progress, Reason
from jobs.spec import MAX_CARRIED_BYTES
from jobs.store.base import StoreBase, new_nonce
from jobs.store.feed import (
    LOG_LINES,
    STREAM_POINTS,
    Point,
    batches,
    encode_lines,
    encode_points,
    pack,
)
from jobs.store.records import (
    MAX_MESSAGE,
    MAX_TRACEBACK,
    head,
    plain,
    read_job,
    read_lease,
    tail,
    text,
    write_checkpoint,
    write_progress,
)
from jobs.workers import Worker

#: Jobs at the head of each queue that one look for a job goes through, and as many elsewhere in it;
#: and those of one look for a bell, which may be missed.
LOOK: Final = 1_000
BELL_LOOK: Final = 100
#: Likewise of a worker with room for answers alone, which look so often as long as it is busy; they
#: stand at the head, as their priority is higher.
ANSWER_LOOK: Final = 100


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    #: Jobs whose lease ran out; they are queued again or ended.
    expired: list[str]
    #: Queues with a job that a living worker could take now.
    bells: list[str]


class Holder(StoreBase):
    """Take jobs, and write what becomes of them."""

    def announce(self, worker: Worker, ttl: float) -> None:
        """Say that a worker lives, and what of it is free; in `ttl` seconds it counts as gone."""
        self._run("announce", id=worker.id, worker=plain(worker.to_dict()), ttl=_ms(ttl))

    def withdraw(self, worker_id: str) -> None:
        """Take a worker off the list; its catalogue goes with the last one that offers it."""
        self._run("withdraw", id=worker_id)

    def publish_catalog(self, queues: Sequence[str], catalog: Catalog, worker_id: str) -> None:
        """Say what a worker can build for its queues."""
        self._run(
            "offer",
            id=worker_id,
            queues=plain(list(queues)),
            digest=catalog.digest,
            catalog=plain(catalog.to_dict()),
        )

    def acquire(self, worker: Worker, ttl: float, nonce: str = "") -> tuple[Job, Lease] | None:
        """Take the best queued job that fits the worker: by priority, then by age.

        Whoever got no answer asks again with the same `nonce`, and gets the job of that answer.
        """
        found = self._run(
            "acquire",
            worker=plain(worker.to_dict()),
            nonce=nonce or new_nonce(),
            ttl=_ms(ttl),
            look=LOOK if worker.free_slots else ANSWER_LOOK,
            further=random.random(),  # noqa: S311 - a place in a queue, no secret
        )
        if not found:
            return None
        job = read_job(found[0])
        return job, read_lease(job, attempt=found[1], expires=found[2])

    def renew(self, lease: Lease, ttl: float) -> str:
        """Let the lease run anew. Return "cancel", "pause" or "". Raise StaleToken."""
        return text(self._fenced("renew", lease, ttl=_ms(ttl)))

    def report(
        self,
        lease: Lease,
        *,
        points: Sequence[Point] = (),
        progress: Progress | None = None,
        lines: Sequence[str] = (),
        nonce: str = "",
    ) -> None:
        """Append points and log lines, and note the progress. Raise StaleToken.

        Points at or below the highest step that is kept of their metric are dropped; so are lines
        that come again with the `nonce` of the call before, whose answer was lost.
        """
        loose, nonce = 0, nonce or new_nonce()
        for number, batch in enumerate(batches(points)):
            loose = self._fenced(
                "report",
                lease,
                points=encode_points(batch, lease.attempt),
                progress=write_progress(progress) if progress and not number else "",
                lines=encode_lines([] if number else lines[-LOG_LINES:]),
                keep=LOG_LINES,
                nonce=nonce,
            )
        if loose > 2 * STREAM_POINTS:
            self._pack(lease, STREAM_POINTS)

    def _pack(self, lease: Lease, keep: int) -> None:
        series, points = self.keys("series", lease.job), self.keys("points", lease.job)
        with self._reaching():
            before = text(self._client.hget(series, "packed")) or "0"
            entries = self._client.xrange(points)
        if packed := pack(entries, keep):
            last, chunk = packed
            self._fenced("pack", lease, before=before, last=last, chunk=chunk)

    def publish(self, lease: Lease, checkpoint: Checkpoint, *, best: bool) -> None:
        """Let a checkpoint count, as the newest and perhaps as the best. Raise StaleToken."""
        written = write_checkpoint(checkpoint)
        self._fenced("publish", lease, checkpoint=written, best=int(best))

    def retract(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Let a checkpoint that is damaged or gone count no more. Raise StaleToken."""
        self._fenced("retract", lease, artifact=checkpoint.artifact)

    def put_file(self, lease: Lease, name: str, content: bytes) -> None:
        """Keep a small file for clients that do not share the artifact store.

        Raise StaleToken, and ArtifactError if the job's files would pass 16 MB together.
        """
        bound = MAX_CARRIED_BYTES
        if len(content) > bound or not self._fenced(
            "put_file", lease, name=name, content=content, bound=bound
        ):
            raise ArtifactError(f"{name!r} does not fit: files of a job may have {bound:,} bytes")

    def finish(
        self,
        lease: Lease,
        reason: Reason,
        *,
        message: str = "",
        traceback: str = "",
        result: Mapping[str, Any] | None = None,
        evidence: Evidence | None = None,
    ) -> JobState:
        """End the attempt. Return where the job then stands: ended, or waiting for another attempt.

        Raise StaleToken; to say the same twice is to say it once.
        """
        with contextlib.suppress(ServiceFull):  # the end must not wait until there is room
            self._pack(lease, 0)  # a record is kept for weeks, and compressed it is a quarter
        state = self._fenced(
            "finish",
            lease,
            reason=Reason(reason).value,
            message=head(message, MAX_MESSAGE),
            traceback=tail(traceback, MAX_TRACEBACK),
            result=plain(dict(result or {})),
            evidence=plain(evidence.to_dict()) if evidence else "",
        )
        return JobState(text(state))

    def release(self, lease: Lease, *, message: str = "", evidence: Evidence | None = None) -> None:
        """Hand the job back to its old place in the queue. Raise StaleToken."""
        message = message or f"handed back by {lease.worker}"
        self.finish(lease, Reason.PREEMPTED, message=message, evidence=evidence)

    def sweep(self, ttl: float) -> Sweep:
        """Do the housekeeping of all: expired leases, ended waits, workers and jobs to forget.

        `ttl` is the lease's length in seconds: after a silence of more than half of it, in which
        nobody could speak, every lease runs anew instead.
        """
        expired, bells = self._run("sweep", ttl=_ms(ttl), look=BELL_LOOK)
        self._clear(limit=100)
        return Sweep(*([text(each) for each in some] for some in (expired, bells)))

    def _fenced(self, script: str, lease: Lease, /, **arguments: Any) -> Any:
        return self._run(script, id=lease.job, attempt=lease.attempt, **arguments)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
