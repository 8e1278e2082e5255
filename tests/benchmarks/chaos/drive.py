"""Carry a plan out: submit its jobs as there is room for them, and let its faults happen."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from jobs.client import Client
from jobs.errors import ServiceUnreachable
from jobs.job import Job
from tests.benchmarks.chaos import specs
from tests.benchmarks.chaos.cluster import Cluster
from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.plan import Fault, Plan, PlannedJob
from tests.benchmarks.chaos.probe import Probe
from tests.benchmarks.chaos.processes import ranks_at_work
from tests.benchmarks.chaos.scene import Hit, Scene

_CLIENT: Final = Path(__file__).with_name("client.py")
#: Seconds between two looks.
_LOOK: Final = 0.1
#: Seconds without the end of a job after which those that are left count as lost.
_PATIENCE: Final = 240.0
#: Seconds after which nothing of an attempt that was killed may be at work.
CLEARED_SECONDS: Final = 5.0
#: Jobs between two lines that say how far a run has come.
_TELL_EVERY: Final = 10


@dataclass(frozen=True)
class Happened:
    """A fault that fell on something."""

    fault: Fault
    hit: Hit
    #: Seconds since 1970.
    time: float


@dataclass
class Story:
    """What a run did, for the ledger."""

    #: Id of the job of each planned job that was acknowledged.
    ids: dict[PlannedJob, str] = field(default_factory=dict)
    happened: list[Happened] = field(default_factory=list)
    #: Faults that found nothing to fall on.
    missed: Sequence[Fault] = ()
    #: Ranks that were at work in the folder of an attempt too long after it was killed.
    stragglers: list[str] = field(default_factory=list)
    #: Writes with an old token: how many were refused, and those that were not.
    tried: int = 0
    accepted: Sequence[str] = ()


class Drive:
    """Carry out one plan."""

    def __init__(self, cluster: Cluster, plan: Plan, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._say = say
        #: What happened, a line for each fault, for who wants to know what a figure comes from.
        self._journal = cluster.options.folder / "journal.jsonl"
        self._client = Client(cluster.redis.url)
        self._scene = Scene(cluster)
        self._probe = Probe(self._client)
        self._to_submit = list(reversed(plan.jobs))
        #: Submissions whose client is about to be killed.
        self._doomed = 0
        self._open: dict[str, Job | None] = {}
        self._faults = list(plan.faults)
        #: When faults whose jobs were submitted are due, by number.
        self._due: dict[int, float] = {}
        self._next_fault = 0.0
        # What is lost on one host shall find room on the others: waiting for it is no recovery.
        self._room = max(1, cluster.options.hosts - 2) * cluster.options.slots
        self.story = Story()

    def run(self) -> Story:
        """Return what happened, once all jobs have ended or nothing ends any more."""
        last, left = time.monotonic(), len(self._plan.jobs) + 1
        told = left + _TELL_EVERY
        while (to_come := self._to_come) and time.monotonic() - last < _PATIENCE:
            if to_come < left:
                last, left = time.monotonic(), to_come
                if told - to_come >= _TELL_EVERY:
                    told = to_come
                    self._say(f"{to_come} jobs to come, {len(self.story.happened)} faults so far")
            self._cluster.keep_running()
            self._look()
            self._submit()
            self._break_something()
            time.sleep(_LOOK)
        self._scene.later.settle()
        self.story.missed = self._faults
        self.story.tried, self.story.accepted = self._probe.tried, self._probe.accepted
        self._client.close()
        return self.story

    @property
    def _to_come(self) -> int:
        return len(self._to_submit) + self._doomed + len(self._open)

    def _look(self) -> None:
        with contextlib.suppress(ServiceUnreachable):
            for id in list(self._open):  # noqa: A001 - the name in the record
                job = self._client.store.get(id)
                self._probe.look(job)
                self._open[id] = job
                if job.state.ended:
                    del self._open[id]
        self._scene.jobs = [job for job in self._open.values() if job]

    def _submit(self) -> None:
        while self._to_submit and len(self._open) + self._doomed < self._room:
            job = self._to_submit.pop()
            if self._scene.doomed_clients:
                self._doomed += 1
                self._scene.later(0, self._submit_in_vain, job, self._scene.doomed_clients.pop())
                continue
            try:
                spec = specs.spec_of(job, self._cluster.text)
                id = self._client.submit(spec, key=job.key).id  # noqa: A001 - as above
            except ServiceUnreachable:
                self._to_submit.append(job)
                return
            self.story.ids[job] = id
            self._open[id] = None

    def _submit_in_vain(self, job: PlannedJob, seconds: float) -> None:
        """Let a client begin to submit a job, and kill it; the job is then submitted again."""
        spec = json.dumps(specs.spec_of(job, self._cluster.text).to_dict())
        with subprocess.Popen(
            [sys.executable, str(_CLIENT), spec, job.key],
            env={**os.environ, "UNROLL_REDIS_URL": self._cluster.redis.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            if client.stdout.readline():
                client.stdin.write(b"go\n")
                client.stdin.flush()
                time.sleep(seconds)
            client.kill()
        self._to_submit.append(job)
        self._doomed -= 1

    def _break_something(self) -> None:
        now = time.monotonic()
        for fault in self._faults:
            if fault.due > len(self.story.ids):
                break
            due = self._due.setdefault(fault.number, now + fault.delay)
            if due <= now and self._next_fault <= now and self._breaks(fault):
                self._faults.remove(fault)
                self._next_fault = now + self._plan.apart
                return

    def _breaks(self, fault: Fault) -> bool:
        began = time.time()
        hit = KINDS[fault.kind].do(self._scene, fault)
        if hit is None:
            return False
        happened = Happened(fault, hit, began)
        self.story.happened.append(happened)
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(happened), default=str) + "\n")
        for folder in hit.cleared:
            self._scene.later(CLEARED_SECONDS, self._note_stragglers, fault, folder)
        return True

    def _note_stragglers(self, fault: Fault, folder: Path) -> None:
        for pid in ranks_at_work(folder):
            self.story.stragglers.append(f"{pid} in {folder} after fault {fault.number}")
