"""Streams of characters whose batches take their time."""

import time
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from datamodules._batch import Batch
from datamodules.char_text import CharText


class PacedChars(CharText):
    """A text in characters, a batch of training at a time.

    Args:
        root: folder of the text
        pause: seconds that a batch of training keeps its step waiting

    """

    def __init__(self, *, root: str, pause: Annotated[float, Ge(0)] = 0.04) -> None:
        super().__init__(root=root, bptt=16)
        self._pause = pause

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the windows of these rows, after the pause."""
        if split == "train":
            time.sleep(self._pause)
        return super().collate(split, rows)
