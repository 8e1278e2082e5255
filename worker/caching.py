"""Remove from the cache what nobody has used for long; all of it can be made again."""

import contextlib
import fcntl
import secrets
import shutil
import time
from pathlib import Path


def clear_unused(cache: Path, seconds: float) -> None:
    """Remove the entries that were not used for so long and are not in use.

    What `datamodules/_cache.py` keeps says by its time when it was used last.
    """
    for entry in (*cache.glob("catalog-*.json"), *cache.glob("*/[!.]*")):
        # In use, without locks on its file system, not ours, or another worker was faster.
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > seconds:
                _remove(entry)


def _remove(entry: Path) -> None:
    with contextlib.ExitStack() as held:
        for file in entry.glob("*.npy"):  # who has one of these in memory holds its lock
            opened = held.enter_context(file.open("r+b"))
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # At once, then by and by: nobody meets half of it.
        aside = entry.with_name(f".{secrets.token_hex(4)}")
        entry.rename(aside)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
