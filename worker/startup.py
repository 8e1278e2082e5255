"""What a worker makes sure of before it takes its first job."""

import contextlib
import logging
import time
from typing import Final

from jobs.errors import ServiceUnreachable, SetupError
from jobs.store import JobStore
from jobs.workers import Worker

logger = logging.getLogger(__name__)

#: Between two looks whether another worker of the same name has spoken, in seconds.
_LOOK: Final = 0.1


def refuse_eviction(store: JobStore) -> None:
    """Make sure that Redis throws no job away when its memory is full.

    Raise SetupError where it would; warn where it would if its memory had a bound. Policies that
    are named `volatile` find nothing of ours to throw away.
    """
    with contextlib.suppress(ServiceUnreachable):  # one that does not say how it is set up
        memory = store.memory()
        if not memory.policy.startswith("allkeys"):
            return
        sentence = (
            f"Redis throws jobs away when its memory is full (maxmemory-policy {memory.policy}); "
            "set it to noeviction"
        )
        if memory.bound:
            raise SetupError(f"{sentence}: redis-cli CONFIG SET maxmemory-policy noeviction")
        logger.warning("%s", sentence)


def refuse_a_name_in_use(store: JobStore, worker: Worker, patience: float) -> None:
    """Make sure that no other worker answers to this one's name.

    One that was killed a moment ago still stands on the list: only who speaks again within
    `patience` seconds lives. Raise SetupError, ServiceUnreachable.
    """
    before = _record(store, worker.id)
    if before is None:
        return
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        now = _record(store, worker.id)
        if now is None:
            return
        if now.seen != before.seen:
            raise SetupError(
                f"a worker called {worker.id!r} runs already, on {now.host} (pid {now.pid}); "
                "give this one another --name"
            )
        time.sleep(_LOOK)


def _record(store: JobStore, name: str) -> Worker | None:
    return next((each for each in store.workers() if each.id == name), None)
