"""Rows of unequal length in one flat array: what is cached, mapped into memory and padded.

Shapes: N rows, V values of all rows together, B rows of a batch, S the longest of these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules._vocab import EOS, PAD

_OFFSET: Final = np.int64


@dataclass(frozen=True)
class Rows:
    """Hold N rows: row i is `values[offsets[i]:offsets[i + 1]]`."""

    #: All rows, one after the other (V,).
    values: NDArray[Any]
    #: Where each row begins, and where the last one ends, int64 (N + 1,).
    offsets: NDArray[np.int64]

    @classmethod
    def of_ids(cls, rows: Iterable[Sequence[int]]) -> "Rows":
        """Join rows of ids, the end symbol put behind each."""
        ended = [(*row, EOS) for row in rows]
        values = np.fromiter(chain.from_iterable(ended), dtype=np.int32)
        return cls(values, _offsets(map(len, ended)))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "Rows":
        """Join texts as UTF-8."""
        encoded = [text.encode() for text in texts]
        values = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(values, _offsets(map(len, encoded)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The length of every row (N,)."""
        return np.diff(self.offsets)

    def padded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return these rows side by side, int64 (B, S), and their lengths, int64 (B,)."""
        chosen = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[chosen]
        steps = np.arange(lengths.max(initial=0))  # (S,)
        inside = steps < lengths[:, None]  # (B, S)
        places = np.where(inside, self.offsets[chosen, None] + steps, 0)  # (B, S)
        ids = np.where(inside, self.values[places], PAD).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(lengths)


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


def _offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(np.fromiter(lengths, dtype=_OFFSET)))).astype(_OFFSET)
