"""Dates whose batches take their time: real training that lasts seconds and costs little."""

import time
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from datamodules._batch import Batch
from datamodules.dates import Dates


class PacedDates(Dates):
    """English and German dates, a batch of training at a time.

    Args:
        pause: seconds that a batch of training keeps its step waiting
        examples: dates to train on
        held_out: dates in each of the other splits

    """

    def __init__(
        self,
        *,
        pause: Annotated[float, Ge(0)] = 0.04,
        examples: Annotated[int, Ge(1)] = 300,
        held_out: Annotated[int, Ge(1)] = 8,
    ) -> None:
        super().__init__(examples=examples, held_out=held_out, locales=["en", "de"])
        self._pause = pause

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the batch of these rows, after the pause."""
        if split == "train":
            time.sleep(self._pause)
        return super().collate(split, rows)
