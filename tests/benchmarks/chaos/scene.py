"""What a fault finds: the cluster as it is at this moment, the jobs that run, and a clock."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs.job import Job, JobState
from tests.benchmarks.chaos.cluster import Cluster, Host
from tests.benchmarks.chaos.processes import Crowd

#: Hosts that must be left with nothing wrong when one is broken.
_SPARE: Final = 1
#: Seconds after its start in which a host is left alone: it loads torch.
_SETTLING: Final = 6.0


@dataclass(frozen=True)
class Hit:
    """What a fault fell on."""

    target: str
    #: The attempts that it disturbs: job and number.
    attempts: tuple[tuple[str, int], ...] = ()
    #: Attempt folders in which no rank may be at work a few seconds later.
    cleared: tuple[Path, ...] = ()


class Later:
    """Do things after a while, and all at once at the end."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def __call__(self, seconds: float, action: Callable[..., Any], *arguments: Any) -> None:
        """Call the action in so many seconds, in a thread of its own."""
        timer = threading.Timer(seconds, action, arguments)
        self._timers.append(timer)
        timer.daemon = True
        timer.start()

    def settle(self) -> None:
        """Wait for everything that is still to come, what comes of that included."""
        while self._timers:
            self._timers.pop().join()


@dataclass
class Scene:
    """What a fault may touch."""

    cluster: Cluster
    later: Later = field(default_factory=Later)
    #: Jobs as they were a moment ago.
    jobs: Sequence[Job] = ()
    #: Whether Redis is away, or about to be.
    redis_is_away: bool = False
    #: How the next submissions go wrong: seconds from its start at which the client is killed.
    doomed_clients: list[float] = field(default_factory=list)

    @property
    def running(self) -> list[Job]:
        """Return the jobs that ran a moment ago on a host that nothing is wrong with."""
        able = {host.name for host in self.cluster.able}
        return [job for job in self.jobs if job.state is JobState.RUNNING and job.worker in able]

    def folder(self, job: Job) -> Path:
        """Return the folder of a job's newest attempt."""
        return self.cluster.host(job.worker).attempt(job.id, job.attempt)

    def crowd(self, job: Job) -> Crowd:
        """Return the processes of a job's newest attempt."""
        return Crowd.of(self.folder(job))

    def busy_host(self, pick: float) -> Host | None:
        """Return a host that works and can be spared."""
        able = self.cluster.able
        settled = time.monotonic() - _SETTLING
        workers = {job.worker for job in self.running}
        fitting = [each for each in able if each.name in workers and each.started < settled]
        return choose(fitting, pick) if len(able) > _SPARE else None

    def on(self, host: Host) -> list[Job]:
        """Return the jobs that run on a host."""
        return [job for job in self.running if job.worker == host.name]

    def hit(self, target: str, jobs: Sequence[Job], *, clears: bool = False) -> Hit:
        """Return what is noted of a fault that disturbs these jobs."""
        attempts = tuple((job.id, job.attempt) for job in jobs)
        return Hit(target, attempts, tuple(map(self.folder, jobs)) if clears else ())


def choose(some: Sequence[Any], pick: float) -> Any:
    """Return one of the things, or None where there is none."""
    return some[int(pick * len(some))] if some else None
