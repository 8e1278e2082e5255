"""Say what this worker can build. The torch side makes the catalogue, in a process of its own."""

import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from jobs.catalog import Catalog
from jobs.service import tether
from jobs.store import JobStore
from worker.folder import write_atomically
from worker.process import clean_environment
from worker.settings import Settings

logger = logging.getLogger(__name__)

CATALOG_COMMAND: Final = (sys.executable, "-P", "-m", "worker.runner", "--catalog")
#: Seconds for the torch side to say what it has; a cold start from a slow disk takes long.
_PATIENCE: Final = 300.0
#: Importable folders and modules that decide what the catalogue says.
_SOURCES: Final = ("lightning_modules", "datamodules", "worker.runner", "jobs.schema", "jobs.spec")
_PLUGINS: Final = "UNROLL_PLUGINS"


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


def code_digest(command: Sequence[str]) -> str:
    """Return a digest of everything that the catalogue follows from."""
    digest = hashlib.sha256()
    for word in (*command, sys.version, *_versions()):
        digest.update(word.encode() + b"\0")
    for file in _files():
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _versions() -> Iterator[str]:
    for name in ("unroll", "torch", "lightning"):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"no {name}"


def _files() -> Iterator[Path]:
    for name in _SOURCES:
        # Of a package found, not imported: that is the torch side's.
        found = importlib.util.find_spec(name)
        if found and found.origin:
            origin = Path(found.origin)
            is_package = found.submodule_search_locations is not None
            yield from sorted(origin.parent.glob("*.py")) if is_package else [origin]
    for plugins in filter(None, os.environ.get(_PLUGINS, "").split(os.pathsep)):
        yield from sorted(Path(plugins).glob("*/*.py"))
