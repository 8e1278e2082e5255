"""Say what this worker can build. The torch side makes the catalogue, in a process of its own."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from jobs.catalog import Catalog
from jobs.service import tether
from jobs.store import JobStore
from worker.environment import clean_environment
from worker.folder import write_atomically
from worker.settings import Settings
from worker.sources import code_digest

logger = logging.getLogger(__name__)

CATALOG_COMMAND: Final = (sys.executable, "-P", "-m", "worker.runner", "--catalog")
#: Seconds for the torch side to say what it has; a cold start from a slow disk takes long.
_PATIENCE: Final = 300.0


class Offer:
    """Publish the catalogue, made once for each state of the code and kept in the cache."""

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        note_digest: Callable[[str], None],
        command: Sequence[str] = CATALOG_COMMAND,
    ) -> None:
        self._store = store
        self._settings = settings
        self._note_digest = note_digest
        self._command = command
        self._catalog: Catalog | None = None

    def publish(self, worker: str) -> None:
        """Publish what there is. Raise ServiceUnreachable."""
        if self._catalog is None:
            self._catalog = self._load()
            self._note_digest(self._catalog.digest)
        self._store.publish_catalog(self._settings.queues, self._catalog, worker)

    def _load(self) -> Catalog:
        file = self._settings.cache / f"catalog-{code_digest(self._command)}.json"
        try:
            return Catalog.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or not whole: it is made again
        text = self._make()
        catalog = Catalog.from_dict(json.loads(text))
        with suppress(OSError):  # where there is no room, the next start makes it again
            write_atomically(file, text.encode())
        return catalog

    def _make(self) -> str:
        # Tethered to this thread: a worker that ends does not leave it behind.
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]
        made = subprocess.run(
            [*tethered, str(int(signal.SIGKILL)), *self._command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**clean_environment(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
        for line in made.stderr.splitlines()[-20:]:
            logger.warning("catalogue: %s", line)
        made.check_returncode()
        return made.stdout
