"""Rows of unequal length in one flat array: what is cached, mapped into memory and padded.

Shapes: N rows, V values of all rows together, B rows of a batch, S the longest of these, F numbers
of a frame.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules._vocab import EOS, PAD


@dataclass(frozen=True)
class Rows:
    """Hold N rows: row i is `values[offsets[i]:offsets[i + 1]]`."""

    #: All rows, one after the other (V,), or (V, F) where a value is a frame.
    values: NDArray[Any]
    #: Where each row begins, and where the last one ends, int64 (N + 1,).
    offsets: NDArray[np.int64]

    @classmethod
    def of_ids(cls, rows: Iterable[Sequence[int]], *, ended: bool = True) -> "Rows":
        """Join rows of ids, the end symbol put behind each unless they are not `ended` by one."""
        values, offsets = array("i"), array("q", [0])
        for row in rows:
            values.extend(row)
            if ended:
                values.append(EOS)
            offsets.append(len(values))
        return cls(np.array(values, dtype=np.int32), np.array(offsets, dtype=np.int64))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "Rows":
        """Join texts as UTF-8."""
        values, offsets = bytearray(), array("q", [0])
        for text in texts:
            values.extend(text.encode())
            offsets.append(len(values))
        return cls(np.array(values, dtype=np.uint8), np.array(offsets, dtype=np.int64))

    @classmethod
    def of_frames(cls, rows: Iterable[NDArray[np.floating]], size: int) -> "Rows":
        """Join rows of frames, each (S, F) with F = `size`, as float32."""
        parts = [np.asarray(row, dtype=np.float32) for row in rows]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([np.zeros((0, size), np.float32), *parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The length of every row (N,)."""
        return np.diff(self.offsets)

    def where(self, kept: NDArray[np.bool_]) -> "Rows":
        """Return only the rows for which `kept` (N,) is true."""
        values = self.values[np.repeat(kept, self.lengths)]
        return Rows(values, np.concatenate(([0], np.cumsum(self.lengths[kept]))))

    def padded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return these rows side by side, int64 (B, S), and their lengths, int64 (B,)."""
        inside, places, lengths = self._side_by_side(rows)
        ids = np.where(inside, self.values[places], PAD).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(lengths)

    def padded_frames(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return these rows side by side, float32 (B, S, F), and their lengths, int64 (B,)."""
        inside, places, lengths = self._side_by_side(rows)
        frames = np.where(inside[..., None], self.values[places], np.float32(0))
        return torch.from_numpy(frames), torch.from_numpy(lengths)

    def _side_by_side(
        self, rows: Sequence[int]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return what is not padding (B, S), where each value lies (B, S), and lengths (B,)."""
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[chosen]
        steps = np.arange(lengths.max(initial=0))  # (S,)
        inside = steps < lengths[:, None]
        places = np.where(inside, self.offsets[chosen, None] + steps, 0)
        return inside, places, lengths


def arrays_of(splits: Mapping[str, Mapping[str, Rows]]) -> dict[str, NDArray[Any]]:
    """Return the parts of all splits as arrays named SPLIT.PART.values and SPLIT.PART.offsets."""
    return {
        f"{split}.{part}.{name}": array
        for split, parts in splits.items()
        for part, rows in parts.items()
        for name, array in (("values", rows.values), ("offsets", rows.offsets))
    }


def rows_of(arrays: Mapping[str, NDArray[Any]], split: str) -> dict[str, Rows]:
    """Return the parts of one split by name: undo `arrays_of`."""
    names = (name.split(".") for name in arrays)
    parts = [part for owner, part, kind in names if owner == split and kind == "values"]
    return {
        part: Rows(arrays[f"{split}.{part}.values"], arrays[f"{split}.{part}.offsets"])
        for part in parts
    }


class Texts(Sequence[str]):
    """Read rows of UTF-8 as strings, each when it is asked for."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        start, end = self.rows.offsets[:-1][place], self.rows.offsets[1:][place]
        return self.rows.values[start:end].tobytes().decode()
