"""Notice that the files below a data root have changed, and let schedules wait no longer.

The digest is one of names, sizes and contents; a file is read again only when its size or its time
of change is another. Files that are being written change between two looks: a digest counts once
two looks in a row have found it.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from jobs.apart import apart
from jobs.artifacts import sha256
from jobs.firing import Firing
from jobs.schedules import Schedule
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore, Standing
from worker.scheduler import Scheduler

_MS: Final = 1_000
#: What of a file says that it has to be read again: size, time of change, number.
_Stamp = tuple[int, int, int]


class NewData:
    """Look at the data of the schedules whose queue this worker serves."""

    def __init__(
        self,
        store: JobStore,
        scheduler: Scheduler,
        *,
        roots: Sequence[Path],
        queues: Sequence[str],
    ) -> None:
        self._schedules = store.beside(ScheduleStore)
        self._scheduler = scheduler
        self._roots = roots
        self._queues = queues
        self._digests = Digests()
        #: By schedule, what the look before found.
        self._before: dict[tuple[str, int], str] = {}

    def look(self) -> None:
        """Fire the schedules whose data has changed. Raise ServiceUnreachable."""
        for standing in self._schedules.list():
            if standing.schedule.on_data and not standing.paused:
                apart(f"schedule {standing.schedule.name}", partial(self._look_at, standing))

    def _look_at(self, standing: Standing) -> None:
        schedule = standing.schedule
        folder = self._folder(schedule)
        if folder is None:
            return
        digest = self._digests.of(folder)
        name = (schedule.name, schedule.created)
        settled = self._before.get(name) == digest
        self._before[name] = digest
        if not settled:
            return
        known, now = self._schedules.data_digest(standing), self._schedules.now()
        if not known:
            self._schedules.learn_data(standing, digest)
        elif known != digest and now - standing.fired >= schedule.spacing * _MS:
            self._scheduler.begin(
                standing, Firing(trigger="data", seen=known, following=digest, moment=now)
            )

    def _folder(self, schedule: Schedule) -> Path | None:
        """Return the folder of a schedule's data, if it is this worker's to read."""
        spec = schedule.train_spec
        if spec.resources.queue not in self._queues:
            return None
        given = Path(str(spec.data.params["root"]))
        for root in self._roots:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # locked, NUL, a circle
                folder, allowed = (root / given).resolve(), root.resolve()
                if folder.is_dir() and folder.is_relative_to(allowed):
                    return folder
        return None


class Digests:
    """Digest folders, reading no file twice that has not changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Stamp, str]] = {}

    def of(self, folder: Path) -> str:
        """Return a digest of the names, sizes and contents of all files below a folder.

        Files that begin with a dot, and links, are left out; so is what goes away meanwhile, or
        cannot be read.
        """
        digest = hashlib.sha256()
        found = set()
        for path in _files(folder):
            try:
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
                known, content = self._known.get(path, (None, ""))
                if known != stamp:
                    content = sha256(path)
            except OSError:
                continue
            self._known[path] = stamp, content
            found.add(path)
            name = os.fsencode(path.relative_to(folder))
            digest.update(name + f"\0{status.st_size}\0{content}\0".encode())
        for path in [each for each in self._known if each.is_relative_to(folder)]:
            if path not in found:
                del self._known[path]
        return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent) / name
