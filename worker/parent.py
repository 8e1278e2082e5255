"""The worker's hold on its preloaded parent: the process that guards and runners are forked from.

A new interpreter spends seconds on importing torch and Lightning before it comes to a job; a fork
of one that has imported them spends milliseconds. What happens in the parent, `forking` says.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from jobs.service.children import Child
from worker.environment import parent_environment
from worker.forking import FORK, LOAD, MESSAGE_BYTES
from worker.sources import code_stamp

logger = logging.getLogger(__name__)

PARENT_COMMAND: Final = (sys.executable, "-P", "-m", "worker.runner", "--parent")
#: Seconds for a parent to answer; it does so in milliseconds.
_ANSWER_SECONDS: Final = 5.0
#: Seconds for which it is worth to wait for a parent that loads. A runner in an interpreter of its
#: own has the same to load, beside it and later; but a parent may also hang.
_LOADING_SECONDS: Final = 60.0
#: Seconds after which one that still loads is taken to hang, and is started again.
_HANGING_SECONDS: Final = 300.0
#: Seconds between two starts: of one that ends again and again, ever longer.
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 300.0


class NoParent(Exception):
    """No parent is there to fork a guard now."""


class StillLoading(NoParent):
    """It is there and will be of use in a moment."""


class Forked:
    """A process that was forked from a parent: a stranger to this one, held by a descriptor."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._waiting = threading.Lock()

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for the end, and let go of the descriptor."""
        with self._waiting:
            if self._descriptor < 0:  # somebody has waited for it
                return
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            poll.poll()
            # Its parent buries it. Where that is gone and this is the first process of a
            # container, it was left to us.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED)
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class ParentLink:
    """The socket to a parent. Once it has raised NoParent the parent may be of no use."""

    def __init__(self, requests: socket.socket) -> None:
        self._is_ready = False
        self._requests = requests
        self._requests.settimeout(_ANSWER_SECONDS)

    def require_ready(self) -> None:
        """Raise NoParent where the parent has not loaded everything yet, or cannot."""
        if not self._has_loaded:
            raise StillLoading("the preloaded parent is still loading")
        if not self._is_ready:
            self._hear()
        self._is_ready = True

    def fork_guard(self, descriptors: Sequence[int]) -> Forked:
        """Return a new guard. Raise NoParent."""
        return self._fork(FORK, descriptors)

    def fork_parent(self, requests: socket.socket, files: Sequence[int]) -> Forked:
        """Return a new parent at the other end of `requests`, which loads these open files.

        Raise NoParent.
        """
        return self._fork(LOAD, [requests.fileno(), *files])

    def close(self) -> None:
        """Let go of the socket, by which the parent ends."""
        self._requests.close()

    @property
    def _has_loaded(self) -> bool:
        return self._is_ready or self._has_spoken()

    def _has_spoken(self) -> bool:
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        return bool(poll.poll(0))

    def _fork(self, order: bytes, descriptors: Sequence[int]) -> Forked:
        try:
            socket.send_fds(self._requests, [order], descriptors)
        except OSError as error:
            raise NoParent(f"the preloaded parent does not listen: {error}") from None
        answer, given = self._hear()
        return Forked(answer["pid"], *given)

    def _hear(self) -> tuple[dict[str, Any], list[int]]:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._requests, MESSAGE_BYTES, 1)
        except OSError as error:
            raise NoParent(f"the preloaded parent does not answer: {error}") from None
        if not said:
            raise NoParent("the preloaded parent has ended")
        answer = json.loads(said)
        if "refused" in answer:
            raise NoParent(answer["refused"])
        return answer, descriptors


class Parent(ParentLink):
    """The one parent process that a worker starts itself."""

    def __init__(self, command: Sequence[str]) -> None:
        #: What it loads, or something older.
        self.stamp = code_stamp()
        ours, theirs = parent_sockets()
        super().__init__(ours)
        self._started = time.monotonic()
        try:
            with theirs:
                self._child = Child(
                    command, environment=parent_environment(), stdin=theirs.fileno()
                )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.running

    @property
    def is_loading(self) -> bool:
        """Whether it will be ready in a while."""
        return self.running and self._age < _LOADING_SECONDS and not self._has_loaded

    @property
    def hangs(self) -> bool:
        """Whether it has been loading for longer than loading may take."""
        return self._age > _HANGING_SECONDS and not self._has_loaded

    @property
    def _age(self) -> float:
        return time.monotonic() - self._started

    def end(self) -> None:
        """End it; what was forked from it goes on."""
        self.close()
        self._child.kill()


def parent_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a socket between a worker and a parent."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class PreloadedParent:
    """Keep a parent ready, with the code as it is now; usable from several threads."""

    def __init__(self, command: Sequence[str] = PARENT_COMMAND) -> None:
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._parent: Parent | None = None
        self._closed = False
        self._pause = _FIRST_PAUSE
        self._next_start = 0.0

    @property
    def pid(self) -> int:
        """Return the process id of the parent; 0 where there is none."""
        return self._parent.pid if self._parent else 0

    @property
    def is_loading(self) -> bool:
        """Whether a parent will be ready in a while, so that it is worth to wait for it."""
        with self._lock:
            if self._closed:
                return False
            if self._parent and self._parent.running:
                return self._parent.is_loading
            return time.monotonic() >= self._next_start  # one is about to be started

    def keep(self) -> None:
        """Start a parent where there is none, or none with the code as it is now."""
        with self._lock:
            with contextlib.suppress(NoParent):
                self._current()
                return
            if not self._closed and time.monotonic() >= self._next_start:
                self._next_start = time.monotonic() + self._pause
                self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
                self._parent = Parent(self._command)

    def fork_guard(self, ear: int, mouth: int, commands: int) -> Forked:
        """Return a new guard with these descriptors; see `forking`. Raise NoParent."""
        return self._ask(lambda parent: parent.fork_guard([ear, mouth, commands]))

    def fork_parent(self, requests: socket.socket, files: Sequence[int]) -> Forked:
        """Return a new parent that loads a model; see `ParentLink.fork_parent`. Raise NoParent."""
        return self._ask(lambda parent: parent.fork_parent(requests, files))

    def _ask(self, fork: Callable[[Parent], Forked]) -> Forked:
        with self._lock:
            parent = self._current()
            parent.require_ready()
            try:
                forked = fork(parent)
            except NoParent:
                self._end()
                raise
            self._pause = _FIRST_PAUSE
            return forked

    def close(self) -> None:
        """End the parent for good; what was forked from it goes on."""
        with self._lock:
            self._closed = True
            self._end()

    def _current(self) -> Parent:
        if self._parent and not self._parent.running:
            logger.warning("the preloaded parent has ended")
            self._end()
        if self._parent and self._parent.hangs:
            logger.warning("the preloaded parent hangs while it loads, and is started again")
            self._end()
        if self._parent and self._parent.stamp != code_stamp():
            logger.info("the code has changed: the preloaded parent is started again")
            self._end()
        if self._parent is None:
            raise NoParent("no preloaded parent is there")
        return self._parent

    def _end(self) -> None:
        if self._parent:
            self._parent.end()
        self._parent = None
