"""Do something again and again in a thread, through outages and mistakes."""

import logging
import threading
from collections.abc import Callable

from jobs.errors import ServiceUnreachable

logger = logging.getLogger(__name__)


class Routine:
    """Repeat an action until told to stop.

    An outage of the service is logged when it begins and when it ends, not at every try.
    """

    def __init__(self, name: str, period: float, action: Callable[[], None]) -> None:
        self._name = name
        self._period = period
        self._action = action
        self._ended = threading.Event()
        self._reachable = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Do it now, and then again and again."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let the present round be the last, and wait for its end."""
        self._ended.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._once()
            if self._ended.wait(self._period):
                return

    def _once(self) -> None:
        try:
            self._action()
        except ServiceUnreachable as error:
            if self._reachable:
                logger.warning("%s: %s", self._name, error)
            self._reachable = False
        except Exception:  # a routine that ends is a worker that only seems to live
            logger.exception("%s failed", self._name)
        else:
            if not self._reachable:
                logger.warning("%s: the service answers again", self._name)
            self._reachable = True
