"""The guard: a small process between a supervisor and a runner, so that neither outlives the other.

It is executed by its path (`python -I -S guard.py DESCRIPTOR`), or forked (see `worker.forking`),
and needs the standard library alone: about 8 MB instead of the runner's 300. The supervisor holds
the other end of its standard input:

    first line     what to run, as JSON (see `Orders`); credentials travel here, never in arguments
    then `.`       a renewal of the lease was answered: the deadline moves on
         `K`       kill the runner
         `H`       it hangs: write what its threads are at into the log, then kill it
         `D`       done: the job's end is in the record, there is nothing to hand back
    end of file    the supervisor is gone: kill the runner and, unless done, hand its lease back

A runner is one process or several that train together, its ranks. All are in one process group,
that of rank 0, and each finds its place in `RANK`, `LOCAL_RANK` and `WORLD_SIZE`; rank 0 alone
inherits the socket of the commands. The runner has ended when all ranks have, or as soon as one has
with another status than 0: the others could only wait for it.

On its standard output the guard says one line, the process group. However the runner ends, the
guard kills and reaps all that it leaves behind, also what has left the group, writes `exit.json`
into the attempt folder, closes its standard output, and stays until it is told `D`: a supervisor
that dies between its runner's end and the record's is not waited for either.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

BEAT: Final = b"."
KILL: Final = b"K"
HUNG: Final = b"H"
DONE: Final = b"D"

#: Variable that tells rank 0 which of its descriptors is the socket of the commands, and which is.
COMMANDS_VARIABLE: Final = "UNROLL_COMMANDS_FD"
COMMANDS_FD: Final = 3

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
#: At this signal a rank writes the stacks of its threads to its standard error.
STACKS_SIGNAL: Final = signal.SIGUSR1
#: Seconds for a process to begin and to end that, and between two looks whether it has.
_STACKS_SECONDS: Final = 2.0
_STACKS_LOOK: Final = 0.1

_NULL: Final = "/dev/null"
#: The kernel's out-of-memory killer shall choose the runner before its supervisor.
_OOM_SCORE: Final = "500"
#: What a guard must live through: a terminal's Ctrl-C, and a service manager that stops a whole
#: control group. The supervisor drains, and says when to end.
DEAF_TO: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Orders(NamedTuple):
    """What a supervisor asks of its guard."""

    #: A rank of the runner, as a list of arguments whose first is an absolute path.
    command: list[str]
    #: How many ranks there are.
    world_size: int
    environment: dict[str, str]
    #: Working folder of the runner, and of the guard.
    cwd: str
    #: Where the runner's standard output and error go.
    log: str
    #: Where to say how the runner ended.
    exit_file: str
    #: Seconds without an answered renewal after which the runner is killed.
    grace: float
    nice: int
    #: What hands the lease back once the supervisor is gone; empty for nothing.
    handback: list[str]
    handback_environment: dict[str, str]


#: Turn a process that was made ready for it into a rank, given its command and variables.
Become = Callable[[list[str], Mapping[str, str]], NoReturn]


class Guard:
    """Start one runner and see it out."""

    def __init__(self, orders: Orders, commands_fd: int, become: Become) -> None:
        self._orders = orders
        self._commands_fd = commands_fd
        self._become = become
        self._deadline = time.monotonic() + orders.grace
        self._oom_kills = oom_kills()
        #: Process ids of the ranks; the first is also the number of their group.
        self._ranks: list[int] = []
        #: How ranks have ended, by rank, in the order in which they did.
        self._statuses: dict[int, int] = {}
        #: Whose end is told: of several, the first that failed.
        self._first = 0
        #: The most memory that one of them had at once, in bytes.
        self._peak_memory = 0
        self._done = False
        self._wakeup = _wake_on_child()

    def run(self) -> None:
        """Start the runner, wait for its end or the reason to end it, and clear up."""
        for rank in range(self._orders.world_size):
            self._ranks.append(self._start(rank))
        os.write(1, b"%d\n" % self._ranks[0])
        cause = self._watch()
        self._clear()
        with contextlib.suppress(OSError):  # a full disk must not keep the lease
            self._report(cause)
        os.dup2(os.open(_NULL, os.O_WRONLY), 1)
        while cause != "abandoned" and not self._done and self._listen() != "abandoned":
            pass
        if not self._done and self._orders.handback:
            _hand_back(self._orders)

    def _start(self, rank: int) -> int:
        group = self._ranks[0] if self._ranks else 0
        guard = os.getpid()
        if pid := os.fork():
            # Both sides do it, so that the group is there whichever of the two comes first.
            with contextlib.suppress(PermissionError):  # it has become the command by now
                os.setpgid(pid, group or pid)
            return pid
        try:
            os.setpgid(0, group)
            bind_to(guard)
            _settle(self._orders, self._commands_fd if rank == 0 else None)
            self._become(self._orders.command, environment_of(self._orders, rank))
        except BaseException as error:  # a forked child must never return into its parent
            os.write(2, f"cannot start {self._orders.command[0]}: {error}\n".encode())
        os._exit(127)

    @property
    def _has_ended(self) -> bool:
        return len(self._statuses) == len(self._ranks) or any(self._statuses.values())

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
            if self._has_ended:
                self._first = self._who_failed()
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
        if HUNG in said:
            with contextlib.suppress(OSError):  # a full disk must not keep it from being killed
                self._write_stacks()
            return "hung"
        return "killed" if KILL in said else ""

    def _write_stacks(self) -> None:
        """Let each process of the runner say what it is at, one after the other."""
        for pid in descendants(os.getpid()):
            said = status_of(pid)
            whose = f"rank {self._ranks.index(pid)}" if pid in self._ranks else "a child"
            state = said.get("State", "ended").partition("(")[2].rstrip(")") or "ended"
            _append(self._orders.log, f"\nWhat {whose} was at (process {pid}, {state}):\n")
            if not catches(said, STACKS_SIGNAL):  # it would die of the signal
                _append(self._orders.log, "it cannot tell\n")
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, STACKS_SIGNAL)
                _wait_while_growing(Path(self._orders.log))

    def _reap(self) -> bool:
        """Take the status of every child that has ended; return whether any child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid in self._ranks:  # a number that a stray has got again tells nothing new
                self._statuses.setdefault(self._ranks.index(pid), status)
                self._peak_memory = max(self._peak_memory, usage.ru_maxrss * 1024)

    def _clear(self) -> None:
        """Kill every descendant; whoever loses its parent becomes a child of this process."""
        pause = 0.005
        while self._reap():
            if len(self._statuses) < len(self._ranks):  # the number still means this group
                _kill(-self._ranks[0])
            for pid in descendants(os.getpid()):
                _kill(pid)
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)

    def _who_failed(self) -> int:
        # Of ends at one moment the kernel tells in no order: who was killed did not miss another.
        failed = [rank for rank, status in self._statuses.items() if status]
        killed = [rank for rank in failed if os.WIFSIGNALED(self._statuses[rank])]
        return next(iter(killed or failed), 0)

    def _report(self, cause: str) -> None:
        rank = self._first  # how the others ended follows from it
        status = os.waitstatus_to_exitcode(self._statuses.get(rank, 0))
        said = {
            "cause": cause,
            "rank": rank,
            "status": status if status >= 0 else None,
            "signal": signal.Signals(-status).name if status < 0 else None,
            "oom_kills": oom_kills() - self._oom_kills,
            "peak_memory": self._peak_memory,
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


def status_of(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process, by name; nothing of one that is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def catches(status: Mapping[str, str], number: int) -> bool:
    """Return whether a process of this status has a handler for a signal."""
    return bool(int(status.get("SigCgt", "0"), 16) >> (number - 1) & 1)


def _wait_while_growing(log: Path) -> None:
    """Wait until something was added and nothing more is: two that write at once are no reading."""
    before = last = log.stat().st_size
    deadline = time.monotonic() + _STACKS_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_STACKS_LOOK)
        size = log.stat().st_size
        if size == last > before:
            return
        last = size


def _append(log: str, text: str) -> None:
    with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 - appended to, also by others
        file.write(text)


def _wake_on_child() -> int:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    return reader


def environment_of(orders: Orders, rank: int) -> dict[str, str]:
    """Return the variables of a rank."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(orders.world_size)}
    commands = {COMMANDS_VARIABLE: str(COMMANDS_FD)} if rank == 0 else {}
    return {**orders.environment, **place, **commands}


def name_process(name: str) -> None:
    """Let this process be called so by `ps` and `top`: forks have their parent's command line."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


def bind_to(parent: int) -> None:
    """Die with the process from which this one was forked."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above could bind us to it
        os._exit(127)


def _settle(orders: Orders, commands_fd: int | None) -> None:
    """Give a forked child the signals, the priority and the descriptors of a rank."""
    signal.set_wakeup_fd(-1)
    for number in (*DEAF_TO, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.nice(orders.nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    os.dup2(os.open(_NULL, os.O_RDONLY), 0)
    log = os.open(orders.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    kept = 3
    if commands_fd is not None:
        os.dup2(commands_fd, COMMANDS_FD)
        os.set_inheritable(COMMANDS_FD, True)
        kept = COMMANDS_FD + 1
    os.closerange(kept, os.sysconf("SC_OPEN_MAX"))


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


def execute(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Become a rank by way of a new interpreter."""
    os.execve(command[0], command, environment)  # noqa: S606 - the supervisor's, and no shell


def main(commands_fd: int, become: Become) -> int:
    """Be the guard of one runner; return the exit status."""
    orders = _read_orders()
    if orders is None:  # the supervisor died before it had said what to do
        return 1
    if os.getpid() != os.getsid(0):
        os.setsid()
    os.chdir(orders.cwd)
    name_process("unroll-guard")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Guard(orders, commands_fd, become).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), execute))
