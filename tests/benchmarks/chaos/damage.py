"""Faults of files: checkpoints that are cut short or altered, and disks that are full."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.chaos.plan import Fault
from tests.benchmarks.chaos.processes import at_work, send
from tests.benchmarks.chaos.scene import Hit, Scene, choose
from tests.doubles.waiting import is_alive

#: Seconds to wait for a checkpoint that is to be damaged before its worker sees it.
_PATIENCE: Final = 3.0
#: Name of the file that fills a disk.
_BALLAST: Final = "ballast"
_PIECE: Final = 1 << 20


def published_cut_short(scene: Scene, fault: Fault) -> Hit | None:
    """Cut the newest published checkpoint of a job short, and kill its runner."""
    return _spoil(scene, fault, lambda path: cut_short(path, fault.amount))


def published_altered(scene: Scene, fault: Fault) -> Hit | None:
    """Alter a byte of the newest published checkpoint of a job, and kill its runner."""
    return _spoil(scene, fault, lambda path: alter(path, fault.amount))


def _spoil(scene: Scene, fault: Fault, spoil: Callable[[Path], None]) -> Hit | None:
    fitting = [job for job in scene.running if job.checkpoint and scene.crowd(job).ranks]
    if (job := choose(fitting, fault.pick)) is None:
        return None
    send(scene.crowd(job).ranks[:1], signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):  # replaced by a newer one this very moment
        spoil(scene.cluster.store_root / job.checkpoint.artifact)
    return scene.hit(job.id, [job], clears=True)


def new_cut_short(scene: Scene, fault: Fault) -> Hit | None:
    """Cut a checkpoint short that its worker is about to publish."""
    if (job := choose(scene.running, fault.pick)) is None:
        return None
    host = scene.cluster.host(job.worker)
    host.wrong = True
    send([host.pid], signal.SIGSTOP)
    hit = scene.hit(job.id, [job])

    def wait_and_cut() -> None:
        try:
            if new := _next_checkpoint(scene.folder(job) / "checkpoints"):
                cut_short(new, fault.amount)
        finally:
            send([host.pid], signal.SIGCONT)
            host.wrong = False

    scene.later(0, wait_and_cut)
    return hit


def _next_checkpoint(folder: Path) -> Path | None:
    before = set(folder.glob("step-*.ckpt"))
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if new := set(folder.glob("step-*.ckpt")) - before:
            return max(new)
        time.sleep(0.01)
    return None


def cut_short(path: Path, part: float) -> None:
    """Leave only the first part of a file."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, int(part * path.stat().st_size))


def alter(path: Path, place: float) -> None:
    """Flip the bits of one byte of a file."""
    with path.open("r+b") as file:
        at = int(place * path.stat().st_size)
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def disk_full(scene: Scene, fault: Fault) -> Hit | None:
    """Fill the disk of a host for seconds; where it has none of its own, let its writes fail."""
    if (host := scene.busy_host(fault.pick)) is None or (host.home / _BALLAST).exists():
        return None
    hit = scene.hit(host.name, scene.on(host))
    seconds = 1 + 2 * fault.amount
    if host.home.is_mount():
        fill(host.home)
        scene.later(seconds, (host.home / _BALLAST).unlink)
    else:
        pids = [host.pid, *at_work(host.home)]
        limit_files(pids, 0)
        scene.later(seconds, limit_files, pids, resource.RLIM_INFINITY)
    return hit


def store_full(scene: Scene, fault: Fault) -> Hit | None:
    """Fill the disk of the artifact store for seconds."""
    root = scene.cluster.store_root
    if not root.is_mount() or (root / _BALLAST).exists():
        return None
    hit = scene.hit("store", scene.running)
    fill(root)
    scene.later(1 + 2 * fault.amount, (root / _BALLAST).unlink)
    return hit


def redis_disk_full(scene: Scene, fault: Fault) -> Hit | None:
    """Fill the disk of Redis for seconds; where it ends for that, start it again."""
    folder, redis = scene.cluster.options.folder / "redis", scene.cluster.redis
    if scene.redis_is_away or not folder.is_mount():
        return None
    scene.redis_is_away = True
    hit = scene.hit("redis", scene.running)
    fill(folder)

    def make_room() -> None:
        (folder / _BALLAST).unlink()
        if not is_alive(redis.pid):
            redis.stop()
            redis.start()
        scene.redis_is_away = False

    scene.later(1 + 3 * fault.amount, make_room)
    return hit


def fill(folder: Path) -> None:
    """Fill a file system to its last byte."""
    with (folder / _BALLAST).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (_PIECE, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass


def limit_files(pids: Sequence[int], size: int) -> None:
    """Let processes write no file beyond a size, in bytes."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
