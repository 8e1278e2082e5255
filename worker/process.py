"""Start a runner behind its guard, speak to both, and learn how the runner ended."""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Final, Protocol

from worker import guard
from worker.environment import ATTEMPT_VARIABLE, clean_environment, runner_environment
from worker.folder import Attempt, AttemptFolder
from worker.leftovers import kill_all_of
from worker.parent import NoParent, PreloadedParent
from worker.warm import WarmModels

logger = logging.getLogger(__name__)

RUNNER_COMMAND: Final = (sys.executable, "-P", "-m", "worker.runner")
#: Seconds for a guard to say that its runner runs, and to clear up when told to.
_START_SECONDS: Final = 30.0
_CLEAR_SECONDS: Final = 5.0
#: Seconds for it to write the stacks of all ranks before.
_STACKS_SECONDS: Final = 30.0
#: Enough for the supervisor to go first, not so much that a busy machine starves the training.
_NICE: Final = 1


@dataclass(frozen=True)
class Exit:
    """How a runner's process ended, as its guard saw it."""

    #: "exited", "killed" (told to), "hung" (likewise, once its stacks were written), "abandoned"
    #: (its supervisor was gone), "deadline" (no renewal was answered for too long), or "unseen"
    #: (the guard itself was killed).
    cause: str
    status: int | None = None
    #: Name of the signal that ended it, e.g. `SIGSEGV`.
    signal: str | None = None
    #: Processes that the kernel killed for memory meanwhile.
    oom_kills: int = 0
    #: Whose end it is: of ranks that train together, the first that failed.
    rank: int = 0
    #: The most memory that one rank had at once, in bytes; 0 where nobody saw it.
    peak_memory: int = field(default=0, compare=False)

    @classmethod
    def read(cls, folder: AttemptFolder) -> "Exit":
        """Return what the guard wrote, or "unseen" where it could not."""
        try:
            said = json.loads(folder.exit_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls("unseen")
        known = {each.name for each in fields(cls)} & said.keys()
        return cls(**{name: said[name] for name in known})

    def describe(self) -> str:
        """Return the end in a person's words."""
        who = f"rank {self.rank} of the runner" if self.rank else "the runner"
        if self.signal:
            return f"{who} was killed by {self.signal}"
        if self.status is None:
            return "the runner's guard was killed"
        return f"{who} exited with status {self.status} and said nothing of its end"


@dataclass(frozen=True)
class Handback:
    """How a guard gives the lease back when its supervisor is gone; nothing by default."""

    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Running:
    """A runner behind its guard."""

    def __init__(self, link: "GuardLink", commands: socket.socket, folder: AttemptFolder) -> None:
        self._link = link
        self._commands = commands
        self._folder = folder
        self._over: Exit | None = None
        #: The process group, and the process id of rank 0; 0 where it could not be started.
        self.pid = link.hear_group(_START_SECONDS)
        commands.setblocking(False)

    def beat(self) -> None:
        """Tell the guard that a renewal of the lease was answered."""
        self._link.tell(guard.BEAT)

    def send(self, command: str) -> None:
        """Give the runner a command; one that has ended or does not listen misses it."""
        with contextlib.suppress(OSError):
            self._commands.send(json.dumps({"command": command}).encode() + b"\n")

    def wait(self, timeout: float) -> Exit | None:
        """Return how the runner ended, or None if it has not after `timeout` seconds."""
        if self._over is None and self._link.is_closed(timeout):
            self._over = Exit.read(self._folder)
            if self._over.cause == "unseen":
                self._kill_group()
                kill_all_of(self._folder.path)
        return self._over

    def kill(self, *, hung: bool = False) -> Exit:
        """Kill the runner and all it has started; return how it ended.

        Of one that hangs, what its threads are at is written to its log before.
        """
        if self._over is None:
            self._link.tell(guard.HUNG if hung else guard.KILL)
        if end := self.wait(_CLEAR_SECONDS + _STACKS_SECONDS * hung):
            return end
        self._kill_group()  # the guard itself does not answer: stopped, or starved
        self._link.process.kill()
        return self.wait(_CLEAR_SECONDS) or Exit("unseen")

    def close(self, *, done: bool) -> None:
        """Let go of the guard: it kills what still runs; unless `done`, it hands the lease back."""
        if done:
            self._link.tell(guard.DONE)
        self._commands.close()
        self._link.close()
        # A guard that hands back takes its time; somebody must still take its exit status.
        threading.Thread(target=self._link.process.wait, daemon=True).start()

    def _kill_group(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


class GuardProcess(Protocol):
    """What both ways to start a guard return."""

    @property
    def pid(self) -> int:
        """Return the process id."""

    def kill(self) -> None:
        """End the process at once."""

    def wait(self) -> object:
        """Wait for the end."""


#: Start a guard on its standard input, its standard output and the runner's end of the commands.
StartGuard = Callable[[int, int, int], GuardProcess]


class GuardLink:
    """A guard's process and the two pipes that lead to it."""

    def __init__(self, orders: guard.Orders, commands_fd: int, start: StartGuard) -> None:
        its_ear, self._tell = os.pipe()
        self._hear, its_mouth = os.pipe()
        self._closed = False
        self._lock = threading.Lock()
        try:
            self.process = start(its_ear, its_mouth, commands_fd)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(its_ear)
            os.close(its_mouth)
        told = json.dumps(orders._asdict()).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self._tell), "wb") as pipe:
            pipe.write(told)
        os.set_blocking(self._tell, False)

    def hear_group(self, timeout: float) -> int:
        """Return the runner's process group, or 0 where the guard could not start it."""
        if not self.is_closed(timeout):
            self.process.kill()
        said = os.read(self._hear, 64).strip()
        return int(said) if said.isdigit() else 0

    def is_closed(self, timeout: float) -> bool:
        """Return whether the guard has closed its end, waiting up to `timeout` seconds for it.

        Before it has said the process group: whether it has said anything.
        """
        if self._closed:
            return True
        poll = select.poll()  # select ends at descriptor 1023
        poll.register(self._hear, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def tell(self, word: bytes) -> None:
        """Say one of the guard's words; a guard that has ended misses it."""
        # Any thread may speak, also one that does not know that this is over: the number of a
        # closed descriptor may be another file's by then.
        with self._lock, contextlib.suppress(OSError):
            if not self._closed:
                os.write(self._tell, word)

    def close(self) -> None:
        """Close both pipes."""
        with self._lock:
            if not self._closed:
                os.close(self._tell)
                os.close(self._hear)
            self._closed = True


class Launcher:
    """Start runners: each in an interpreter of its own, or forked from a preloaded parent."""

    def __init__(
        self,
        command: Sequence[str] = RUNNER_COMMAND,
        parent: PreloadedParent | None = None,
        warm: WarmModels | None = None,
    ) -> None:
        #: What runs an attempt in an interpreter of its own, but for the folder.
        self._command = tuple(command)
        self._parent = parent
        self._warm = warm

    def start(
        self, folder: AttemptFolder, attempt: Attempt, *, grace: float, handback: Handback
    ) -> Running:
        """Start the runner of a laid folder; `grace` is the guard's deadline in seconds."""
        ours, theirs = socket.socketpair()
        with theirs:
            orders = guard.Orders(
                command=[*self._command, str(folder.path)],
                world_size=attempt.world_size,
                environment={**runner_environment(attempt), ATTEMPT_VARIABLE: str(folder.path)},
                cwd=str(folder.path),
                log=str(folder.log_file),
                exit_file=str(folder.exit_file),
                grace=grace,
                nice=_NICE,
                handback=list(handback.command),
                handback_environment=dict(handback.environment),
            )
            try:
                return Running(self._link(orders, theirs.fileno(), attempt.model), ours, folder)
            except BaseException:
                ours.close()
                raise

    @property
    def is_loading(self) -> bool:
        """Whether a runner that starts now would start slowly, and one in a while quickly."""
        return self._parent is not None and self._parent.is_loading

    def keep_ready(self) -> None:
        """See to it that the next runner starts quickly; to be called again and again."""
        if self._parent:
            self._parent.keep()
        if self._warm:
            self._warm.keep()

    def is_warm(self, model: str) -> bool:
        """Return whether the next runner that uses this model need not read it."""
        return self._warm is not None and self._warm.has(model)

    def holding(self, folder: AttemptFolder) -> AbstractContextManager[None]:
        """Keep the model that an attempt used warm after a block, in which its folder may go."""
        return self._warm.holding(folder) if self._warm else contextlib.nullcontext()

    def close(self) -> None:
        """Let go of what was kept ready; runners go on."""
        if self._warm:
            self._warm.close()
        if self._parent:
            self._parent.close()

    def _link(self, orders: guard.Orders, commands_fd: int, model: str) -> GuardLink:
        for fork in self._forks(model):
            try:
                return GuardLink(orders, commands_fd, fork)
            except NoParent as error:
                logger.info("a runner starts in another way: %s", error)
        return GuardLink(orders, commands_fd, start_guard)

    def _forks(self, model: str) -> Iterator[StartGuard]:
        if self._warm and self._warm.has(model):
            yield partial(self._warm.fork_guard, model)
        if self._parent:
            yield self._parent.fork_guard


def start_guard(ear: int, mouth: int, commands: int) -> GuardProcess:
    """Start a guard in an interpreter of its own, and that of its runner with it."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(commands)],
        stdin=ear,
        stdout=mouth,
        env=clean_environment(),
        pass_fds=[commands],
        start_new_session=True,
    )
