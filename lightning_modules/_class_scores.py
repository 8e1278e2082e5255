"""Scores of classes and of labels, exactly, on any number of ranks.

Shapes: M targets that count (no padding, no idle row), C classes, K labels of which a step may have
several.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torchmetrics import MetricCollection, SumMetric
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from datamodules._classes import UNKNOWN_CLASS
from lightning_modules._losses import smoothed_cross_entropy


def _sum(device: torch.device) -> SumMetric:
    metric = SumMetric(nan_strategy="disable")
    metric.set_dtype(torch.float64).to(device)
    return metric


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
        self._nll, self._known = _sum(device), _sum(device)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count logits (M, C) and true classes (M,)."""
        if not len(targets):
            return
        known = targets != UNKNOWN_CLASS
        _, nll, _ = smoothed_cross_entropy(logits[known], targets[known], 0.0)
        self._nll.update(nll.sum())
        self._known.update(known.sum())
        self._scores.update(logits.argmax(dim=-1), targets.where(known, self._unknown))

    def compute(self) -> dict[str, float]:
        """Return accuracy and macro-F1 (0-1), and the loss (nats a row) where there is one."""
        scores = {name: value.item() for name, value in self._scores.compute().items()}
        known = self._known.compute()
        return scores | ({"loss": (self._nll.compute() / known).item()} if known else {})


class LabelScores:
    """Score decisions about labels, of which any number may hold at once.

    A label that training did not have is one that was missed; it is left out of the loss.
    """

    def __init__(self, device: torch.device) -> None:
        self._scores = MetricCollection(
            {"accuracy": BinaryAccuracy(), "micro_f1": BinaryF1Score()}
        ).to(device)
        self._nll, self._decisions = _sum(device), _sum(device)

    def update(self, logits: Tensor, targets: Tensor, missed: int = 0) -> None:
        """Count logits and truth (M, K), and labels of these steps that are not among the K."""
        if not len(targets):
            return
        self._nll.update(bernoulli(logits, targets).sum(dtype=torch.float64))
        self._decisions.update(targets.numel())
        self._scores.update((logits > 0).int().flatten(), targets.int().flatten())
        if missed:
            nothing = torch.zeros(missed, dtype=torch.int32, device=logits.device)
            self._scores.update(nothing, nothing + 1)

    def compute(self) -> dict[str, float]:
        """Return accuracy and micro-F1 (0-1), and the loss (nats a decision)."""
        scores = {name: value.item() for name, value in self._scores.compute().items()}
        return scores | {"loss": (self._nll.compute() / self._decisions.compute()).item()}


def bernoulli(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -y log σ(o) - (1 - y) log(1 - σ(o)), elementwise."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(wide, targets.to(wide.dtype), reduction="none")
