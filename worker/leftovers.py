"""Processes that an attempt left behind, because its guard was killed before it could clear up.

None is known by its name or its number. A process belongs to an attempt where its environment says
so, or where that names the worker and it works in the attempt's folder: forks of a preloaded parent
have the environment that the parent was started with. Both are inherited by all that a runner
starts, in whatever group or session, and nothing else has them: no shell of a person who looks at
the folder, no worker's helper that hands a lease back. Workers that see each other's homes and not
each other's processes, as in containers, leave each other alone.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.environment import ATTEMPT_VARIABLE, WORKER_VARIABLE, mark_of

#: Seconds for killed processes to be gone, and between two looks for those they started meanwhile.
_PATIENCE: Final = 3.0
_LOOK: Final = 0.02
_GUARD: Final = "unroll-guard"


@dataclass(frozen=True)
class Member:
    """A process of an attempt."""

    pid: int
    #: The folder of the attempt.
    folder: Path
    #: The mark of the worker that started it; see `mark_of`.
    worker: str
    is_guard: bool


def kill_all_of(folder: Path) -> None:
    """Kill every process of an attempt whose guard is dead, and what they start meanwhile."""
    place = folder.resolve()
    _kill_all(lambda: [each for each in members(place.parents[1]) if each.folder == place])


def sweep(attempts: Path) -> int:
    """Kill what is left of attempts whose worker and guard are both dead; return how many that was.

    A guard that lives sees to its attempt itself.
    """

    def left() -> list[Member]:
        found = list(members(attempts))
        guarded = {each.folder for each in found if each.is_guard}
        return [each for each in found if each.folder not in guarded and not _lives(each.worker)]

    return _kill_all(left)


def _kill_all(find: Callable[[], Sequence[Member]]) -> int:
    """Kill what is found until nothing more is; return how many that was."""
    killed = set[int]()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and (found := find()):
        for each in found:
            _kill(each)
            killed.add(each.pid)
        time.sleep(_LOOK)
    return len(killed)


def members(attempts: Path) -> Iterator[Member]:
    """Yield the processes of all attempts whose folders lie below this one."""
    place = attempts.resolve()
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (found := _member(int(entry.name), place)):
            yield found


def _member(pid: int, attempts: Path) -> Member | None:
    place = Path(f"/proc/{pid}")
    try:
        variables = _environment(place)
        if WORKER_VARIABLE not in variables or not _is_in_this_namespace(place):
            return None
        said = variables.get(ATTEMPT_VARIABLE) or str((place / "cwd").readlink())
        job, number, *_ = Path(said).resolve().relative_to(attempts).parts
        name = (place / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):  # gone, another user's, or of no attempt
        return None
    return Member(pid, attempts / job / number, variables[WORKER_VARIABLE], name == _GUARD)


def _environment(place: Path) -> dict[str, str]:
    pairs = (place / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _is_in_this_namespace(place: Path) -> bool:
    """Return whether the numbers of processes mean the same to that process as to this one."""
    return (place / "ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()


def _lives(mark: str) -> bool:
    pid = mark.partition("-")[0]
    return pid.isdecimal() and mark_of(int(pid)) == mark


def _kill(member: Member) -> None:
    with contextlib.suppress(OSError):  # it has ended
        process = os.pidfd_open(member.pid)
        try:
            # Only now that the number cannot be another's: is it still the process that was found?
            if _member(member.pid, member.folder.parents[1]) == member:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
