"""The guard: a small process between a supervisor and a runner, so that neither outlives the other.

It is executed by its path (`python -I -S guard.py`) and needs the standard library alone: about
8 MB instead of the runner's 300. The supervisor holds the other end of its standard input:

    first line     what to run, as JSON (see `Orders`); credentials travel here, never in arguments
    then `.`       a renewal of the lease was answered: the deadline moves on
         `K`       kill the runner
         `D`       done: the job's end is in the record, there is nothing to hand back
    end of file    the supervisor is gone: kill the runner and, unless done, hand its lease back

On its standard output it says one line, the runner's process id, which is also its process group.
However the runner ends, the guard kills and reaps all that it leaves behind, also what has left the
group, writes `exit.json` into the attempt folder, closes its standard output, and stays until it is
told `D`: a supervisor that dies between its runner's end and the record's is not waited for either.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

BEAT: Final = b"."
KILL: Final = b"K"
DONE: Final = b"D"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_NULL: Final = "/dev/null"
#: The kernel's out-of-memory killer shall choose the runner before its supervisor.
_OOM_SCORE: Final = "500"
#: What a guard must live through: a terminal's Ctrl-C, and a service manager that stops a whole
#: control group. The supervisor drains, and says when to end.
_DEAF_TO: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Orders(NamedTuple):
    """What a supervisor asks of its guard."""

    #: The runner, as a list of arguments whose first is an absolute path.
    command: list[str]
    environment: dict[str, str]
    #: Working folder of the runner, and of the guard.
    cwd: str
    #: Where the runner's standard output and error go.
    log: str
    #: Where to say how the runner ended.
    exit_file: str
    #: Descriptor that the runner inherits; all others are closed.
    commands_fd: int
    #: Seconds without an answered renewal after which the runner is killed.
    grace: float
    nice: int
    #: What hands the lease back once the supervisor is gone; empty for nothing.
    handback: list[str]
    handback_environment: dict[str, str]


class Guard:
    """Start one runner and see it out."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._deadline = time.monotonic() + orders.grace
        self._oom_kills = oom_kills()
        self._runner = 0
        self._status: int | None = None
        self._done = False
        self._wakeup = _wake_on_child()

    def run(self) -> None:
        """Start the runner, wait for its end or the reason to end it, and clear up."""
        self._runner = _start_runner(self._orders)
        os.write(1, b"%d\n" % self._runner)
        cause = self._watch()
        self._clear()
        with contextlib.suppress(OSError):  # a full disk must not keep the lease
            self._report(cause)
        os.dup2(os.open(_NULL, os.O_WRONLY), 1)
        while cause != "abandoned" and not self._done and self._listen() != "abandoned":
            pass
        if not self._done and self._orders.handback:
            _hand_back(self._orders)

    def _watch(self) -> str:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            remaining = self._deadline - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(0.0, remaining) * 1000)}
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._status is not None:
                return "exited"
            if 0 in ready and (cause := self._listen()):
                return cause
            if time.monotonic() >= self._deadline:
                return "deadline"

    def _listen(self) -> str:
        said = os.read(0, 4096)
        if not said:
            return "abandoned"
        self._done = self._done or DONE in said
        self._deadline = time.monotonic() + self._orders.grace
        return "killed" if KILL in said else ""

    def _reap(self) -> bool:
        """Take the status of every child that has ended; return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._runner:
                self._status = status

    def _clear(self) -> None:
        """Kill every descendant; whoever loses its parent becomes a child of this process."""
        pause = 0.005
        while self._reap():
            if self._status is None:  # not reaped: the number still means this group
                _kill(-self._runner)
            for pid in descendants(os.getpid()):
                _kill(pid)
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)

    def _report(self, cause: str) -> None:
        status = os.waitstatus_to_exitcode(self._status or 0)
        said = {
            "cause": cause,
            "status": status if status >= 0 else None,
            "signal": signal.Signals(-status).name if status < 0 else None,
            "oom_kills": oom_kills() - self._oom_kills,
            "ended": time.time(),
        }
        temporary = Path(f"{self._orders.exit_file}.new")
        temporary.write_text(json.dumps(said), encoding="utf-8")
        temporary.replace(self._orders.exit_file)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory, as near to here as it counts."""
    for path in (*_memory_groups(), Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _memory_groups() -> Iterator[Path]:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")


def descendants(root: int) -> list[int]:
    """Return the process ids of everything below `root`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path(entry.path, "stat").read_bytes()
                parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _wake_on_child() -> int:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    return reader


def _start_runner(orders: Orders) -> int:
    guard = os.getpid()
    if pid := os.fork():
        return pid
    try:
        _become_runner(orders, guard)
    except BaseException as error:  # a forked child must never return into its parent
        os.write(2, f"cannot start {orders.command[0]}: {error}\n".encode())
    os._exit(127)


def _become_runner(orders: Orders, guard: int) -> NoReturn:
    os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it died before the line above could bind us to it
        os._exit(127)
    for number in (*_DEAF_TO, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.nice(orders.nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    os.dup2(os.open(_NULL, os.O_RDONLY), 0)
    log = os.open(orders.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.set_inheritable(orders.commands_fd, True)
    os.closerange(3, orders.commands_fd)
    os.closerange(orders.commands_fd + 1, os.sysconf("SC_OPEN_MAX"))
    command, environment = orders.command, orders.environment
    os.execve(command[0], command, environment)  # noqa: S606 - the supervisor's, and no shell


def _hand_back(orders: Orders) -> None:
    log = os.open(orders.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    to_log = [(os.POSIX_SPAWN_DUP2, log, number) for number in (1, 2)]
    command = orders.handback
    helper = os.posix_spawn(command[0], command, orders.handback_environment, file_actions=to_log)
    os.waitpid(helper, 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _read_orders() -> Orders | None:
    """Read the first line, byte by byte where it ends: what follows is not ours yet."""
    line = bytearray()
    while not line.endswith(b"\n"):
        said = os.read(0, 1)
        if not said:
            return None
        line += said
    plain: Mapping[str, Any] = json.loads(line)
    return Orders(**plain)


def main() -> None:
    """Be the guard of one runner."""
    orders = _read_orders()
    if orders is None:  # the supervisor died before it had said what to do
        sys.exit(1)
    if os.getpid() != os.getsid(0):
        os.setsid()
    os.chdir(orders.cwd)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Guard(orders).run()


if __name__ == "__main__":
    main()
