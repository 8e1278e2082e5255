"""What a manifest says of a sequence of frames: read and checked, row by row.

Shapes: S frames of a sequence, V values, K labels.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules._errors import DataFormatError
from datamodules._files import cell_of, checked_text
from datamodules._frame_files import Row, read_array, to_single
from datamodules._paths import Folder

_LARGEST: Final = float(np.finfo(np.float32).max)

TargetName = Literal["label", "value", "tags", "labels", "values", "next", "text"]

#: From a row, its folder and how many frames it has to what it says: plain JSON, or values (n, V).
Reader = Callable[[Row, Folder, int], Any]


def _label(row: Row, _folder: Folder, _steps: int) -> str:
    return _name(cell_of(row.where, row.cells, "label"), f"{row.where}, column 'label'")


def _text(row: Row, _folder: Folder, _steps: int) -> str:
    text = checked_text(cell_of(row.where, row.cells, "text"), f"{row.where}, column 'text'")
    if not text.strip():
        raise DataFormatError(f"{row.where} has no text")
    return text


def _name(cell: object, where: str) -> str:
    # A label may well be a number.
    name = checked_text(str(cell) if type(cell) is int else cell, where)
    if not name:
        raise DataFormatError(f"{where} has a label without a name")
    return name


def _tags(row: Row, folder: Folder, steps: int) -> list[str]:
    where, cell = _cell(row, "labels")
    if isinstance(cell, str):
        array = _named(cell, where, folder)
        _same_count(len(array), steps, where)
        if array.ndim != 1:
            raise DataFormatError(
                f"{where} names an array of shape {array.shape}: one label a frame"
            )
        cell = _whole(array, where)
    labels = [_name(each, where) for each in _listed(cell, where)]
    _same_count(len(labels), steps, where)
    return labels


def _whole(array: NDArray[Any], where: str) -> list[int]:
    fractions = array[array % 1 != 0]
    if fractions.size:
        raise DataFormatError(
            f"{where} names an array that holds {fractions[0]} and not a whole number"
        )
    return [int(each) for each in array]


def _labels(row: Row, folder: Folder, steps: int) -> list[list[str]]:
    where, cell = _cell(row, "labels")
    if isinstance(cell, str):
        array = _named(cell, where, folder)
        if array.ndim != 2 or not np.isin(array, (0, 1)).all():
            raise DataFormatError(f"{where} must name a table of 0 and 1, a column for each label")
        cell = [np.flatnonzero(step).tolist() for step in array]
    labels = [
        [_name(each, where) for each in _listed(step, where)] for step in _listed(cell, where)
    ]
    _same_count(len(labels), steps, where)
    return labels


def _value(row: Row, _folder: Folder, _steps: int) -> NDArray[np.float32]:
    where, cell = _cell(row, "value")
    return _numbers(cell if isinstance(cell, list) else [cell], where)[None]


def _values(row: Row, folder: Folder, steps: int) -> NDArray[np.float32]:
    where, cell = _cell(row, "values")
    if isinstance(cell, str):
        array = to_single(_named(cell, where, folder), f"{where} ({cell})")
        values = array[:, None] if array.ndim == 1 else array
    else:
        each = [step if isinstance(step, list) else [step] for step in _listed(cell, where)]
        if len({len(step) for step in each}) > 1:
            raise DataFormatError(f"{where} holds frames of unequally many values")
        flat = [_numbers(step, where) for step in each]
        values = np.stack(flat) if flat else np.zeros((0, 1), np.float32)
    if values.ndim != 2:
        raise DataFormatError(
            f"{where} names an array of shape {values.shape}: a row for each frame"
        )
    _same_count(len(values), steps, where)
    return values


def _cell(row: Row, column: str) -> tuple[str, Any]:
    return f"{row.where}, column {column!r}", cell_of(row.where, row.cells, column)


def _named(name: str, where: str, folder: Folder) -> NDArray[Any]:
    array = read_array(folder.file(name, where), f"{where} ({name})")
    if not array.ndim:
        raise DataFormatError(f"{where} names an array without axes: a row for each frame")
    return array


def _listed(cell: Any, where: str) -> list[Any]:
    if not isinstance(cell, list):
        raise DataFormatError(f"{where} must hold a list, one entry for each frame")
    return cell


def _numbers(cells: list[Any], where: str) -> NDArray[np.float32]:
    for each in cells:
        if type(each) not in (int, float) or not abs(each) <= _LARGEST:
            raise DataFormatError(f"{where} holds {str(each)[:40]!r} and not a finite number")
    if not cells:
        raise DataFormatError(f"{where} holds no value")
    return np.array(cells, dtype=np.float32)


def _same_count(found: int, steps: int, where: str) -> None:
    if found != steps:
        raise DataFormatError(f"{where} has {found} entries for {steps} frames: one for each frame")


#: How what is said is read, by target; `next` says nothing.
READERS: Final[Mapping[TargetName, Reader]] = {
    "label": _label,
    "value": _value,
    "tags": _tags,
    "labels": _labels,
    "values": _values,
    "next": lambda *_: None,
    "text": _text,
}
#: The targets that are values, not plain JSON.
VALUES: Final[frozenset[TargetName]] = frozenset({"value", "values"})
