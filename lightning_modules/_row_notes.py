"""Note what each row of a split adds to its scores, batch by batch, on any number of ranks.

Shapes: B rows of a batch, M targets that count, K numbers of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lightning_modules._ranks import gather
from lightning_modules._row_scores import Array, Kind, RowScores

#: What rows of a batch add to some metrics: how a score follows, and the numbers (B, K).
RowSums = Mapping[str, tuple[Kind, Tensor]]


@dataclass
class RowNotes:
    """What was noted of one split."""

    #: Metric -> how its score follows from sums, and row -> its numbers.
    sums: dict[str, tuple[Kind, dict[int, list[float]]]] = field(default_factory=dict)
    #: Row -> ids of what was said to it, where that is one of several things.
    said: dict[int, list[int]] = field(default_factory=dict)

    def add(self, rows: Sequence[int], sums: RowSums) -> None:
        """Note a batch; a row with the number -1 only keeps a rank busy."""
        for name, (kind, values) in sums.items():
            noted = self.sums.setdefault(name, (kind, {}))[1]
            for row, numbers in zip(rows, values.double().cpu().tolist(), strict=True):
                if row >= 0:
                    noted[row] = numbers

    def say(self, rows: Sequence[int], said: Sequence[Sequence[int]]) -> None:
        """Note what was said to the rows of a batch."""
        self.said |= {row: list(ids) for row, ids in zip(rows, said, strict=True) if row >= 0}

    def gathered(self) -> dict[str, RowScores]:
        """Return the metrics of all ranks, rows in their order."""
        merged: dict[str, tuple[Kind, dict[int, list[float]]]] = {}
        for sums in gather(self.sums):
            for name, (kind, rows) in sums.items():
                merged.setdefault(name, (kind, {}))[1].update(rows)
        return {name: RowScores(kind, _array(rows)) for name, (kind, rows) in merged.items()}

    def all_said(self) -> dict[int, list[int]]:
        """Return what was said to the rows of all ranks, in their order."""
        return dict(sorted(pair for each in gather(self.said) for pair in each.items()))


def _array(rows: Mapping[int, Sequence[float]]) -> Array:
    return np.array([rows[row] for row in sorted(rows)], dtype=np.float64)


def summed_by_row(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sums (B,) of values (M,), which lie row by row where `mask` (B, T) or (B,) is."""
    rows = torch.arange(len(mask), device=mask.device)
    owners = rows.view(-1, *[1] * (mask.ndim - 1)).expand_as(mask)[mask]  # (M,)
    sums = torch.zeros(len(mask), dtype=torch.float64, device=mask.device)
    return sums.index_add_(0, owners, values.double())


def pairs(*columns: Tensor) -> Tensor:
    """Return columns (B,) side by side, float64 (B, K)."""
    return torch.stack([each.double() for each in columns], dim=1)
