"""How a topology is scored: batch by batch, split by split, once for validation and test."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch

from datamodules._batch import Batch
from lightning_modules._base import Topology
from lightning_modules._row_notes import RowNotes

#: What is gathered of one split.
Gathered = TypeVar("Gathered")


class EvaluatedTopology(Topology, Generic[Gathered]):
    """A topology that says what to gather of a batch, and what scores follow from it.

    Lightning calls the steps below; a subclass gives `nothing_yet`, `gather` and `scores`.
    """

    #: Whether what each row adds to the scores is noted: a validation has no use for that.
    notes_rows: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._gathered: dict[str, Gathered] = {}
        #: What was noted of each split of the newest evaluation.
        self.row_notes: dict[str, RowNotes] = {}
        #: The split that is being gone through; None where nothing is noted.
        self.noting: RowNotes | None = None

    @abstractmethod
    def nothing_yet(self) -> Gathered:
        """Return what is gathered of a split before its first batch."""

    @abstractmethod
    def gather(self, gathered: Gathered, batch: Batch) -> None:
        """Add a batch of the split."""

    @abstractmethod
    def scores(self, gathered: Gathered, split: str) -> Mapping[str, float]:
        """Return the metrics of the whole split by name, without the split's."""

    def _begin(self) -> None:
        self._gathered, self.row_notes, self.noting = {}, {}, None

    def _step(self, batch: Batch, dataloader_idx: int) -> None:
        split = self.split_name(dataloader_idx)
        if split not in self._gathered:
            self._gathered[split] = self.nothing_yet()
        if self.notes_rows:
            self.noting = self.row_notes.setdefault(split, RowNotes())
        self.gather(self._gathered[split], batch)

    def _report(self) -> None:
        for split, gathered in self._gathered.items():
            # As float64 tensors: Lightning would keep a plain number in float32.
            self.log_dict(
                {
                    f"{split}/{name}": torch.tensor(value, dtype=torch.float64)
                    for name, value in self.scores(gathered, split).items()
                }
            )
        self._gathered = {}

    def on_validation_epoch_start(self) -> None:
        """Begin to gather anew."""
        self._begin()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002 (Lightning)
        """Gather what a batch has to say."""
        self._step(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of every validation split."""
        self._report()

    def on_test_epoch_start(self) -> None:
        """Begin to gather anew."""
        self._begin()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002 (Lightning)
        """Gather what a batch has to say."""
        self._step(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._report()
