"""The submitter's side of the store: requests and wishes."""

import secrets
import time
from typing import Final

from jobs.errors import ServiceUnreachable, SpecError
from jobs.job import Job
from jobs.spec import AnySpec, CompareSpec, TrainSpec
from jobs.store.base import new_nonce
from jobs.store.looking import Looker
from jobs.store.records import plain, text
from jobs.workers import own_version

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_MAX_KEY: Final = 200
#: Behind the id of a job that is waited for whatever its end; `awaited` in lua/common.lua reads it.
ANY_END: Final = ":ended"
#: Milliseconds in which a bell is rung only once.
_BELL_MS: Final = 100


def new_id() -> str:
    """Return twelve letters and digits: nine of the time in milliseconds, three of chance."""
    number = (time.time_ns() // 1_000_000 << 15) | secrets.randbits(15)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(55, -1, -5))


class Submitter(Looker):
    """Write requests and wishes."""

    def enqueue(self, spec: AnySpec, *, key: str | None = None, note: str = "") -> str:
        """Queue a job; return its id, or that of the one queued with this idempotency key.

        Raise SpecError if the spec is too large or waits for a job that has failed, UnknownJob if
        it waits for one that is not there.
        """
        arguments = asked_with(spec, key, note)
        while not (job := self._run("create", id=new_id(), **arguments)):
            pass  # the id was taken: chance gives another
        return text(job)

    def create(self, spec: AnySpec, *, key: str | None = None, note: str = "") -> Job:
        """Queue a job as `enqueue` does, and return its record."""
        return self.get(self.enqueue(spec, key=key, note=note))

    def cancel(self, job: str) -> None:
        """Cancel a job: at once if no worker holds it, else by a wish to the worker.

        Raise UnknownJob, and NotAllowed if it has succeeded or failed.
        """
        self._wish(job, "cancel")

    def pause(self, job: str) -> None:
        """Set a queued or running job aside. Raise UnknownJob, NotAllowed."""
        self._wish(job, "pause")

    def resume(self, job: str) -> None:
        """Put a paused job back to its place in the queue. Raise UnknownJob, NotAllowed."""
        self._wish(job, "resume")

    def _wish(self, job: str, wish: str) -> None:
        self._run("wish", id=job, wish=wish, nonce=new_nonce())

    def retry(self, job: str) -> None:
        """Queue a failed or cancelled job again; it goes on from its newest checkpoint.

        One that waits before a retry waits no longer. Raise UnknownJob, NotAllowed.
        """
        self._run("retry", id=job, nonce=new_nonce())

    def remove(self, job: str) -> None:
        """Remove an ended job and every key of it. Raise UnknownJob, NotAllowed.

        Where this user may not write what workers wrote, the next sweep clears that part.
        """
        self._run("remove", id=job)
        try:
            self._clear(limit=10)
        except ServiceUnreachable:
            return

    def bell(self, queue: str) -> bool:
        """Return whether to ring for a queue: ten times a second at most, never while one waits."""
        with self._reaching():
            if self._client.exists(self.keys.celery + queue):  # one that nobody has heard yet
                return False
            rung = self.keys("rung", queue)
            return bool(self._client.set(rung, 1, nx=True, px=_BELL_MS))

    def hang_bell(self, queue: str, message: str) -> None:
        """Leave a bell where Celery hears those of a queue."""
        with self._reaching():
            self._client.lpush(self.keys.celery + queue, message)


def asked_with(spec: AnySpec, key: str | None = None, note: str = "") -> dict[str, str | int]:
    """Return the arguments of a transition that queues a job, all but its id. Raise SpecError."""
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise SpecError(f"an idempotency key has 1 to {_MAX_KEY} characters, not {len(key)}")
    return {
        "key": key or "",
        "nonce": new_nonce(),
        "priority": spec.priority,
        "after": plain([*spec.after, *(each + ANY_END for each in spec.after_ended)]),
        "queue": spec.resources.queue,
        "fields": plain(_fields(spec, note)),
        "spec": spec.to_json(),
    }


def _fields(spec: AnySpec, note: str) -> list[str | int]:
    """Return the further fields of a request and their values in turn."""
    fields: dict[str, str | int] = {
        "kind": spec.kind,
        "version": own_version(),
        "note": note,
        "tags": plain(list(spec.tags)),
        "labels": plain(spec.resources.labels),
        "retries": spec.retries,
        "keep": int(spec.policy.keep_days * 86_400_000),
        "backoff": round(spec.policy.retry_seconds * 1000),
        "backoff_max": round(spec.policy.retry_max_seconds * 1000),
    }
    if spec.resources.gpus is not None:
        fields["gpus"] = spec.resources.gpus
    if spec.policy.on_nan == "retry":
        fields["retry_nan"] = 1
    if origin := _origin(spec):
        fields["origin"] = origin
    return [part for field in fields.items() for part in field]


def _origin(spec: AnySpec) -> str | None:
    """Return the job whose files this one needs: its worker must share their store."""
    if isinstance(spec, CompareSpec):
        return spec.first
    return (spec.resume_from or spec.warm_from) if isinstance(spec, TrainSpec) else spec.job
