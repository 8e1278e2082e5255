"""Models that were used of late, each held by a process that its next runners are forked from.

A runner that answers a few lines spends most of its time on reading the model. So after a model was
used, a further parent is forked that reads it once (see `forking`); guards and runners are forked
from that, and all else is as for any other attempt: the record, the fence, the guard, the kill. A
model that is held takes no slot and no GPU. What is held is bounded in memory and in time, the
least recently used goes first, and its name changes with the checkpoint, its spec and the code.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from worker.folder import AttemptFolder
from worker.parent import (
    Forked,
    NoParent,
    ParentLink,
    PreloadedParent,
    StillLoading,
    parent_sockets,
)
from worker.settings import Warmth
from worker.sources import code_stamp

logger = logging.getLogger(__name__)

#: Seconds for a model to be read; a large one from a slow disk takes long.
_LOAD_SECONDS: Final = 120.0
#: Models that could not be held and are not tried again; beyond so many, all are.
_REFUSALS: Final = 1_000


class _Model:
    """A process that holds a model, or is about to."""

    def __init__(self, parent: PreloadedParent, checkpoint: BinaryIO, attempt: BinaryIO) -> None:
        #: What code it runs, or something older.
        self._stamp = code_stamp()
        self._is_measured = False
        #: Bytes: at first what the file has, then what the process has for itself.
        self.size = os.fstat(checkpoint.fileno()).st_size
        self.used = self._began = time.monotonic()
        ours, theirs = parent_sockets()
        self.link = ParentLink(ours)
        try:
            with theirs:
                files = [checkpoint.fileno(), attempt.fileno()]
                self._process: Forked = parent.fork_parent(theirs, files)
        except BaseException:
            self.link.close()
            raise

    @property
    def is_stale(self) -> bool:
        """Whether the code has changed since."""
        return self._stamp != code_stamp()

    def require_ready(self) -> None:
        """Raise StillLoading, or NoParent where it will never be of use."""
        try:
            self.link.require_ready()
        except StillLoading:
            if time.monotonic() - self._began > _LOAD_SECONDS:
                raise NoParent("it takes too long to be read") from None
            raise
        if not self._is_measured:  # before it is forked, and shares what it has
            self.size = own_bytes(self._process.pid)
            self._is_measured = True

    def end(self) -> None:
        """End the process; what was forked from it goes on."""
        self.link.close()
        self._process.kill()
        self._process.wait()


class WarmModels:
    """Hold the models that were used last; usable from several threads."""

    def __init__(self, parent: PreloadedParent, bounds: Warmth) -> None:
        self._parent = parent
        self._bounds = bounds
        self._lock = threading.Lock()
        #: By name, the least recently used first.
        self._models: dict[str, _Model] = {}
        self._refused: set[str] = set()
        self._closed = False

    def has(self, name: str) -> bool:
        """Return whether this model is held and ready."""
        with self._lock, contextlib.suppress(NoParent):
            return self._ready(name) is not None
        return False

    def fork_guard(self, name: str, ear: int, mouth: int, commands: int) -> Forked:
        """Return a new guard whose runner has the model in its memory. Raise NoParent."""
        with self._lock:
            model = self._ready(name)
            if model is None:
                raise NoParent("its model is not held")
            try:
                guard = model.link.fork_guard([ear, mouth, commands])
            except NoParent:
                self._drop(name)
                raise
            self._models[name] = self._models.pop(name)  # the most recently used
            model.used = time.monotonic()
            return guard

    @contextlib.contextmanager
    def holding(self, folder: AttemptFolder) -> Iterator[None]:
        """Hold the model of an attempt after the block, in which its folder may be cleared."""
        with contextlib.ExitStack() as files:
            opened: list[BinaryIO] = []
            with contextlib.suppress(OSError):  # it is only faster
                name = folder.read_attempt().model
                if name and name not in self._models and name not in self._refused:
                    paths = folder.start_checkpoint, folder.attempt_file
                    opened = [files.enter_context(each.open("rb")) for each in paths]
            yield
            if opened:
                self._load(name, *opened)

    def keep(self) -> None:
        """Let go of models that were not used of late, cannot be, or are too many."""
        with self._lock:
            for name in list(self._models):
                with contextlib.suppress(NoParent):
                    self._ready(name)
            self._make_room()
            idle = time.monotonic() - self._bounds.seconds
            for name in [name for name, model in self._models.items() if model.used < idle]:
                self._drop(name)

    def close(self) -> None:
        """Let go of all models for good."""
        with self._lock:
            self._closed = True
            for name in list(self._models):
                self._drop(name)

    def _load(self, name: str, checkpoint: BinaryIO, attempt: BinaryIO) -> None:
        with self._lock, contextlib.suppress(NoParent):
            if self._closed or name in self._models:
                return
            model = _Model(self._parent, checkpoint, attempt)
            self._models[name] = model
            self._make_room()

    def _ready(self, name: str) -> _Model | None:
        """Return the model where it is held. Raise NoParent where it is not yet, or no longer."""
        model = self._models.get(name)
        if model is None:
            return None
        if model.is_stale:
            self._drop(name)
            return None
        try:
            model.require_ready()
        except StillLoading:
            raise
        except NoParent as error:
            self._refuse(name, str(error))
            raise
        return model

    def _refuse(self, name: str, why: str) -> None:
        logger.info("a model is not kept in memory: %s", why)
        if len(self._refused) >= _REFUSALS:
            self._refused.clear()
        self._refused.add(name)
        self._drop(name)

    def _make_room(self) -> None:
        """Let go of the least recently used until the rest fit; for good of what never will."""
        for name, model in list(self._models.items()):
            if model.size > self._bounds.bytes:
                self._refuse(name, f"it takes {model.size:,} bytes")
            elif sum(each.size for each in self._models.values()) > self._bounds.bytes:
                self._drop(name)

    def _drop(self, name: str) -> None:
        self._models.pop(name).end()


def own_bytes(pid: int) -> int:
    """Return how much memory a process has that it shares with no other."""
    kilobytes = 0
    with contextlib.suppress(OSError):  # it has ended, or the kernel is older than 4.14
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Private_"):
                kilobytes += int(line.split()[1])
    return 1024 * kilobytes
