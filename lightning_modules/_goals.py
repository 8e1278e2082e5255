"""What is learned of an input: a strategy object for each kind of target, held by a topology.

Shapes: B sequences, S steps, T target positions, M targets that count (no padding, no idle row), C
classes, V values of a step, K labels of which a step may have several, O numbers of an output.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, SumMetric
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from datamodules._base import DataModule
from datamodules._batch import Batch
from datamodules._classes import MISSED, UNKNOWN_CLASS
from datamodules._refusals import Refusal
from datamodules._values import ValueData
from lightning_modules._errors import ModelError
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._losses import smoothed_cross_entropy
from lightning_modules._ranks import mean_over_ranks
from lightning_modules._scoring import TokenAverages
from lightning_modules._text import StepOutput, target_mask, targets_of

#: What a topology's `forward` returns, and what is gathered of a split.
Outputs = TypeVar("Outputs")
Gathered = TypeVar("Gathered")


class Goal(ABC, Generic[Outputs, Gathered]):
    """Turn what a topology puts out into a loss, into scores and into answers."""

    #: The metric by which models are chosen, and which end of it is good.
    monitor: ClassVar[str]
    monitor_mode: ClassVar[Literal["min", "max"]]

    #: How many numbers the last layer gives, for the whole input or for each of its steps (O).
    output_size: int

    @abstractmethod
    def learn(self, outputs: Outputs, batch: Batch) -> StepOutput:
        """Return the loss of a batch and what its targets count for."""

    @abstractmethod
    def answers(self, outputs: Outputs, batch: Batch) -> Sequence[Any]:
        """Return one output for each row, on the CPU, as `Topology.predict` has it."""

    @abstractmethod
    def nothing_yet(self, device: torch.device) -> Gathered:
        """Return what is gathered of a split before its first batch."""

    @abstractmethod
    def gather(self, gathered: Gathered, outputs: Outputs, batch: Batch) -> None:
        """Add a batch of the split."""

    @abstractmethod
    def scores(self, gathered: Gathered, data: DataModule, split: str) -> dict[str, float]:
        """Return the metrics of the whole split by name, without the split's."""


class GoalTopology(EvaluatedTopology[Any]):
    """A topology that leaves to its goal what its outputs are for; it gives `forward`."""

    def __init__(self, goal: Goal[Any, Any]) -> None:
        super().__init__()
        self.goal = goal
        self.monitor, self.monitor_mode = goal.monitor, goal.monitor_mode

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Return what the goal reads."""

    def predict(self, batch: Batch) -> Sequence[Any]:
        """Return one output for each row."""
        return self.goal.answers(self(batch), batch)

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # noqa: ARG002 (Lightning)
        """Return the loss of a batch and what its targets count for."""
        return self.goal.learn(self(batch), batch)

    def nothing_yet(self) -> Any:
        """Return what the goal begins with."""
        return self.goal.nothing_yet(self.device)

    def gather(self, gathered: Any, batch: Batch) -> None:
        """Add the outputs of a batch."""
        self.goal.gather(gathered, self(batch), batch)

    def scores(self, gathered: Any, split: str) -> dict[str, float]:
        """Return the goal's scores."""
        return self.goal.scores(gathered, self.data, split)


def counted(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return outputs (M, ...) and targets (M, ...) where a target counts."""
    mask, targets = target_mask(batch), targets_of(batch)[0]
    if bool(mask.all()):  # views: where outputs are wide, copies cost more than all else here
        return outputs.flatten(0, mask.ndim - 1), targets.flatten(0, mask.ndim - 1)
    return outputs[mask], targets[mask]


def per_row(outputs: Tensor, batch: Batch) -> list[Tensor]:
    """Return outputs (B, S, ...) row by row, without padding, on the CPU."""
    pairs = zip(outputs.float().cpu(), batch.lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def step_output(loss: Tensor, nll: Tensor, correct: Tensor | None) -> StepOutput:
    """Return the mean of losses (M, ...), and what they add up to by themselves."""
    output: StepOutput = {
        "loss": mean_over_ranks(loss.sum() / max(1, loss.numel()), loss.numel()),
        "nll_sum": nll.detach().sum(),
        "tokens": torch.tensor(nll.numel(), device=nll.device),
    }
    return output if correct is None else {**output, "correct": correct.sum()}


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


class ClassGoal(Goal[Tensor, ClassScores]):
    """One class of several for the whole input: p(y) = softmax(o), o (B, C)."""

    monitor = "val/accuracy"
    monitor_mode = "max"

    def __init__(self, classes: int, label_smoothing: float = 0.0) -> None:
        self.output_size = classes
        self.label_smoothing = label_smoothing

    def learn(self, outputs: Tensor, batch: Batch) -> StepOutput:
        """Return the cross-entropy of the rows that count."""
        logits, targets = counted(outputs, batch)
        return step_output(*smoothed_cross_entropy(logits, targets, self.label_smoothing))

    def answers(self, outputs: Tensor, batch: Batch) -> Sequence[Tensor]:  # noqa: ARG002 (nothing is padded)
        """Return the log-probabilities of all classes for each row, float32 (C,)."""
        return torch.log_softmax(outputs.float(), dim=-1).cpu().unbind()

    def nothing_yet(self, device: torch.device) -> ClassScores:
        """Return empty scores."""
        return ClassScores(self.output_size, device)

    def gather(self, gathered: ClassScores, outputs: Tensor, batch: Batch) -> None:
        """Add the rows of a batch."""
        gathered.update(*counted(outputs, batch))

    def scores(self, gathered: ClassScores, data: DataModule, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return accuracy, macro-F1 and loss."""
        return gathered.compute()


class SymbolGoal(Goal[Tensor, TokenAverages]):
    """The symbol at each step: p(x) = softmax(o), o (B, S, C)."""

    monitor = "val/loss"
    monitor_mode = "min"

    def __init__(self, symbols: int) -> None:
        self.output_size = symbols

    def learn(self, outputs: Tensor, batch: Batch) -> StepOutput:
        """Return the cross-entropy of the symbols that count."""
        logits, targets = counted(outputs, batch)
        return step_output(*smoothed_cross_entropy(logits, targets, 0.0))

    def answers(self, outputs: Tensor, batch: Batch) -> Sequence[Tensor]:
        """Return the log-probabilities of all symbols at each step, float32 (S, C)."""
        return per_row(torch.log_softmax(outputs.float(), dim=-1), batch)

    def nothing_yet(self, device: torch.device) -> TokenAverages:
        """Return empty averages."""
        return TokenAverages(device)

    def gather(self, gathered: TokenAverages, outputs: Tensor, batch: Batch) -> None:
        """Add the losses of a batch."""
        logits, targets = counted(outputs, batch)
        _, nll, right = smoothed_cross_entropy(logits, targets, 0.0)
        gathered.update(nll, right)

    def scores(self, gathered: TokenAverages, data: DataModule, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return loss, bits and perplexity of a symbol, and accuracy."""
        metrics = gathered.compute()
        return {**metrics, "bits": metrics["loss"] / math.log(2)}


class ValueGoal(Goal[Tensor, MetricCollection]):
    """Values, by least squares: V at each of T steps for the whole input, or V at each input step.

    The loss is the mean of (o - y)², which is also the score `mse`.

    Args:
        columns: values of a step, V
        steps: how many steps the whole input has, T; None for as many as the input itself

    """

    monitor = "val/mse"
    monitor_mode = "min"

    def __init__(self, columns: int, steps: int | None = None) -> None:
        self.columns = columns
        self.steps = steps
        self.output_size = columns * (steps or 1)

    def learn(self, outputs: Tensor, batch: Batch) -> StepOutput:
        """Return the squared error of the values that count."""
        found, targets = self._counted(outputs, batch)
        squares = (found - targets) ** 2
        return step_output(squares, squares, None)

    def _counted(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return values and targets (M, V) that count, from outputs (B, T * V) or (B, T, V)."""
        found, targets = counted(self._shaped(outputs), batch)
        return found, targets.to(found.dtype)

    def _shaped(self, outputs: Tensor) -> Tensor:
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return wide.view(len(outputs), -1, self.columns)  # (B, T, V)

    def answers(self, outputs: Tensor, batch: Batch) -> Sequence[Tensor]:
        """Return the values of each row, float32 (T, V)."""
        shaped = self._shaped(outputs)
        return per_row(shaped, batch) if self.steps is None else shaped.float().cpu().unbind()

    def nothing_yet(self, device: torch.device) -> MetricCollection:
        """Return empty errors, column by column."""
        errors = MetricCollection(
            {
                "mse": MeanSquaredError(num_outputs=self.columns),
                "mae": MeanAbsoluteError(num_outputs=self.columns),
            }
        )
        return errors.set_dtype(torch.float64).to(device)

    def gather(self, gathered: MetricCollection, outputs: Tensor, batch: Batch) -> None:
        """Add the errors of a batch."""
        found, targets = self._counted(outputs, batch)
        if len(targets):
            gathered.update(found.double(), targets.double())

    def scores(self, gathered: MetricCollection, data: DataModule, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return loss, MSE and MAE of scaled values, and of original ones where data knows them."""
        errors = {name: value.reshape(-1) for name, value in gathered.compute().items()}  # (V,)
        metrics = {name: value.mean().item() for name, value in errors.items()}
        metrics["loss"] = metrics["mse"]
        if isinstance(data, ValueData):
            scale = torch.tensor(data.value_scale, dtype=torch.float64, device=errors["mse"].device)
            metrics["mse_original"] = (errors["mse"] * scale**2).mean().item()
            metrics["mae_original"] = (errors["mae"] * scale).mean().item()
        return metrics


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
        self._nll.update(_bernoulli(logits, targets).sum(dtype=torch.float64))
        self._decisions.update(targets.numel())
        self._scores.update((logits > 0).int().flatten(), targets.int().flatten())
        if missed:
            nothing = torch.zeros(missed, dtype=torch.int32, device=logits.device)
            self._scores.update(nothing, nothing + 1)

    def compute(self) -> dict[str, float]:
        """Return accuracy and micro-F1 (0-1), and the loss (nats a decision)."""
        scores = {name: value.item() for name, value in self._scores.compute().items()}
        return scores | {"loss": (self._nll.compute() / self._decisions.compute()).item()}


def _bernoulli(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -y log σ(o) - (1 - y) log(1 - σ(o)), elementwise."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(wide, targets.to(wide.dtype), reduction="none")


class LabelsGoal(Goal[Tensor, LabelScores]):
    """For each step which of K labels it has, each for itself: p(y_k = 1) = σ(o_k), o (B, S, K).

    A decision is one label of one step. `step_loss` is the loss of all labels of a step together:
    where these are the notes of a piano roll, the negative log-likelihood a time step of
    Boulanger-Lewandowski et al. 2012.
    """

    monitor = "val/micro_f1"
    monitor_mode = "max"

    def __init__(self, labels: int) -> None:
        self.output_size = labels

    def learn(self, outputs: Tensor, batch: Batch) -> StepOutput:
        """Return the binary cross-entropy of the decisions that count."""
        logits, targets = counted(outputs, batch)
        losses = _bernoulli(logits, targets)
        return step_output(losses, losses, (logits.detach() > 0) == (targets > 0))

    def answers(self, outputs: Tensor, batch: Batch) -> Sequence[Tensor]:
        """Return the probability of each label at each step, float32 (S, K)."""
        return per_row(torch.sigmoid(outputs.float()), batch)

    def nothing_yet(self, device: torch.device) -> LabelScores:
        """Return empty scores."""
        return LabelScores(device)

    def gather(self, gathered: LabelScores, outputs: Tensor, batch: Batch) -> None:
        """Add the decisions of a batch."""
        missed = 0
        if MISSED in batch.extras:
            missed = int((batch.extras[MISSED] * target_mask(batch)).sum())
        gathered.update(*counted(outputs, batch), missed)

    def scores(self, gathered: LabelScores, data: DataModule, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return loss, accuracy and micro-F1 of the decisions, and the loss of a step."""
        metrics = gathered.compute()
        return {**metrics, "step_loss": metrics["loss"] * self.output_size}


#: For a topology that learns a class or values of the whole input.
WHOLE_REFUSALS: Final = (
    Refusal(
        when={"num_classes": (0,)},
        unless={"label_smoothing": (0.0,)},
        because="label_smoothing spreads the probability of one class over all, and this data has "
        "no classes to choose one from: leave it out",
    ),
)


def goal_of_the_whole(
    num_classes: int, value_size: int, value_steps: int, label_smoothing: float
) -> ClassGoal | ValueGoal:
    """Return what is to be said of a whole input: a class, or values. Raise ModelError."""
    if bool(num_classes) == bool(value_size):
        raise ModelError(
            "the data must give a class (num_classes) or values (value_size) to learn, "
            + ("not both" if num_classes else "and gives neither")
        )
    if num_classes:
        return ClassGoal(num_classes, label_smoothing)
    return ValueGoal(value_size, value_steps)
