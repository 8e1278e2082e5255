"""The processes of a run, found by where they stand: an attempt's all work in its folder."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Crowd:
    """The guard and the ranks of one attempt; either may be gone."""

    guard: int | None
    #: The first is rank 0.
    ranks: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Return who is at work in an attempt folder."""
        guard, ranks = None, []
        for pid in at_work(folder):
            with contextlib.suppress(OSError):
                if os.getsid(pid) == pid:
                    guard = pid
                else:
                    ranks.append((os.getpgid(pid) != pid, pid))
        return cls(guard, tuple(pid for _, pid in sorted(ranks)))


def at_work(folder: Path) -> list[int]:
    """Return the processes whose working folder is this one or lies below it."""
    return sorted(pid for pid, where in _where() if where.is_relative_to(folder))


def ranks_at_work(folder: Path) -> list[int]:
    """Return the processes of a runner: at work in the folder, and neither guard nor its helper."""
    found = []
    for pid in at_work(folder):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) != os.getsid(pid):
                found.append(pid)
    return found


def _where() -> Iterator[tuple[int, Path]]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # a zombie stands nowhere
                yield int(process.name), (process / "cwd").readlink()


def children(parent: int) -> list[int]:
    """Return the processes that a process has started itself, of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def called(pids: Iterable[int], name: str) -> list[int]:
    """Return those of the processes that `ps` calls so."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may be gone by now."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
