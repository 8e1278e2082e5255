"""What a run breaks: a Redis with an append-only file, and hosts, each with a worker of its own.

The hosts share one folder for their artifacts, as machines share a file system, and nothing else:
each has a home, and a proxy through which alone it reaches Redis.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.service.embedded import find_server
from tests.benchmarks.chaos import specs
from tests.benchmarks.chaos.network import Link, links
from tests.benchmarks.chaos.processes import at_work, called, children, send
from tests.benchmarks.chaos.proxy import Proxy
from tests.integration.conftest import RedisServer

_WORKER: Final = Path(__file__).with_name("worker.py")
#: The append-only file is the run's history: never rewritten, with the time of every second.
_REDIS: Final = ("--auto-aof-rewrite-percentage", "0", "--aof-timestamp-enabled", "yes")
#: Seconds between two starts of a worker that ends by itself.
_RESTART: Final = 1.0
#: Seconds that a draining worker may take.
_DRAIN: Final = 60.0
#: Seconds for all workers to load torch, on a busy machine.
_READY: Final = 300.0
#: Size of the file systems that may get full.
_DISK_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Options:
    """How a cluster is made."""

    folder: Path
    hosts: int = 4
    slots: int = 2
    #: Seconds of a lease; None for the worker's own clocks throughout.
    lease: float | None = 3.0
    appendfsync: str = "always"
    #: Whether each host gets a network of its own, where the machine allows that.
    networks: bool = True

    @property
    def clocks(self) -> Mapping[str, float]:
        """Return the clocks of the workers that differ from their own."""
        if self.lease is None:
            return {}
        return {"lease": self.lease, "renew": 0.2, "sweep": 0.3, "linger": 3.0, "drain": 10.0}

    @property
    def lease_seconds(self) -> float:
        """Return how long a lease lives."""
        return 10.0 if self.lease is None else self.lease


@dataclass
class Host:
    """One machine: a home, a worker, and its way to Redis."""

    name: str
    home: Path
    proxy: Proxy
    #: What the worker is told, besides.
    told: Mapping[str, Any]
    log: Path
    #: Its network, where the machine allows it one.
    link: Link | None = None
    worker: "subprocess.Popen[bytes] | None" = None
    #: Whether something is wrong with it now; another may be broken next.
    wrong: bool = False
    started: float = 0.0

    def start(self) -> None:
        """Start the worker."""
        inside = self.link.inside if self.link else ()
        with self.log.open("ab") as log:
            self.worker = subprocess.Popen(
                [*inside, sys.executable, "-P", str(_WORKER), json.dumps(self.told)],
                env={**os.environ, "UNROLL_REDIS_URL": self.proxy.url},
                stdout=log,
                stderr=log,
            )
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        """Return the worker's process id."""
        assert self.worker is not None
        return self.worker.pid

    @property
    def runs(self) -> bool:
        """Whether the worker has not ended."""
        return self.worker is not None and self.worker.poll() is None

    def parents(self) -> list[int]:
        """Return the preloaded parent; none while there is none that is ready."""
        return called(children(self.pid), "unroll-parent")

    def itself(self) -> list[int]:
        """Return the process of the worker."""
        return [self.pid]

    def everything(self) -> list[int]:
        """Return every process of this host: the worker first, then what it has started."""
        return [self.pid, *children(self.pid), *at_work(self.home)]

    def attempt(self, job: str, number: int) -> Path:
        """Return the folder of an attempt on this host."""
        return self.home / "attempts" / job / f"{number:04d}"

    def cut(self) -> None:
        """Cut it off: packets are lost, or, without a network of its own, held up."""
        (self.link.cut if self.link else self.hold)()

    def join(self) -> None:
        """Let it reach Redis again."""
        (self.link.join if self.link else self.release)()

    def hold(self) -> None:
        """Hold up what it says and hears; nothing of it is lost."""
        self.proxy.hold()

    def release(self) -> None:
        """Let everything arrive that was held up."""
        self.proxy.release()

    def end(self, with_signal: signal.Signals) -> None:
        """End the worker and wait for it."""
        if self.worker is not None:
            self.worker.send_signal(with_signal)
            self.worker.wait(_DRAIN)


class Cluster:
    """Start everything, and leave nothing behind."""

    def __init__(self, options: Options, networks: Sequence[Link]) -> None:
        self.options = options
        #: One for each host, or none where the machine allows none.
        self.networks = networks
        folder = options.folder
        self.store_root = folder / "store"
        self.text = folder / "text"
        (folder / "redis").mkdir(parents=True)
        self.store_root.mkdir()
        for disk in (self.store_root, folder / "redis"):
            mount_small(disk)
        specs.write_text(self.text)
        self.redis = RedisServer(
            str(find_server()),
            folder / "redis",
            *_REDIS,
            "--appendfsync",
            options.appendfsync,
        )
        self._environment = {
            "UNROLL_STORE": str(self.store_root),
            "UNROLL_PLUGINS": str(specs.PLUGINS),
            "OMP_NUM_THREADS": "1",
        }
        os.environ.update(self._environment)
        catalog = self._write_catalog()
        self.hosts = [self._host(number, catalog) for number in range(1, options.hosts + 1)]

    def _write_catalog(self) -> Path:
        path = self.options.folder / "catalog.json"
        with path.open("wb") as file:
            subprocess.run(
                [sys.executable, "-P", "-m", "worker.runner", "--catalog"], stdout=file, check=True
            )
        return path

    def _host(self, number: int, catalog: Path) -> Host:
        name, folder = f"host-{number}", self.options.folder
        told = {
            "home": str(folder / name),
            "root": str(self.text),
            "name": name,
            "slots": self.options.slots,
            "clocks": self.options.clocks,
            "catalog": str(catalog),
        }
        link = self.networks[number - 1] if self.networks else None
        upstream = Path(self.redis.url.removeprefix("unix://"))
        proxy = Proxy(upstream, link.address) if link else Proxy(upstream)
        home = folder / name
        home.mkdir()
        if number == 1:  # the others keep their attempts where the rest lies
            mount_small(home)
        return Host(name, home, proxy, told, folder / f"{name}.log", link)

    def start(self) -> None:
        """Start Redis and the workers."""
        self.redis.start()
        for host in self.hosts:
            host.start()

    @property
    def redis_folder(self) -> Path:
        """Return where Redis keeps its append-only file."""
        return self.options.folder / "redis" / "appendonlydir"

    @property
    def able(self) -> Sequence[Host]:
        """Return the hosts that nothing is wrong with."""
        return [host for host in self.hosts if not host.wrong and host.runs]

    def keep_running(self) -> None:
        """Start workers again that have ended by themselves, as a service manager does."""
        earlier = time.monotonic() - _RESTART
        for host in self.hosts:
            if not host.wrong and not host.runs and host.started < earlier:
                host.start()

    def host(self, name: str) -> Host:
        """Return the host of this name."""
        return next(host for host in self.hosts if host.name == name)

    def drain(self) -> None:
        """Let every worker leave as an operator would."""
        for host in self.hosts:
            if host.runs:
                host.worker.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        for host in self.hosts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.worker.wait(_DRAIN)  # type: ignore[union-attr]

    def left(self) -> list[int]:
        """Return the processes of workers that have ended."""
        return [pid for host in self.hosts for pid in at_work(host.home)]

    def stop(self) -> None:
        """End what still runs, however it stands."""
        for host in self.hosts:
            if host.worker is not None and host.runs:
                host.worker.kill()
                host.worker.wait()
            send(at_work(host.home), signal.SIGKILL)
            host.proxy.close()
            unmount(host.home)
        with contextlib.suppress(ProcessLookupError):
            self.redis.stop(signal.SIGKILL)
        for disk in (self.store_root, self.options.folder / "redis"):
            unmount(disk)


def await_parents(cluster: Cluster) -> None:
    """Wait until every worker has its preloaded parent."""
    deadline = time.monotonic() + _READY
    while not all(host.parents() for host in cluster.hosts):
        if time.monotonic() > deadline:
            raise RuntimeError("the workers do not get ready")
        time.sleep(0.1)


def mount_small(folder: Path) -> bool:
    """Put a small file system on a folder; return whether this machine allows it."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)],
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return made.returncode == 0


def unmount(folder: Path) -> None:
    """Take the small file system away, where there is one; what it held lies there after."""
    if not folder.is_mount():
        return
    kept = folder.with_name(f".{folder.name}")
    shutil.copytree(folder, kept, ignore=_sockets, symlinks=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()
    kept.rename(folder)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_socket()]


@contextlib.contextmanager
def running(options: Options) -> Iterator[Cluster]:
    """Run a cluster for the length of a block."""
    with links(options.hosts if options.networks else 0) as networks:
        cluster = Cluster(options, networks)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
