"""The whole service of one machine: Redis unless one is given, and one worker."""

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jobs.errors import SetupError
from jobs.service.children import Child
from jobs.service.embedded import EmbeddedRedis, HomeLock, unusable

#: Packages that a worker needs and a client does not.
_WORKER_PACKAGES: Final = ("torch", "lightning", "torchmetrics", "sacrebleu", "psutil")
#: Seconds within which a part that ends again and again is given up.
_QUICK_END: Final = 10.0
_MAX_QUICK_ENDS: Final = 3
#: Seconds that a worker has for taking checkpoints and handing its jobs back.
DRAIN_TIMEOUT: Final = 60.0
#: Seconds that a worker has to announce itself or to refuse; a slow one goes on without being seen.
_ANNOUNCE_TIMEOUT: Final = 60.0
_LOOK: Final = 0.05
#: The exit status of a worker that cannot do what it is told: told again, it cannot either.
_REFUSED: Final = 2


class WorkerRefused(SetupError):
    """The worker cannot do what the environment says; without a log, it has said so itself."""


class Service:
    """Run Redis (unless `url` names one) and one worker, for the length of a block.

    The worker keeps files where UNROLL_STORE says, unless `store` names a folder.
    """

    def __init__(
        self,
        home: Path,
        *,
        slots: int = 1,
        answer_slots: int = 1,
        url: str | None = None,
        log: Path | None = None,
        store: Path | None = None,
    ) -> None:
        self.home = home.absolute()
        self._slots = slots
        self._answer_slots = answer_slots
        self._url = url
        self._log = log
        self._store = store
        self._lock = HomeLock(self.home)
        self._redis = None if url else EmbeddedRedis(self.home)
        self._worker: Child | None = None
        self._ends: list[float] = []

    @property
    def url(self) -> str:
        """Return the URL of Redis."""
        return self._redis.url if self._redis else self._url or ""

    @property
    def worker_pid(self) -> int:
        """Return the process id of the worker; 0 before its start."""
        return self._worker.pid if self._worker else 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the parts, and wait until the worker is there.

        Raise SetupError with the mend, or ServiceUnreachable where the given Redis does not answer;
        nothing is left running.
        """
        require_worker()
        if self._url:
            require_answer(self._url)
        self._lock.acquire()
        try:
            if self._redis:
                self._redis.start()
            self._start_worker()
            self._await_worker()
        except BaseException:
            self.stop(0)
            raise

    def stop(self, timeout: float = DRAIN_TIMEOUT) -> None:
        """Let the worker hand its jobs back, then stop everything; at most `timeout` seconds."""
        if self._worker is not None:
            self._worker.stop(timeout)
            self._worker = None
        if self._redis is not None:
            self._redis.stop()
        self._lock.release()

    def mend(self) -> None:
        """Start again what has ended. Raise SetupError where it ends again and again."""
        if self._redis is not None and not self._redis.running:
            self._note_end("Redis")
            self._redis.restart()
        if self._worker is not None and not self._worker.running:
            self._refuse_what_it_refused(self._worker)
            self._note_end("the worker")
            self._start_worker()

    def _note_end(self, what: str) -> None:
        now = time.monotonic()
        self._ends = [end for end in self._ends if now - end < _QUICK_END] + [now]
        if len(self._ends) >= _MAX_QUICK_ENDS:
            words = self._worker.last_words() if self._worker else ""
            raise SetupError(f"{what} ends again and again{': ' + words if words else ''}")

    def _start_worker(self) -> None:
        command = [sys.executable, "-P", "-m", "worker", "--home", str(self.home)]
        command += ["--slots", str(self._slots), "--answer-slots", str(self._answer_slots)]
        # Credentials go by environment: a command line is open to every user of the machine.
        environment = {**os.environ, "UNROLL_REDIS_URL": self.url, "UNROLL_HOME": str(self.home)}
        if self._store:
            environment["UNROLL_STORE"] = str(self._store)
        try:
            self._worker = Child(command, environment=environment, log=self._log)
        except OSError as error:
            raise unusable(self.home, error) from None

    def _await_worker(self) -> None:
        from jobs.connection import connect  # noqa: PLC0415 - imports Redis
        from jobs.store import JobStore  # noqa: PLC0415 - imports Redis

        here, worker = socket.gethostname(), self._worker
        assert worker is not None  # noqa: S101 - just started
        deadline = time.monotonic() + _ANNOUNCE_TIMEOUT
        with connect(self.url) as connection:
            store = JobStore(connection)
            while worker.running and time.monotonic() < deadline:
                if (here, worker.pid) in ((each.host, each.pid) for each in store.workers()):
                    return
                time.sleep(_LOOK)
        self._refuse_what_it_refused(worker)

    @staticmethod
    def _refuse_what_it_refused(worker: Child) -> None:
        if worker.process.returncode == _REFUSED:
            said = worker.last_words().removeprefix("unroll: ")
            raise WorkerRefused(said or "the worker refuses its settings: see what it said")


def require_answer(url: str) -> None:
    """Raise ServiceUnreachable where no Redis answers at the URL."""
    from jobs.connection import connect  # noqa: PLC0415 - imports Redis
    from jobs.store import JobStore  # noqa: PLC0415 - imports Redis

    with connect(url) as connection:
        JobStore(connection).ping()


def require_worker() -> None:
    """Raise SetupError where only the client is installed."""
    missing = [name for name in _WORKER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"this installation is a client only ({', '.join(missing)} missing): "
            "pip install 'unroll[worker]'"
        )
