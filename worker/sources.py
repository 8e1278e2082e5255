"""What the torch side is made of: what follows from it is made again when it changes."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Final

#: Packages of ours that the torch side loads.
_OURS: Final = ("jobs", "datamodules", "lightning_modules", "worker", "worker.runner")
_THEIRS: Final = ("torch", "lightning")
#: Folders of further topologies and kinds of data.
PLUGINS: Final = "UNROLL_PLUGINS"


def code_digest(command: Sequence[str]) -> str:
    """Return a digest of everything that the output of a torch-side command follows from."""
    digest = hashlib.sha256()
    for word in (*command, sys.version, *_versions()):
        digest.update(word.encode() + b"\0")
    for file in (*_our_files(), *_plugins()):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def code_stamp() -> str:
    """Return what is another once code has changed that a process may have loaded.

    No file is read for it, so that it costs a millisecond. Plugins are not in it.
    """
    digest = hashlib.sha256()
    for file in (*_our_files(), *_origins(_THEIRS)):
        with suppress(FileNotFoundError):  # it is being replaced
            status = file.stat()
            digest.update(f"{file} {status.st_mtime_ns} {status.st_size}\0".encode())
    return digest.hexdigest()[:32]


def _versions() -> Iterator[str]:
    for name in ("unroll", *_THEIRS):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"no {name}"


def _our_files() -> Iterator[Path]:
    for origin in _origins(_OURS):
        yield from sorted(origin.parent.glob("*.py"))


def _origins(packages: Sequence[str]) -> Iterator[Path]:
    for name in packages:
        found = importlib.util.find_spec(name)  # found, not imported: that is the torch side's
        if found and found.origin:
            yield Path(found.origin)


def _plugins() -> Iterator[Path]:
    for folder in filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)):
        yield from sorted(Path(folder).glob("*/*.py"))
