"""What every worker does for all, without a leader: each step may be done twice, by anyone."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from jobs.artifacts import ArtifactStore
from jobs.broker import ring
from jobs.errors import ArtifactError
from jobs.store import JobStore
from worker import leftovers
from worker.caching import clear_unused
from worker.settings import Settings

_DAY: Final = 86_400.0
#: Attempt folders of jobs that the service does not know are kept for so long: it may be that
#: another service, which used the same home, knows them.
_STRANGERS_SECONDS: Final = 30 * _DAY
_PAGE: Final = 200
#: A temporary file that nobody has written to for so long, nobody will give its name.
_TEMPORARY_SECONDS: Final = 3_600.0
#: Between two looks for such files.
_TIDY_SECONDS: Final = 3_600.0
#: Where such files and folders of attempts, of prepared data and of the artifact store may lie.
_OF_ATTEMPTS: Final = tuple(
    f"*/*/{name}" for name in (".*", "*.new", "tmp????????", "checkpoints/.*", "files/.*")
)
_OF_CACHE: Final = (".catalog-*", f"*/.{'?' * 32}.{'?' * 8}", f"*/.{'?' * 8}")
_OF_STORE: Final = (".*", "jobs/**/.*")

logger = logging.getLogger(__name__)


class Housekeeping:
    """Sweep the store, and clear this worker's folders."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore, settings: Settings) -> None:
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        #: How far this worker has read of the jobs that were cleared.
        self._since = "-"
        self._next_tidying = 0.0

    def sweep(self) -> None:
        """Take over what was lost, ring where there is work, remove the files of cleared jobs.

        Whoever cleared a job need not be who has files of it: each worker looks at its own. Raise
        ServiceUnreachable.
        """
        swept = self._store.sweep(self._settings.clocks.lease)
        for job in swept.expired:
            logger.warning("job %s: its worker fell silent and its lease ran out", job)
        for queue in swept.bells:
            ring(queue, self._store)
        cleared, since = self._store.cleared(self._since)
        for job in cleared:
            with contextlib.suppress(ArtifactError, OSError):  # what is not ours to remove stays
                self._artifacts.remove(f"jobs/{job}")
            self._remove_folders(job)
        self._since = since

    def clear(self) -> None:
        """Clear what workers that were killed left, and folders of jobs that were removed long ago.

        Raise ServiceUnreachable.
        """
        if killed := leftovers.sweep(self._settings.attempts):
            logger.warning("%d processes of a worker that is gone were killed", killed)
        self._tidy()
        stale = [each.name for each in self._settings.attempts.iterdir() if _is_stale(each)]
        for start in range(0, len(stale), _PAGE):
            page = stale[start : start + _PAGE]
            for job in set(page) - self._store.known(page):
                self._remove_folders(job)

    def _tidy(self) -> None:
        """Remove, now and then, what was left half written, and what the cache has too much."""
        if time.monotonic() < self._next_tidying:
            return
        self._next_tidying = time.monotonic() + _TIDY_SECONDS
        for place, patterns in (
            (self._settings.attempts, _OF_ATTEMPTS),
            (self._settings.cache, _OF_CACHE),
            (self._artifacts.root, _OF_STORE),
        ):
            for path in left_in(place, patterns):
                _remove(path)
        unused = max(self._settings.cache_days * _DAY, _TEMPORARY_SECONDS)
        clear_unused(self._settings.cache, unused)

    def _remove_folders(self, job: str) -> None:
        shutil.rmtree(self._settings.attempts_of(job), ignore_errors=True)


def left_in(place: Path, patterns: Iterable[str]) -> list[Path]:
    """Return what lies below a folder at such places and nobody writes to any more."""
    found = [path for pattern in patterns for path in place.glob(pattern)]
    return [path for path in found if _age(path, "*") > _TEMPORARY_SECONDS]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another worker was faster, or it is not ours
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_stale(folder: Path) -> bool:
    return _age(folder, "*/*") > _STRANGERS_SECONDS


def _age(path: Path, below: str) -> float:
    """Return the seconds since something was written there, or below it at one of these places."""
    newest = time.time()
    with contextlib.suppress(OSError):  # cleared meanwhile
        newest = max(each.lstat().st_mtime for each in (path, *path.glob(below)))
    return time.time() - newest
