"""The supervisors of one worker: they take jobs while devices are free, and drain together."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from jobs.errors import ServiceUnreachable, SpecError
from jobs.job import Job
from jobs.spec import ANSWERS, Resources
from jobs.store import new_nonce
from jobs.workers import Worker
from worker.devices import Devices
from worker.room import Room
from worker.supervisor import Assignment, Supervisor, Tools


class Crew:
    """Take jobs from the store and supervise each in a thread."""

    def __init__(
        self,
        tools: Tools,
        worker: Worker,
        devices: Devices,
        supervise: Callable[[Tools, Assignment], None] | None = None,
    ) -> None:
        self._tools = tools
        self._worker = worker
        self._devices = devices
        self._room = Room((tools.settings.attempts, tools.artifacts.root))
        self._supervise = supervise or (lambda *given: Supervisor(*given).run())
        self._taking = threading.Lock()
        self._filling = threading.Lock()
        self._threads: set[threading.Thread] = set()
        #: Names one question for a job until it is answered, so that no answer is lost.
        self._nonce = new_nonce()

    @property
    def worker(self) -> Worker:
        """Return what this worker says of itself now."""
        trouble = self._trouble
        return replace(
            self._worker,
            free_slots=0 if trouble else self._devices.free_slots,
            free_answer_slots=0 if trouble else self._devices.free_answer_slots,
            free_gpus=self._devices.free_gpus,
            trouble=trouble,
        )

    @property
    def _trouble(self) -> str:
        if self._tools.draining.is_set():
            return "it is stopping"
        # While the parent loads, another worker starts a job sooner, and this one would no later.
        if self._tools.launcher.is_loading:
            return "it is starting"
        return self._room.missing

    def name_catalog(self, digest: str) -> None:
        """Note the digest of the catalogue that this worker has published."""
        self._worker = replace(self._worker, catalog=digest)

    def take(self) -> Assignment | None:
        """Take the best job that fits what is free, or None. Raise ServiceUnreachable."""
        with self._taking:  # one at a time: what is free must not change between look and take
            worker = self.worker
            if not worker.free_slots and not worker.free_answer_slots:
                return None
            ttl = self._tools.settings.clocks.lease
            try:
                found = self._tools.store.acquire(worker, ttl, self._nonce)
            except ServiceUnreachable:
                raise  # there may be an answer, and it was lost: the next look asks for that one
            except Exception:
                self._nonce = new_nonce()  # one that cannot be read: let its lease run out
                raise
            self._nonce = new_nonce()
            if found is None:
                return None
            job, lease = found
            share = self._devices.take(_wanted(job), answers=job.kind in ANSWERS)
            return Assignment(job, lease, share)

    def work(self, first: Assignment | None = None) -> None:
        """Supervise one job after the other in this thread, until nothing fits."""
        assignment = first or self._look()
        while assignment is not None:
            try:
                self._supervise(self._tools, assignment)
            finally:
                self._room.doubt()
                self._devices.give_back(assignment.share)
            assignment = self._look()

    def _look(self) -> Assignment | None:
        with contextlib.suppress(ServiceUnreachable):  # whoever looks next will say so
            return self.take()
        return None

    def fill(self) -> None:
        """Take every job that fits, each into a thread of its own, and return."""
        with self._filling:
            self._threads = {thread for thread in self._threads if thread.is_alive()}
            while (assignment := self.take()) is not None:
                name = f"job {assignment.job.id}"
                thread = threading.Thread(
                    target=self.work, args=[assignment], name=name, daemon=True
                )
                try:
                    thread.start()
                except BaseException:  # no more threads: the lease runs out, the slot is free
                    self._devices.give_back(assignment.share)
                    raise
                self._threads.add(thread)

    def wait(self, timeout: float) -> bool:
        """Wait for the threads that `fill` started; return whether all have ended in time."""
        deadline = time.monotonic() + timeout
        with self._filling:  # a job that was taken at the last moment is waited for, too
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def _wanted(job: Job) -> Resources:
    try:
        return Resources.from_dict(job.spec.get("resources", {}))
    except SpecError:
        return Resources()  # the attempt will refuse the spec as a whole, and say why
