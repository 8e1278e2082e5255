"""Prepared data on disk: arrays that are mapped into memory, and plain facts about them.

An entry is a folder named by its key, complete or not there at all: it is written beside its place,
synced, and renamed. Several jobs may race; whoever comes second uses what the first one wrote. An
entry that does not match its own digests is thrown away and made anew.

Workers remove what was not used for long (`worker/caching.py`): the time of an entry's folder says
when it was, and as long as one of its arrays is in memory, its file is locked against that.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

#: The digest of every other file, by its name.
_MANIFEST: Final = "manifest.json"
_FACTS: Final = "facts.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What an entry holds."""

    #: Arrays by a name that can stand in a file's name.
    arrays: Mapping[str, NDArray[Any]]
    #: Plain JSON.
    facts: Mapping[str, Any]


def key_of(settings: Mapping[str, Any]) -> str:
    """Return the key of an entry made under these settings (plain JSON)."""
    canonical = json.dumps(settings, sort_keys=True).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def cached(folder: Path, key: str, build: Callable[[], Prepared]) -> Prepared:
    """Return the entry of this key, built and kept if it is not there.

    Where it cannot be kept (a full disk, a folder without leave to write), say so and go on
    without.
    """
    if (found := kept(folder, key)) is not None:
        return found
    place, built = folder / key, build()
    try:
        _store(place, built)
    except OSError as error:
        _log.warning("prepared data cannot be kept in %s: %s", folder, error)
        return built
    return _load(place) or built


def kept(folder: Path, key: str) -> Prepared | None:
    """Return the entry of this key, or None where there is no whole one."""
    return _load(folder / key)


def note_use(entry: Path) -> None:
    """Note that an entry is of use: it then stays for as long again."""
    with contextlib.suppress(OSError):  # a cache that is only read
        os.utime(entry)


def _load(place: Path) -> Prepared | None:
    if not place.is_dir():
        return None
    note_use(place)
    try:
        digests = json.loads((place / _MANIFEST).read_text())
        for name, digest in digests.items():
            _check(place / name, digest)
        facts = json.loads((place / _FACTS).read_text())
        arrays = {Path(name).stem: _map(place / name) for name in digests if name != _FACTS}
        return Prepared(arrays, facts)
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("prepared data in %s is made anew: %s", place, error)
        return None


def _store(place: Path, built: Prepared) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = _folder_beside(place)
    try:
        _write(beside, built)
        if place.exists() and _load(place) is None:
            _clear(place)
        try:
            beside.rename(place)
        except OSError:
            if not place.is_dir():  # else another job was faster
                raise
        _sync(place.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _clear(place: Path) -> None:
    """Take an entry away at once, then delete it: nobody meets half of one."""
    aside = _folder_beside(place)
    place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _folder_beside(place: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))


def _write(folder: Path, built: Prepared) -> None:
    (folder / _FACTS).write_text(json.dumps(built.facts))
    for name, array in built.arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    files = sorted(folder.iterdir())
    digests = {file.name: _digest(file) for file in files}
    (folder / _MANIFEST).write_text(json.dumps(digests))
    for path in (*files, folder / _MANIFEST, folder):
        _sync(path)


def _map(file: Path) -> NDArray[Any]:
    with file.open("rb") as opened:
        _lock(opened)
        np.lib.format.read_magic(opened)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(opened)
        order: Literal["C", "F"] = "F" if by_columns else "C"
        mapped = np.memmap(opened, dtype, "r", opened.tell(), shape, order)
    # A memmap, seen as the plain array it is: indexing a memmap itself is several times slower.
    return np.asarray(mapped)


def _lock(file: BinaryIO) -> None:
    """Lock a file for as long as it is open or mapped: the mapping has a descriptor of its own."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise  # it is being removed
    except OSError:
        pass  # a file system without locks, on which nobody removes anything


def _check(file: Path, digest: str) -> None:
    if _digest(file) != digest:
        raise ValueError(f"{file.name} is damaged")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
