"""Which files data may be read from: those whose resolved path lies in an allowed root."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules._errors import DataFormatError, DataPathError


@dataclass(frozen=True)
class Folder:
    """A folder of manifests and of the files that they name."""

    #: Where it lies, links resolved.
    path: Path
    #: How the spec names it.
    name: str
    roots: Sequence[Path]

    def file(self, name: str, where: str, called: str = "file") -> Path:
        """Return the file of this name. Raise DataFormatError where there is none."""
        path = inside(self.path / name, self.roots)
        if not is_file(path):
            raise DataFormatError(f"{where}: there is no {called} {name!r} (looked for {path})")
        return path


def find_folder(name: str, roots: Sequence[Path]) -> Path:
    """Return the folder of this name: absolute, or relative to the first root that has it.

    Raise DataPathError where it is outside all roots, by whatever links or dots, or nowhere.
    """
    return _find(name, roots, _is_folder, "folder")


def find_path(name: str, roots: Sequence[Path]) -> Path:
    """Return the file of this name: absolute, or relative to the first root that has it.

    Raise DataPathError where it is outside all roots, by whatever links or dots, or nowhere.
    """
    return _find(name, roots, is_file, "file")


def _find(name: str, roots: Sequence[Path], is_one: Callable[[Path], bool], called: str) -> Path:
    places = [Path(name)] if Path(name).is_absolute() else [root / name for root in roots]
    for place in places:
        found = inside(place, roots)
        if is_one(found):
            return found
    looked = ", ".join(map(str, places)) or "no data root is allowed at all"
    raise DataPathError(f"there is no {called} {name!r} to read data from (looked for: {looked})")


def inside(path: Path, roots: Sequence[Path]) -> Path:
    """Return the resolved path. Raise DataPathError if it lies outside all roots."""
    resolved = _resolve(path)
    if any(resolved.is_relative_to(_resolve(root)) for root in roots):
        return resolved
    folder = resolved if _is_folder(resolved) else resolved.parent
    allowed = ", ".join(map(str, roots)) or "none"
    line = shlex.quote(os.pathsep.join(map(str, (*roots, folder))))
    raise DataPathError(
        f"{resolved} lies outside the allowed data roots ({allowed});"
        f" to allow it, start the worker with UNROLL_DATA_ROOTS={line}"
    )


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise DataPathError(f"{str(path)!r} is not a usable path: {error}") from error


def is_file(path: Path) -> bool:
    """Say whether there is such a file. Raise DataPathError where that may not be known."""
    return _asked(path, Path.is_file)


def _is_folder(path: Path) -> bool:
    return _asked(path, Path.is_dir)


def _asked(path: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(path)
    except OSError as error:
        raise DataPathError(f"cannot look at {path}: {error.strerror}") from error
