"""One worker: Celery in this process hears the bells, a crew of supervisors does the jobs.

signal         what follows
SIGTERM, SIGINT    drain: runners take a checkpoint and end, leases go back, exit status 0
a second SIGINT    exit at once; the guards kill the runners and hand the leases back
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from jobs.artifacts import ArtifactStore, default_root
from jobs.broker import make_app
from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.notify import Hooks
from jobs.store import JobStore
from jobs.sweeps import Sweeps
from jobs.workers import Worker, own_version
from worker import tasks
from worker.crew import Crew
from worker.devices import Devices, visible_gpus
from worker.housekeeping import Housekeeping
from worker.new_data import NewData
from worker.notifying import Notifier
from worker.offer import CATALOG_COMMAND, Offer
from worker.parent import PreloadedParent
from worker.process import Launcher
from worker.routines import Outages, Routine
from worker.scheduler import Scheduler
from worker.settings import Settings
from worker.startup import refuse_a_name_in_use, refuse_eviction
from worker.supervisor import Tools
from worker.warm import WarmModels

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: Exit status after a second Ctrl-C, as a shell would give it.
_INTERRUPTED: Final = 130
#: Seconds beyond the drain that a worker may take to leave, before it leaves without ceremony.
_EXIT_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Parts:
    """What a worker starts for its jobs; tests start smaller ones."""

    launcher: Launcher
    #: What prints the catalogue.
    catalog: Sequence[str] = CATALOG_COMMAND


class WorkerProcess:
    """Be a worker until told to stop."""

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        parts = parts or Parts(make_launcher(settings))
        settings.make_folders()
        self._settings = settings
        self._store = JobStore(connect(settings.url), settings.namespace)
        self._store.ping()
        refuse_eviction(self._store)
        artifacts = ArtifactStore(default_root(settings.home))
        artifacts.ensure_writable()
        self._launcher = parts.launcher
        self._tools = Tools(self._store, artifacts, parts.launcher, settings, threading.Event())
        devices = Devices(settings.slots, visible_gpus(), answer_slots=settings.answer_slots)
        self._crew = Crew(self._tools, describe(settings, devices, artifacts.id), devices)
        self._routines = self._make_routines(artifacts, parts.catalog)

    def _make_routines(self, artifacts: ArtifactStore, catalog: Sequence[str]) -> list[Routine]:
        clocks, crew = self._settings.clocks, self._crew
        keeping = Housekeeping(self._store, artifacts, self._settings)
        scheduler = Scheduler(self._store, artifacts)
        data = NewData(
            self._store,
            scheduler,
            roots=self._settings.roots,
            queues=self._settings.queues,
        )
        offer = Offer(self._store, self._settings, crew.name_catalog, catalog)
        actions: list[tuple[str, float, Callable[[], None]]] = [
            ("announcing", clocks.sweep, self._announce),
            ("keeping a parent ready", clocks.parent, self._launcher.keep_ready),
            ("looking for jobs", clocks.poll, crew.fill),
            ("sweeping", clocks.sweep, keeping.sweep),
            ("clearing", clocks.clear, keeping.clear),
            ("keeping schedules", clocks.sweep, scheduler.tick),
            ("looking for new data", clocks.data, data.look),
            ("notifying", clocks.sweep, Notifier(self._store.beside(Hooks)).deliver),
            ("moving sweeps on", clocks.parent, self._store.beside(Sweeps).advance_all),
            ("publishing the catalogue", clocks.catalog, lambda: offer.publish(crew.worker.id)),
        ]
        outages = Outages(self._tools.draining)
        return [Routine(*each, outages) for each in actions]

    def _announce(self) -> None:
        self._store.announce(self._crew.worker, self._settings.clocks.lease)

    def run(self) -> int:
        """Work until a signal says to stop; return the exit status.

        Raise SetupError where another worker has this one's name.
        """
        if self._settings.name:  # others carry a number of chance
            refuse_a_name_in_use(self._store, self._crew.worker, 3 * self._settings.clocks.sweep)
        # First: a signal may come at any moment then, and what it does must not import.
        bells = make_bells(self._settings, self._crew)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._announce()
        worker = self._crew.worker
        logger.info("%s takes jobs of %s", worker.id, ", ".join(worker.queues))
        for routine in self._routines:
            routine.start()
        try:
            bells.start()
            # Celery gives up where Redis refuses a call, as with a full disk. The work does not
            # need it: jobs that run go on, and free slots look for the next ones by themselves.
            if not self._tools.draining.is_set():
                logger.warning("%s hears no bells any more, and goes on without", worker.id)
                while not self._tools.draining.is_set():
                    time.sleep(self._settings.clocks.poll)
        finally:
            self._leave()
        return 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._tools.draining.is_set():
            if number == signal.SIGINT:
                os._exit(_INTERRUPTED)
            return
        self._drain()

    def _drain(self) -> None:
        self._tools.draining.set()
        threading.Thread(target=self._see_to_the_end, daemon=True).start()
        stop_hearing()

    def _see_to_the_end(self) -> None:
        logger.info("%s stops and hands its jobs back", self._crew.worker.id)
        time.sleep(2 * self._settings.clocks.drain + _EXIT_SECONDS)
        os._exit(1)  # something hangs; the guards do the rest

    def _leave(self) -> None:
        self._tools.draining.set()
        self._crew.wait(2 * self._settings.clocks.drain)
        for routine in self._routines:
            routine.stop(timeout=1.0)
        self._launcher.close()
        with contextlib.suppress(ServiceUnreachable):
            self._store.withdraw(self._crew.worker.id)


def make_launcher(settings: Settings) -> Launcher:
    """Return what starts the runners, in the way that the settings ask for."""
    if settings.start != "fork":
        return Launcher()
    parent = PreloadedParent()
    return Launcher(parent=parent, warm=WarmModels(parent, settings.warmth))


def describe(settings: Settings, devices: Devices, store: str) -> Worker:
    """Return what a worker says of itself."""
    host = socket.gethostname()
    return Worker(
        id=settings.name or f"{host}-{os.getpid()}-{secrets.token_hex(2)}",
        host=host,
        pid=os.getpid(),
        slots=settings.slots,
        free_slots=settings.slots,
        answer_slots=settings.answer_slots,
        free_answer_slots=settings.answer_slots,
        gpus=len(devices.gpus),
        free_gpus=len(devices.gpus),
        queues=settings.queues,
        labels=settings.labels,
        version=own_version(),
        store=store,
    )


def make_bells(settings: Settings, crew: Crew) -> Any:
    """Return Celery's worker, whose `start` runs in the main thread until `stop_hearing`."""
    app = make_app(settings.url, settings.namespace)
    tasks.register(app, crew)
    bells: Any = _celery_worker(app, settings, crew.worker.id)
    bells.install_platform_tweaks = lambda _worker: None  # signals are this process's own affair
    return bells


def _celery_worker(app: "Celery", settings: Settings, name: str) -> Any:
    from celery.exceptions import SecurityWarning  # noqa: PLC0415 - only who runs it pays for it
    from celery.signals import setup_logging  # noqa: PLC0415 - as above

    # Celery warns root, as it would run code from the wire; here nothing but JSON comes in.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    setup_logging.connect(_keep_logging, weak=False)  # Celery then leaves logging as it is
    return app.Worker(
        hostname=name,
        pool="threads",
        concurrency=settings.slots,
        queues=list(settings.queues),
        quiet=True,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        task_events=False,
    )


def _keep_logging(**_: Any) -> None:
    """Stand in for Celery's own set-up of logging."""


def stop_hearing() -> None:
    """Let the bells' `start` return once its tasks have ended, also from a signal handler."""
    from celery.worker import state  # noqa: PLC0415 - `make_bells` has imported it

    state.should_stop = 0
