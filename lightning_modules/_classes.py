"""What all topologies whose output is one class share: the loss, the scores, the answers.

Shapes: B sequences, M those that count, C classes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._classes import UNKNOWN_CLASS
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._losses import smoothed_cross_entropy
from lightning_modules._text import StepOutput, targets_of


class ClassScores:
    """Score the classes of a split, exactly, on any number of ranks.

    A row whose label training did not have counts as wrong; as it has no probability, it is left
    out of the loss.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._unknown = classes  # one class more: it occurs, but is never predicted
        self._scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes + 1, average="micro"),
                "macro_f1": MulticlassF1Score(classes + 1, average="macro"),
            }
        ).to(device)
        self._nll, self._known = (SumMetric().set_dtype(torch.float64).to(device) for _ in range(2))

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, C) and true classes (M,)."""
        if not len(targets):
            return
        known = targets != UNKNOWN_CLASS
        _, nll = smoothed_cross_entropy(logits[known], targets[known], 0.0)
        self._nll.update(nll.sum())
        self._known.update(known.sum())
        self._scores.update(logits.argmax(dim=-1), targets.where(known, self._unknown))

    def compute(self) -> dict[str, float]:
        """Return accuracy and macro-F1 (0-1), and the loss (nats a row) where there is one."""
        scores = {name: value.item() for name, value in self._scores.compute().items()}
        known = self._known.compute()
        return scores | ({"loss": (self._nll.compute() / known).item()} if known else {})


class ClassTopology(EvaluatedTopology[ClassScores]):
    """A topology whose output is one class of several."""

    accepts: ClassVar[frozenset[Task]] = frozenset({("tokens", "label")})
    monitor = "val/accuracy"
    monitor_mode = "max"

    #: How many classes there are.
    num_classes: int
    #: Label smoothing ε of the training loss.
    label_smoothing: float

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return the logits of all classes, (B, C)."""

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """Return the log-probabilities of all classes for each row, float32 (C,) on the CPU."""
        return torch.log_softmax(self(batch).float(), dim=-1).cpu().unbind()

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # noqa: ARG002 (Lightning)
        """Return the loss of a batch and what its rows count for."""
        logits, targets = self._counted(batch)
        loss, nll = smoothed_cross_entropy(logits, targets, self.label_smoothing)
        return {
            "loss": loss.sum() / max(1, len(loss)),
            "nll_sum": nll.sum(),
            "tokens": torch.tensor(nll.numel(), device=nll.device),
            "correct": (logits.detach().argmax(dim=-1) == targets).sum(),
        }

    def _counted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (M, C) and targets (M,) of the rows that count."""
        targets, lengths = targets_of(batch)
        counted = lengths > 0  # not those that only keep this rank busy
        return self(batch)[counted], targets[counted]

    def nothing_yet(self) -> ClassScores:
        """Return empty scores."""
        return ClassScores(self.num_classes, self.device)

    def gather(self, gathered: ClassScores, batch: Batch) -> None:
        """Add the rows of a batch."""
        gathered.update(*self._counted(batch))

    def scores(self, gathered: ClassScores, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return accuracy, macro-F1 and loss."""
        return gathered.compute()
