"""Ten causes for the end of an attempt, each planted in several ways."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.client import Client
from jobs.handle import JobHandle
from jobs.job import Reason
from jobs.spec import TrainSpec, spec_from_dict
from tests.benchmarks.chaos.cluster import Cluster, Host
from tests.benchmarks.chaos.confinement import Confinement
from tests.benchmarks.chaos.processes import Crowd, send

_PATIENCE: Final = 120.0
_LOOK: Final = 0.05


@dataclass(frozen=True)
class Scene:
    """Where causes are planted."""

    cluster: Cluster
    client: Client
    #: Folder of data that is not as it should be.
    bad: Path
    #: What bounds the memory of hosts, where the machine allows that.
    confinement: Confinement | None

    def submit(self, **sections: Any) -> JobHandle:
        """Submit a small training, with sections of the spec set otherwise."""
        spec = {
            "model": {"name": "planted"},
            "data": {"name": "paced_dates"},
            "trainer": {"max_epochs": 2, "batch_tokens": 500, "log_every": 1},
            "resources": {"threads": 1},
            **sections,
        }
        found = spec_from_dict(spec)
        assert isinstance(found, TrainSpec)
        return self.client.submit(found)

    def trains(self, job: JobHandle) -> Path:
        """Wait until the first attempt of a job has taken a step; return its folder."""
        await_that(lambda: job.progress.step > 0 or job.state.ended)
        record = job.record
        return self.cluster.host(record.worker).attempt(job.id, 1)

    def host_of(self, job: JobHandle) -> Host:
        """Return where a job runs."""
        return self.cluster.host(job.record.worker)

    def until_over(self, job: JobHandle) -> None:
        """Wait until the first attempt has ended, then let the job be."""
        await_that(lambda: job.state.ended or job.record.reason is not None)
        if not job.state.ended:
            job.cancel()


def await_that(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("a planted cause had no effect")
        time.sleep(_LOOK)


#: Plant a cause for the n-th time; return the job that it was planted for.
Plant = Callable[[Scene, int], JobHandle]


def flawed(*flaws: str) -> Plant:
    """Return what plants flaws of the model, in turn."""

    def plant(scene: Scene, number: int) -> JobHandle:
        job = scene.submit(model={"name": "planted", "flaw": flaws[number % len(flaws)]})
        scene.until_over(job)
        return job

    return plant


def out_of_memory(scene: Scene, number: int) -> JobHandle:
    """Ask for more than there is, or let the kernel kill who takes it."""
    if number % 4 == 3 and scene.confinement:
        for host in scene.cluster.hosts:
            scene.confinement.take_in(host.everything())
        return flawed("memory_grows")(scene, 0)
    return flawed("tensor_too_large", "array_too_large", "memory_error")(scene, number)


def bad_data(scene: Scene, number: int) -> JobHandle:
    """Plant data that is missing, uneven, not text, or empty."""
    folders = sorted(write_bad_data(scene.bad))
    job = scene.submit(
        model={"name": "encoder_decoder", "hidden_size": 16, "embedding_size": 8},
        data={
            "name": "parallel_text",
            "root": str(folders[number % len(folders)]),
            "source": "fw",
            "target": "bw",
        },
    )
    scene.until_over(job)
    return job


def write_bad_data(folder: Path) -> Iterator[Path]:
    """Write corpora with something wrong about each."""
    good = b"a b c\n" * 20
    for name, source, target in (
        ("empty", b"", b""),
        ("missing", good, None),
        ("no-text", b"\xff\xfe\xfd\n" * 20, good),
        ("uneven", good, good[:-6]),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split in ("train", "val", "test"):
            for side, content in (("fw", source), ("bw", target)):
                if content is not None:
                    (folder / name / f"{split}.{side}").write_bytes(content)
        yield folder / name


def hung(scene: Scene, number: int) -> JobHandle:
    """Let a step never end; or stop the runner for good, or one rank of two."""
    patience = {"hang_seconds": 2.0, "hang_factor": 2.0}
    if number % 3 == 0:
        job = scene.submit(model={"name": "planted", "flaw": "sleep"}, policy=patience)
    else:
        ranks = {"devices": number % 3, "threads": 1}
        job = scene.submit(policy=patience, resources=ranks)
        send(Crowd.of(scene.trains(job)).ranks[-1:], signal.SIGSTOP)
    scene.until_over(job)
    return job


def worker_drained(scene: Scene, number: int) -> JobHandle:
    """Tell the worker to stop."""
    job = scene.submit()
    scene.trains(job)
    host = scene.host_of(job)
    host.end(signal.SIGTERM)
    scene.until_over(job)
    host.start()
    return job


def killed(scene: Scene, number: int) -> JobHandle:
    """Kill the runner by one signal or another, or its guard; or let its disk fail."""
    signals = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS)
    if number % 5 == 4:
        return flawed("abort", "exit", "disk_error")(scene, number // 5)
    job = scene.submit()
    crowd = Crowd.of(scene.trains(job))
    if number % 10 == 3 and crowd.guard is not None:
        send([crowd.guard], signal.SIGKILL)
    else:
        send(crowd.ranks, signals[number % 3])
    scene.until_over(job)
    return job


def cancelled(scene: Scene, number: int) -> JobHandle:
    """Cancel a job that trains."""
    job = scene.submit()
    scene.trains(job)
    job.cancel()
    job.wait(_PATIENCE)
    return job


def timed_out(scene: Scene, number: int) -> JobHandle:
    """Give a job less time than it takes."""
    job = scene.submit(timeout=0.6 + number / 20)
    job.wait(_PATIENCE)
    return job


def lost(scene: Scene, number: int) -> JobHandle:
    """Stop a worker, or kill all of its host, so that its lease runs out."""
    job = scene.submit()
    scene.trains(job)
    host = scene.host_of(job)
    everything = host.everything()
    send(everything, signal.SIGSTOP)
    if number % 4:
        scene.until_over(job)
        send(everything, signal.SIGCONT)
    else:
        send(everything, signal.SIGKILL)
        scene.until_over(job)
        host.end(signal.SIGKILL)
        host.start()
    return job


#: What is planted, by the reason that the record must give.
CAUSES: Final[Mapping[Reason, Plant]] = {
    Reason.USER_ERROR: flawed("mistake", "missing_key", "shapes"),
    Reason.BAD_DATA: bad_data,
    Reason.OUT_OF_MEMORY: out_of_memory,
    Reason.NAN: flawed("nan", "infinity"),
    Reason.HUNG: hung,
    Reason.PREEMPTED: worker_drained,
    Reason.INFRASTRUCTURE: killed,
    Reason.CANCELLED: cancelled,
    Reason.TIMED_OUT: timed_out,
    Reason.LOST: lost,
}
