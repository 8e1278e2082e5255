"""What every worker does for all, without a leader: each step may be done twice, by anyone."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Final

from jobs.artifacts import ArtifactStore
from jobs.broker import ring
from jobs.errors import ArtifactError
from jobs.store import JobStore
from worker.settings import Settings

#: Attempt folders of jobs that the service does not know are kept for so long: it may be that
#: another service, which used the same home, knows them.
_STRANGERS_SECONDS: Final = 30 * 86_400.0
_PAGE: Final = 200


class Housekeeping:
    """Sweep the store, and clear this worker's folders."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore, settings: Settings) -> None:
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        #: How far this worker has read of the jobs that were cleared.
        self._since = "-"

    def sweep(self) -> None:
        """Take over what was lost, ring where there is work, remove the files of cleared jobs.

        Whoever cleared a job need not be who has files of it: each worker looks at its own. Raise
        ServiceUnreachable.
        """
        for queue in self._store.sweep(self._settings.clocks.lease).bells:
            ring(self._settings.url, queue, self._store)
        cleared, since = self._store.cleared(self._since)
        for job in cleared:
            with contextlib.suppress(ArtifactError, OSError):  # what is not ours to remove stays
                self._artifacts.remove(f"jobs/{job}")
            self._remove_folders(job)
        self._since = since

    def clear(self) -> None:
        """Remove attempt folders of jobs that were removed long ago. Raise ServiceUnreachable."""
        stale = [each.name for each in self._settings.attempts.iterdir() if _is_stale(each)]
        for start in range(0, len(stale), _PAGE):
            page = stale[start : start + _PAGE]
            for job in set(page) - self._store.known(page):
                self._remove_folders(job)

    def _remove_folders(self, job: str) -> None:
        shutil.rmtree(self._settings.attempts_of(job), ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    newest = 0.0
    with contextlib.suppress(OSError):  # cleared meanwhile
        newest = max(each.stat().st_mtime for each in (folder, *folder.glob("*/*")))
    return time.time() - newest > _STRANGERS_SECONDS
