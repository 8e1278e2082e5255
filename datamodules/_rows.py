"""Rows of unequal length in one flat array: what is cached, mapped into memory and padded.

Shapes: N rows, V values of all rows together, B rows of a batch, S the longest of these, F numbers
of a frame.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Final, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules._spool import Spool
from datamodules._vocab import EOS

#: Rows that are gone through at once where there may be more than fit into memory.
_PART: Final = 512
#: Bytes of text, or ids, and rows, that are spooled at once.
_HELD: Final = 1 << 16


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
        values, offsets = Spool("i"), Spool("q")
        offsets.append(0)
        joined: list[int] = []
        ends: list[int] = []
        for row in chain(rows, [None]):
            if row is None or len(joined) + len(ends) > _HELD:
                offsets.extend_bytes((len(values) + np.array(ends, np.int64)).tobytes())
                values.extend(joined)
                joined, ends = [], []
            if row is not None:
                joined += row
                if ended:
                    joined.append(EOS)
                ends.append(len(joined))
        return cls(values.array(), offsets.array())

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "Rows":
        """Join texts as UTF-8."""
        joined = TextSpool()
        for text in texts:
            joined.append(text)
        return joined.rows()

    @classmethod
    def of_frames(cls, rows: Iterable[NDArray[np.floating]], size: int) -> "Rows":
        """Join rows of frames, each (S, F) with F = `size`, as float32."""
        values, offsets = Spool("f"), Spool("q")
        offsets.append(0)
        for row in rows:
            values.extend_bytes(np.asarray(row, dtype=np.float32).tobytes())
            offsets.append(len(values) // size)
        return cls(values.array().reshape(-1, size), offsets.array())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The length of every row (N,)."""
        return np.diff(self.offsets)

    def where(self, kept: NDArray[np.bool_]) -> "Rows":
        """Return only the rows for which `kept` (N,) is true."""
        if kept.all():
            return self
        values, offsets = Spool(self.values.dtype.char), Spool("q")
        offsets.append(0)
        end = 0
        for begin in range(0, len(self), _PART):
            bounds = self.offsets[begin : begin + _PART + 1]
            keep, lengths = kept[begin : begin + _PART], np.diff(bounds)
            part = self.values[bounds[0] : bounds[-1]]
            values.extend_bytes(part[np.repeat(keep, lengths)].tobytes())
            offsets.extend_bytes((end + np.cumsum(lengths[keep])).tobytes())
            end += int(lengths[keep].sum())
        return Rows(values.array().reshape(-1, *self.values.shape[1:]), offsets.array())

    def padded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return these rows side by side, int64 (B, S), and their lengths, int64 (B,)."""
        inside, values, lengths = self._side_by_side(rows)
        # One pass that widens and pads: PAD is 0.
        ids = np.multiply(values, inside, dtype=np.int64)
        return torch.from_numpy(ids), torch.from_numpy(lengths)

    def padded_frames(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return these rows side by side, float32 (B, S, F), and their lengths, int64 (B,)."""
        inside, frames, lengths = self._side_by_side(rows)
        frames[~inside] = 0
        return torch.from_numpy(frames), torch.from_numpy(lengths)

    def _side_by_side(
        self, rows: Sequence[int]
    ) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[np.int64]]:
        """Return what is not padding (B, S), values (B, S), any behind a row, and lengths (B,)."""
        chosen = np.asarray(rows, dtype=np.int64)
        begins = self.offsets[chosen]
        lengths: NDArray[np.int64] = self.offsets[chosen + 1] - begins
        steps = np.arange(lengths.max(initial=0))  # (S,)
        inside = steps < lengths[:, None]
        # Behind the last row there is nothing: "clip" takes the last value instead.
        return inside, self.values.take(begins[:, None] + steps, axis=0, mode="clip"), lengths


class TextSpool:
    """Rows of UTF-8 that are appended one by one."""

    def __init__(self) -> None:
        self._values, self._offsets = Spool("B"), Spool("q")
        self._offsets.append(0)
        self._held: list[bytes] = []
        self._room = _HELD

    def append(self, text: str) -> None:
        """Add a row."""
        row = text.encode()
        self._held.append(row)
        self._room -= 1 + len(row)
        if self._room < 0:
            self._spool()

    def rows(self) -> Rows:
        """Return all rows. Add none after it."""
        self._spool()
        return Rows(self._values.array(), self._offsets.array())

    def _spool(self) -> None:
        lengths = np.fromiter(map(len, self._held), np.int64, len(self._held))
        self._offsets.extend_bytes((len(self._values) + np.cumsum(lengths)).tobytes())
        self._values.extend_bytes(b"".join(self._held))
        self._held, self._room = [], _HELD


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
            begin, end, step = place.indices(len(self))
            return (
                self._run(begin, end)
                if step == 1
                else [self[row] for row in range(len(self))[place]]
            )
        row = range(len(self))[place]
        (text,) = self._run(row, row + 1)
        return text

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _PART):
            yield from self._run(begin, min(begin + _PART, len(self)))

    def _run(self, begin: int, end: int) -> list[str]:
        offsets = self.rows.offsets[begin : end + 1]
        if len(offsets) < 2:
            return []
        joined = self.rows.values[offsets[0] : offsets[-1]].tobytes()
        return [joined[a:b].decode() for a, b in pairwise((offsets - offsets[0]).tolist())]
