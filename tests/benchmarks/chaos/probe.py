"""Try every write path of the store with a token that is no longer the newest."""

import contextlib
from collections.abc import Callable
from typing import Any, Final

from jobs.client import Client
from jobs.errors import ServiceUnreachable, StaleToken
from jobs.job import Checkpoint, Job, Lease, Progress, Reason
from worker.events import MetricEvent

#: What every forged write holds, and no record may hold.
FORGED: Final = "forged"


class Probe:
    """Forge writes of attempts that are over; the store must refuse each of them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._probed: set[tuple[str, int, bool]] = set()
        #: Writes that were not refused.
        self.accepted: list[str] = []
        self.tried = 0

    def look(self, job: Job) -> None:
        """Forge for each older attempt of the job, and for the newest once the job has ended."""
        over = range(1, job.attempt + 1 if job.state.ended else job.attempt)
        for attempt in over:
            if (job.id, attempt, job.state.ended) not in self._probed:
                self._forge(Lease(job.id, attempt, FORGED, expires=0), ended=job.state.ended)
                self._probed.add((job.id, attempt, job.state.ended))

    def _forge(self, lease: Lease, *, ended: bool) -> None:
        for name, write in self._writes(lease, ended=ended).items():
            with contextlib.suppress(ServiceUnreachable):
                try:
                    write()
                except StaleToken:
                    self.tried += 1
                else:
                    self.accepted.append(f"{name} of job {lease.job}, attempt {lease.attempt}")

    def _writes(self, lease: Lease, *, ended: bool) -> dict[str, Callable[[], Any]]:
        store = self._client.store
        point = MetricEvent(f"val/{FORGED}", 1.0, 1, 1, 0.0)
        checkpoint = Checkpoint(FORGED, "0" * 64, 1_000_000, 1)
        writes: dict[str, Callable[[], Any]] = {
            "renew": lambda: store.renew(lease, 60),
            "report points": lambda: store.report(lease, points=[point]),
            "report lines": lambda: store.report(lease, lines=[FORGED]),
            "report progress": lambda: store.report(lease, progress=Progress(1, phase=FORGED)),
            "publish": lambda: store.publish(lease, checkpoint, best=True),
            "retract": lambda: store.retract(lease, checkpoint),
            "put_file": lambda: store.put_file(lease, FORGED, b"forged"),
            "pack": lambda: store._fenced("pack", lease, before="0", last="1-0", chunk=b"forged"),
            # To say again how an attempt has ended is no write: hence an end that none has had.
            "finish": lambda: store.finish(lease, Reason.USER_ERROR, message=FORGED),
        }
        if not ended:
            writes["succeed"] = lambda: store.finish(lease, Reason.SUCCEEDED, result={FORGED: 1.0})
        return writes
