"""Sequences of frames as they lie in files, and the manifests that name them.

Shapes: S frames of a sequence, F features of a frame.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataFormatError, DataPathError
from datamodules._files import cell_of, checked_text, find_any, table_rows
from datamodules._paths import Folder

#: Frames, float32 (S, F).
Frames = NDArray[np.float32]

_SUFFIXES: Final = (".npy", ".npz")
#: The array of a .npz that is read, where it holds several.
_NAME: Final = "frames"


@dataclass(frozen=True)
class Row:
    """A row of a manifest, and the file of frames that it names."""

    path: Path
    #: What a person would call it: the folder as the spec names it, and its place in it.
    name: str
    cells: Mapping[str, Any]
    #: Where the row stands, for the reader of an error.
    where: str


def manifest_rows(folder: Folder, split: str) -> list[Row]:
    """Return the rows of a split's manifest.

    Raise DataMissingError where it has none, DataFormatError for the first thing that is wrong.
    """
    manifest = find_any(folder.path, split, (".jsonl",), folder.roots)
    rows = [_row(folder, *each) for each in table_rows(manifest)]
    if not rows:
        raise DataFormatError(f"{manifest} holds no rows")
    return rows


def _row(folder: Folder, where: str, cells: Mapping[str, Any]) -> Row:
    name = checked_text(cell_of(where, cells, "path"), f"{where}, column 'path'")
    path = folder.file(name, where)
    return Row(path, str(Path(folder.name) / name), cells, f"{where} ({name})")


def read_frames(path: Path, where: str, features: int | None = None) -> Frames:
    """Return the frames of a file, (S, F); one of a single axis has one feature.

    Raise DataFormatError unless it holds at least one frame of finite numbers, `features` of them
    where that is known.
    """
    array = to_single(read_array(path, where), where)
    frames = array[:, None] if array.ndim == 1 else array
    if frames.ndim != 2:
        raise DataFormatError(
            f"{where} holds an array of shape {array.shape}: frames must be a table, a row for each"
            " frame and a column for each feature"
        )
    if not frames.size:
        raise DataFormatError(f"{where} is empty: it holds an array of shape {array.shape}")
    if features is not None and frames.shape[1] != features:
        raise DataFormatError(
            f"{where} has {frames.shape[1]} features a frame where the others have {features}"
        )
    return frames


def count_frames(path: Path, where: str) -> int:
    """Return how many frames a file has, of a .npy from its head alone.

    Raise DataError for one that cannot be read; what it holds is not looked at.
    """
    return len(np.atleast_1d(_loaded(path, where)))


def read_array(path: Path, where: str) -> NDArray[Any]:
    """Return the array of a file. Raise DataFormatError unless it is finite numbers."""
    array = _loaded(path, where)
    if array.dtype.kind not in "buif":
        raise DataFormatError(f"{where} holds {array.dtype} and not numbers")
    finite = np.isfinite(array)
    if not finite.all():
        first = ", ".join(str(each) for each in np.argwhere(~finite)[0])
        raise DataFormatError(
            f"{where} holds {array[tuple(np.argwhere(~finite)[0])]} at [{first}]: a network cannot"
            " read that; leave it out, or fill it in"
        )
    return array


def to_single(array: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Return finite numbers as float32. Raise DataFormatError where they are too large."""
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataFormatError(f"{where} holds numbers that are too large for single precision")
    return single


def _loaded(path: Path, where: str) -> NDArray[Any]:
    if path.suffix not in _SUFFIXES:
        raise DataFormatError(f"{where} is no file of frames: it must end in .npy or .npz")
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        return np.asarray(loaded if isinstance(loaded, np.ndarray) else _member(loaded, where))
    except OSError as error:
        if error.errno is not None:
            raise DataPathError(f"cannot read {where}: {error.strerror}") from error
        raise DataFormatError(f"{where} is not a NumPy file: {error}") from error
    except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile) as error:
        objects = "Object arrays" in str(error) or "Python objects" in str(error)
        what = "rows of unequal length, or no numbers" if objects else "what NumPy cannot read"
        raise DataFormatError(f"{where} holds {what}: {error}") from error


def _member(archive: Any, where: str) -> Any:
    with archive:
        names: list[str] = list(archive.files)
        if _NAME not in names and len(names) != 1:
            raise DataFormatError(
                f"{where} holds {len(names)} arrays ({', '.join(names[:9])}): call the one to read"
                f" {_NAME!r}"
            )
        return archive[_NAME if _NAME in names else names[0]]
