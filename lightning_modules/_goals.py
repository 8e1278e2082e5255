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
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from datamodules._base import DataModule
from datamodules._batch import Batch
from datamodules._classes import MISSED, UNKNOWN_CLASS
from datamodules._refusals import Refusal
from datamodules._values import ValueData
from lightning_modules._class_scores import ClassScores, LabelScores, bernoulli
from lightning_modules._errors import ModelError
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._losses import smoothed_cross_entropy
from lightning_modules._ranks import mean_over_ranks
from lightning_modules._row_notes import RowSums, pairs, summed_by_row
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

    def row_sums(self, outputs: Outputs, batch: Batch) -> RowSums:  # noqa: ARG002 (for those that know rows)
        """Return what each row of a batch adds to some of the metrics."""
        return {}

    def said(self, outputs: Outputs, batch: Batch) -> Sequence[Sequence[int]] | None:  # noqa: ARG002 (for those that choose)
        """Return the ids of what is said to each row, where that is one of several things."""
        return None


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
        self.count(gathered, self(batch), batch)

    def count(self, gathered: Any, outputs: Any, batch: Batch) -> None:
        """Let the goal add these outputs, and note what each row adds where that is wanted."""
        self.goal.gather(gathered, outputs, batch)
        if self.noting:
            rows = batch.extras["index"].tolist()
            self.noting.add(rows, self.goal.row_sums(outputs, batch))
            if (said := self.goal.said(outputs, batch)) is not None:
                self.noting.say(rows, said)

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

    def row_sums(self, outputs: Tensor, batch: Batch) -> RowSums:
        """Return whether the class of each row is right, which it is and was said, and its loss."""
        targets, counts = targets_of(batch)[0], target_mask(batch)  # (B,)
        known = (targets != UNKNOWN_CLASS) & counts
        said = outputs.argmax(dim=-1)
        right = (said == targets) & known
        true = targets.where(targets != UNKNOWN_CLASS, self.output_size)  # as `ClassScores` has it
        _, nll, _ = smoothed_cross_entropy(outputs[known], targets[known], 0.0)
        return {
            "accuracy": ("ratio", pairs(right, counts)),
            "macro_f1": ("macro_f1", pairs(true, said)),
            "loss": ("ratio", pairs(summed_by_row(nll, known), known)),
        }

    def said(self, outputs: Tensor, batch: Batch) -> Sequence[Sequence[int]]:  # noqa: ARG002 (nothing is padded)
        """Return the likeliest class of each row."""
        return [[each] for each in outputs.argmax(dim=-1).tolist()]


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

    def row_sums(self, outputs: Tensor, batch: Batch) -> RowSums:
        """Return loss, bits, perplexity and accuracy of the symbols of each row, or window."""
        logits, targets = counted(outputs, batch)
        _, nll, right = smoothed_cross_entropy(logits, targets, 0.0)
        mask = target_mask(batch)
        count, loss = (summed_by_row(each, mask) for each in (torch.ones_like(nll), nll))
        return {
            "loss": ("ratio", pairs(loss, count)),
            "bits": ("ratio", pairs(loss / math.log(2), count)),
            "perplexity": ("perplexity", pairs(loss, count)),
            "accuracy": ("ratio", pairs(summed_by_row(right, mask), count)),
        }


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

    def row_sums(self, outputs: Tensor, batch: Batch) -> RowSums:
        """Return the errors of each row's scaled values."""
        found, targets = self._counted(outputs, batch)
        off, mask = (found.double() - targets.double()), target_mask(batch)
        count = summed_by_row(torch.ones(len(off), device=off.device), mask) * self.columns
        squares, sizes = (summed_by_row(each.sum(dim=-1), mask) for each in (off**2, off.abs()))
        mse = pairs(squares, count)
        return {
            "loss": ("ratio", mse),
            "mse": ("ratio", mse),
            "mae": ("ratio", pairs(sizes, count)),
        }


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
        losses = bernoulli(logits, targets)
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

    def row_sums(self, outputs: Tensor, batch: Batch) -> RowSums:
        """Return how many decisions of each row are right, and its labels for F1."""
        logits, targets = counted(outputs, batch)
        mask, found, true = target_mask(batch), logits > 0, targets > 0

        def count(each: Tensor) -> Tensor:
            return summed_by_row(each.sum(dim=-1), mask)

        missed = torch.zeros(len(batch), device=mask.device)
        if MISSED in batch.extras:
            missed = (batch.extras[MISSED] * mask).sum(dim=-1)
        decisions = count(torch.ones_like(found)) + missed
        shared = count(found & true)
        losses = bernoulli(logits, targets)
        return {
            "loss": ("ratio", pairs(count(losses), count(torch.ones_like(losses)))),
            "accuracy": ("ratio", pairs(count(found == true), decisions)),
            "micro_f1": ("f1", pairs(shared, count(found), count(true) + missed)),
        }


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
