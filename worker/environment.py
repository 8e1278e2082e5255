"""The variables of what a worker starts on the torch side."""

import contextlib
import os
from pathlib import Path
from typing import Final

from worker.folder import Attempt

#: Begins the name of every variable that may tell a runner where Redis is.
_SECRET: Final = ("UNROLL_REDIS", "REDIS_", "CELERY_", "VALKEY_")
#: Variables by which the numeric libraries learn how many threads they may start.
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: What an interpreter reads when it starts.
_INTERPRETER: Final = {
    "PYTHONFAULTHANDLER": "1",  # a segmentation fault says where
    "PYTHONUNBUFFERED": "1",  # what it says before it is killed reaches the log
}


#: By these a process is known to be of a worker, and of one of its attempts; see `leftovers`.
WORKER_VARIABLE: Final = "UNROLL_WORKER"
ATTEMPT_VARIABLE: Final = "UNROLL_ATTEMPT"


def mark_of(pid: int) -> str:
    """Return the number of a process and when it was started, so that no later one has the same.

    Empty where there is no such process.
    """
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        state, *fields = stat[stat.rindex(b")") + 2 :].split()
        return f"{pid}-{int(fields[18])}" if state not in (b"Z", b"X") else ""
    return ""


def clean_environment() -> dict[str, str]:
    """Return this process's variables without what leads to Redis, and with its own mark."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    return {**clean, WORKER_VARIABLE: mark_of(os.getpid())}


def runner_environment(attempt: Attempt) -> dict[str, str]:
    """Return the variables that all ranks of a runner have in common."""
    return {
        **clean_environment(),
        **_INTERPRETER,
        **dict.fromkeys(_THREADS, str(attempt.threads)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order in which NVML counts
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, attempt.gpus)),
    }


def parent_environment() -> dict[str, str]:
    """Return the variables of the preloaded parent.

    With one thread for each library, none starts threads while it is loaded: they would be missing
    in a fork, which then waits for them for ever.
    """
    return {**clean_environment(), **_INTERPRETER, **dict.fromkeys(_THREADS, "1")}
