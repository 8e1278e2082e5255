"""A memory cgroup around processes, where the machine allows one: the kernel kills who fills it."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_PATIENCE: Final = 10.0


class Confinement:
    """One cgroup with a bound on its memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_in(self, pids: Sequence[int]) -> None:
        """Put processes in; what they start is in it too."""
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended
                (self._folder / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def confinement(limit: int) -> Iterator[Confinement | None]:
    """Return a cgroup of so many bytes, or None where this process may make none."""
    old = _ROOT / "memory"
    folder = (old if old.is_dir() else _ROOT) / f"unroll-chaos-{os.getpid()}"
    bound = folder / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")
    try:
        folder.mkdir()
        bound.write_text(str(limit))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield Confinement(folder)
    finally:
        deadline = time.monotonic() + _PATIENCE
        while folder.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # somebody in it has not quite ended
                folder.rmdir()
            time.sleep(0.1)
