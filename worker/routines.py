"""Do something again and again in a thread, through outages and mistakes."""

import logging
import threading
from collections.abc import Callable

from jobs.errors import ServiceUnreachable

logger = logging.getLogger(__name__)


class Outages:
    """Say once for all routines that the service is away, and that it is back.

    Nothing is said of its return once `draining` is set: who drains leaves the service alone, and
    that no error comes of it means nothing.
    """

    def __init__(self, draining: threading.Event | None = None) -> None:
        self._draining = draining or threading.Event()
        self._lock = threading.Lock()
        #: Routines that are held up -> by what kind of error.
        self._held_up: dict[str, type[ServiceUnreachable]] = {}

    def hold_up(self, routine: str, error: ServiceUnreachable) -> None:
        """Note that a routine cannot work; say why where it is the first."""
        with self._lock:
            known = type(error) in self._held_up.values()
            self._held_up[routine] = type(error)
        if not known:
            logger.warning("%s: %s", routine, error)

    def let_go(self, routine: str) -> None:
        """Note that a routine has worked; say so where it was held up: the others then follow."""
        with self._lock:
            kind = self._held_up.get(routine)
            self._held_up = {each: why for each, why in self._held_up.items() if why is not kind}
        if kind and not self._draining.is_set():
            logger.warning("%s: the service answers again", routine)


class Routine:
    """Repeat an action until told to stop.

    An outage of the service is logged when it begins and when it ends, not at every try.
    """

    def __init__(
        self,
        name: str,
        period: float,
        action: Callable[[], None],
        outages: Outages | None = None,
    ) -> None:
        self._name = name
        self._period = period
        self._action = action
        self._ended = threading.Event()
        self._outages = outages or Outages()
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
            self._outages.hold_up(self._name, error)
        except Exception:  # a routine that ends is a worker that only seems to live
            logger.exception("%s failed", self._name)
        else:
            self._outages.let_go(self._name)
