"""See one attempt through: from the job that was acquired to the end that stands in its record."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from traceback import format_exc
from typing import Final, TypeVar

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError, ServiceFull, ServiceUnreachable, SpecError, StaleToken
from jobs.evidence import Evidence
from jobs.job import Checkpoint, Job, Lease, Reason
from jobs.store import JobStore
from jobs.wording import printable
from worker.devices import Share
from worker.events import first_bad_end
from worker.evidence import gather, tail
from worker.folder import AttemptFolder
from worker.handback import by_guard
from worker.hangs import HangWatch
from worker.inputs import Inputs, Unusable
from worker.leavings import Leavings
from worker.process import Exit, Launcher, Running
from worker.pulse import Pulse
from worker.relay import Relay
from worker.settings import Settings
from worker.verdict import CANCELLED, HANDED_BACK, Ending, Order, conclude, name_the_disk

logger = logging.getLogger(__name__)

#: What of a runner's log stands in the record of an attempt that died without a word, and of one
#: whose threads have told what they were at.
_TAIL_BYTES: Final = 8_000
_STACKS_BYTES: Final = 20_000
#: Between two tries of a write that the service did not answer, in seconds.
_RETRY: Final = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What the supervisors of one worker share."""

    store: JobStore
    artifacts: ArtifactStore
    launcher: Launcher
    settings: Settings
    #: Set when the worker stops: runners take a checkpoint and end, leases are handed back.
    draining: threading.Event


@dataclass(frozen=True)
class Assignment:
    """A job that this worker took, and what the attempt may use."""

    job: Job
    lease: Lease
    share: Share


class _GaveUp(Exception):
    """The service does not answer, and there is no more time to wait for it."""


class Supervisor:
    """Run one attempt, in the calling thread."""

    def __init__(self, tools: Tools, assignment: Assignment) -> None:
        self._tools = tools
        self._clocks = tools.settings.clocks
        self._job = assignment.job
        self._lease = assignment.lease
        self._share = assignment.share
        self._pulse = Pulse(tools.store, self._lease, self._clocks)
        self._began = time.monotonic()
        self._order: Order | None = None
        #: What was found where the runner gave no sign of life.
        self._hung = ""
        self._kill_at = math.inf

    def run(self) -> None:
        """See the attempt through; whatever happens, nothing of it is left running."""
        name = f"job {self._job.id}, attempt {self._lease.attempt}"
        logger.info("%s: taken", name)
        try:
            with self._pulse:
                said = self._attempt()
        except StaleToken:
            said = "stopped; another attempt holds the job, or it was removed"
        except _GaveUp:
            said = "left to the next worker; the service does not answer"
        logger.info("%s: %s", name, printable(said))  # a job's message may act on a terminal

    def _attempt(self) -> str:
        if self._tools.draining.is_set():
            return self._finish(HANDED_BACK)
        try:
            folder, relay, running = self._start()
        except SpecError as error:
            return self._finish(Ending(Reason.USER_ERROR, str(error)))
        except Unusable as error:
            return self._finish(Ending(Reason.BAD_DATA, str(error)))
        except (StaleToken, _GaveUp):
            raise
        except Exception as error:
            trace = "" if isinstance(error, ArtifactError | OSError) else format_exc()
            message = f"nothing was started: {error}"
            return self._finish(Ending(Reason.INFRASTRUCTURE, message, trace))
        return self._supervise(running, relay, folder)

    def _start(self) -> tuple[AttemptFolder, Relay, Running]:
        inputs = Inputs(
            self._job,
            self._lease.attempt,
            get=self._get,
            artifacts=self._tools.artifacts,
            read_file=self._read_file,
            is_warm=self._tools.launcher.is_warm,
        )
        folder, attempt = inputs.lay(self._tools.settings, self._share)
        self._retract(inputs.unusable)
        relay = Relay(self._tools.store, self._tools.artifacts, self._job, self._lease, folder)
        for line in inputs.notes:
            relay.note(line)
        running = self._tools.launcher.start(
            folder,
            attempt,
            grace=self._clocks.grace,
            handback=by_guard(self._tools.settings, self._lease),
        )
        return folder, relay, running

    def _retract(self, unusable: Sequence[Checkpoint]) -> None:
        """Let checkpoints count no more that cannot be gone on from, and read what then counts."""
        for checkpoint in unusable:
            self._insist(partial(self._tools.store.retract, self._lease, checkpoint))
            self._tools.artifacts.remove(checkpoint.artifact)
        if unusable:
            self._job = self._get(self._job.id)

    def _supervise(self, running: Running, relay: Relay, folder: AttemptFolder) -> str:
        self._pulse.on_answer = running.beat
        settled = True
        try:
            return self._see_through(running, relay, folder)
        except _GaveUp:
            settled = False  # the guard goes on trying to hand the lease back
            raise
        finally:
            running.close(done=settled)

    def _see_through(self, running: Running, relay: Relay, folder: AttemptFolder) -> str:
        try:
            life = HangWatch(folder.events_file, folder.read_spec().policy)
            exited = self._watch(running, relay, life)
            with self._tools.launcher.holding(folder):
                return self._record(exited, relay, folder)
        except _GaveUp:
            raise
        except StaleToken:
            running.kill()
            raise
        except Exception as error:
            logger.exception("job %s: the supervisor failed", self._job.id)
            running.kill()
            return self._finish(
                Ending(Reason.INFRASTRUCTURE, f"the supervisor failed: {error}", format_exc())
            )

    def _watch(self, running: Running, relay: Relay, life: HangWatch) -> Exit:
        """Relay and obey until the runner has ended."""
        exited = None
        while exited is None:
            self._hung = life.look()
            # What the service does not take now waits in the folder.
            with contextlib.suppress(ServiceUnreachable):
                relay.pump()
            exited = self._obey(running, relay) or running.wait(self._clocks.tick)
        return exited

    def _obey(self, running: Running, relay: Relay) -> Exit | None:
        if self._pulse.stale:
            raise StaleToken("the lease was lost")
        order, now = self._decide(), time.monotonic()
        if order is Order.HAND_BACK and self._order is None:
            running.send("stop")
        self._order = order or self._order
        # A pause has time: what validates comes to its checkpoint after that.
        if self._tools.draining.is_set():
            self._kill_at = min(self._kill_at, now + self._clocks.drain)
        if relay.end is not None:
            self._kill_at = min(self._kill_at, now + self._clocks.linger)
        if self._order in (Order.CANCEL, Order.TIMEOUT) or now > self._kill_at:
            return running.kill()
        if self._order is Order.HUNG:
            return running.kill(hung=True)
        return None

    def _decide(self) -> Order | None:
        if self._pulse.wish == "cancel":
            return Order.CANCEL
        ran = self._job.ran + time.monotonic() - self._began
        if ran > (self._job.spec.get("timeout") or math.inf):
            return Order.TIMEOUT
        if self._tools.draining.is_set():
            return Order.HAND_BACK
        if self._hung:
            return Order.HUNG
        return Order.HAND_BACK if self._pulse.wish == "pause" else None

    def _record(self, exited: Exit, relay: Relay, folder: AttemptFolder) -> str:
        whole = self._insist_if_wanted(relay.drain)
        # Where the first rank was ended before it could speak, another may have said why.
        end = relay.end or first_bad_end(folder.events_of_others)
        room = _STACKS_BYTES if self._hung else _TAIL_BYTES
        ending = conclude(self._order, end, exited, tail(folder.log_file, room), self._hung)
        if ending.reason is Reason.SUCCEEDED and (why := self._insist(relay.settle)):
            ending = Ending(Reason.INFRASTRUCTURE, f"the best model is nowhere: {why}")
        ending = name_the_disk(ending, exited, folder.path)
        store, artifacts = self._tools.store, self._tools.artifacts
        leavings = Leavings(store, artifacts, self._job, self._lease, folder)
        try:
            keep = leavings.keep_log if ending.handed_back else leavings.keep
            whole = self._insist_if_wanted(keep) and whole
        except (OSError, ArtifactError) as error:
            if ending.reason is Reason.SUCCEEDED:
                raise  # what it has come to would be lost
            logger.warning("job %s: what it left could not be kept: %s", self._job.id, error)
        if ending.reason is Reason.SUCCEEDED and not whole:
            ending = CANCELLED  # a success without what it has come to would be none
        return self._finish(ending, gather(exited, folder.log_file, end))

    def _finish(self, ending: Ending, evidence: Evidence | None = None) -> str:
        store, lease = self._tools.store, self._lease
        if ending.handed_back:
            self._insist(lambda: store.release(lease, evidence=evidence))
            return "handed back"
        state = self._insist(
            lambda: store.finish(
                lease,
                ending.reason,
                message=ending.message,
                traceback=ending.traceback,
                result=ending.result,
                evidence=evidence,
            )
        )
        said = str(state)
        if said != str(ending.reason):
            said += f" ({ending.reason})"
        return f"{said}: {ending.message}" if ending.message else said

    def _get(self, job: str) -> Job:
        return self._insist(lambda: self._tools.store.get(job))

    def _read_file(self, job: str, name: str) -> bytes:
        return self._insist(lambda: self._tools.store.read_file(job, name))

    def _insist_if_wanted(self, call: Callable[[], None]) -> bool:
        """Insist, but let go what a full service has no room for where the job was cancelled.

        Else who cancels a job to make room would wait until there is room. Return whether the call
        was answered.
        """

        def once() -> bool:
            try:
                call()
            except ServiceFull:
                if self._pulse.wish != "cancel":
                    raise
                logger.warning(
                    "job %s: cancelled; the service has no room for the rest", self._job.id
                )
                return False
            return True

        return self._insist(once)

    def _insist(self, call: Callable[[], T]) -> T:
        """Repeat a call until the service has answered it, for as long as there is time."""
        began = time.monotonic()
        while True:
            try:
                return call()
            except ServiceUnreachable as error:
                draining = self._tools.draining.is_set()
                limit = self._clocks.drain if draining else self._clocks.grace
                if time.monotonic() - began > limit:
                    raise _GaveUp from error
                time.sleep(_RETRY)
