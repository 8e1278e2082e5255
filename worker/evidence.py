"""Gather what is known of how a runner ended."""

from pathlib import Path
from typing import Final

from jobs.evidence import MAX_LOG, Evidence
from worker.events import EndEvent
from worker.process import Exit

#: A character of the log has four bytes at most.
_LOG_BYTES: Final = 4 * MAX_LOG


def gather(exited: Exit, log: Path, end: EndEvent | None = None) -> Evidence:
    """Return what its guard saw, what its log ends with, and what the runner knew itself."""
    return Evidence(
        cause=exited.cause,
        status=exited.status,
        signal=exited.signal,
        rank=exited.rank,
        oom_kills=exited.oom_kills,
        peak_memory=exited.peak_memory,
        peak_gpu_memory=end.peak_gpu_memory if end else 0,
        log=tail(log, _LOG_BYTES),
    )


def tail(path: Path, room: int) -> str:
    """Return the end of a text file, of so many bytes; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - room))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
