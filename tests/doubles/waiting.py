"""How tests wait for what other threads and processes bring about, and find these."""

import time
from collections.abc import Callable
from typing import Any

import psutil

from worker.process import Running

#: Seconds: far more than anything takes, also on a busy machine.
PATIENCE = 30.0


def eventually(found: Callable[[], Any], what: str = "it did not come about") -> Any:
    """Return what is found, as soon as it is something."""
    deadline = time.monotonic() + PATIENCE
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return result


def is_alive(pid: int) -> bool:
    """Return whether the process still runs; one that only waits to be buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also where it has gone while it was asked
        return False


def guard_of(running: Running) -> int:
    """Return the process id of a runner's guard."""
    return running._link.process.pid
