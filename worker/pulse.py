"""Keep a lease alive while its attempt runs, and hear what is wished."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from jobs.errors import ServiceUnreachable, StaleToken
from jobs.job import Lease
from jobs.store import JobStore
from worker.settings import Clocks

logger = logging.getLogger(__name__)


class Pulse:
    """Renew a lease in a thread of its own: no slow disk and no large checkpoint may cost it."""

    def __init__(self, store: JobStore, lease: Lease, clocks: Clocks) -> None:
        self._store = store
        self._lease = lease
        self._clocks = clocks
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of {lease.job}", daemon=True)
        #: What a person wishes of the job: "cancel", "pause", or empty.
        self.wish = ""
        #: Whether another attempt holds the job by now.
        self.stale = False
        #: Called after each renewal that was answered.
        self.on_answer: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._clocks.renew):
            try:
                self.wish = self._store.renew(self._lease, self._clocks.lease)
            except StaleToken:
                self.stale = not self._ended.is_set()
                return
            except ServiceUnreachable:
                continue  # nobody can take the job over either
            except Exception:  # a pulse that ends is a lease that is lost
                logger.exception("the lease of job %s could not be renewed", self._lease.job)
                continue
            self.on_answer()
