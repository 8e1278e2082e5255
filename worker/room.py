"""Whether there is room where an attempt would be written: who has none must not take jobs.

A worker whose disk is full fails each job in no time and so is the first to be free for the next:
within seconds it would use up the retries of all that are queued.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

#: Bytes that must be free: a small job's checkpoints, and more than a full disk ever has.
_BYTES: Final = 1 << 20
#: Seconds for which an answer holds.
_HOLDS: Final = 1.0


class Room:
    """Look, now and then, whether folders can be written to; usable from several threads."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._until = 0.0
        self._said = ""

    def doubt(self) -> None:
        """Look again at the next question: an attempt has just ended, perhaps for want of room."""
        self._until = 0.0

    @property
    def missing(self) -> str:
        """Return what is wrong, in one line; empty where there is room."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._note(self._look())
                self._until = time.monotonic() + _HOLDS
            return self._said

    def _look(self) -> str:
        for folder in self._folders:
            try:
                allocate(folder, _BYTES)
            except OSError as error:
                return f"nothing can be written to {folder}: {error.strerror}"
        return ""

    def _note(self, said: str) -> None:
        if said and not self._said:
            logger.warning("no job is taken: %s", said)
        elif self._said and not said:
            logger.warning("there is room again, and jobs are taken")
        self._said = said


def allocate(folder: Path, size: int) -> None:
    """Let a file of this size be in a folder for a moment. Raise OSError."""
    probe = folder / f".room-{os.getpid()}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        probe.unlink()  # first: whoever is killed here leaves nothing
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
