"""What is learned of an input, and how it is scored: against sums written out by hand."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score, multiclass_f1_score

from datamodules._base import DataModule, Workspace
from datamodules._batch import Batch
from datamodules._classes import MISSED, UNKNOWN_CLASS
from datamodules._values import ValueData
from lightning_modules._goals import (
    ClassScores,
    Goal,
    LabelsGoal,
    SymbolGoal,
    ValueGoal,
    counted,
)
from lightning_modules._tagging import TagGoal

CPU = torch.device("cpu")


class Nothing(DataModule):
    """Data that nobody asks for anything."""

    dims: ClassVar[dict[str, Any]] = {}

    def prepare(self, workspace: Workspace) -> None:
        """Do nothing."""

    def sizes(self, split: str) -> Any:
        raise NotImplementedError

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        raise NotImplementedError


class Metres(Nothing, ValueData):
    """Values in units that are not the model's."""

    value_scale = (10.0, 0.5)


def batch_of(targets: Tensor, lengths: list[int], **extras: Tensor) -> Batch:
    """Return a batch that is as long as its targets."""
    rows = torch.tensor(lengths)
    return Batch(torch.zeros(targets.shape[:2]), rows, targets, rows, extras)


def scores_of(goal: Goal[Any, Any], data: DataModule, *pairs: tuple[Any, Batch]) -> Any:
    gathered = goal.nothing_yet(CPU)
    for outputs, batch in pairs:
        goal.gather(gathered, outputs, batch)
    return goal.scores(gathered, data, "val")


# --- classes


def test_a_class_that_training_did_not_have_counts_as_wrong() -> None:
    scores = ClassScores(3, CPU)
    logits = torch.eye(3)[[0, 1, 2, 2, 0]] * 5
    targets = torch.tensor([0, 1, 2, UNKNOWN_CLASS, UNKNOWN_CLASS])
    scores.update(logits[:3], targets[:3])
    scores.update(logits[3:], targets[3:])
    scores.update(logits[:0], targets[:0])
    found = scores.compute()
    assert found["accuracy"] == pytest.approx(3 / 5)
    # By hand: F1 of 0, 1, 2 and of the unknown: 2/3, 1, 2/3, 0.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3 + 0) / 4)
    assert found["loss"] == pytest.approx(math.log(1 + 2 * math.exp(-5)), abs=1e-6)


def test_a_split_with_no_known_class_has_no_loss() -> None:
    scores = ClassScores(3, CPU)
    scores.update(torch.eye(3), torch.full((3,), UNKNOWN_CLASS))
    assert scores.compute() == {"accuracy": 0.0, "macro_f1": 0.0}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_macro_f1_is_the_mean_over_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    scores = ClassScores(3, CPU)
    for truth, said in pairs:
        scores.update(torch.eye(3)[[said]], torch.tensor([truth]))
    truths, saids = (torch.tensor(each) for each in zip(*pairs, strict=True))
    per_class = multiclass_f1_score(saids, truths, num_classes=3, average="none")
    occurring = sorted({*truths.tolist(), *saids.tolist()})
    assert scores.compute()["macro_f1"] == pytest.approx(per_class[occurring].mean().item())


# --- what counts


@pytest.mark.parametrize("lengths", [[3, 3], [3, 1], [0, 2], [0, 0]])
def test_only_what_lies_inside_the_lengths_counts(lengths: list[int]) -> None:
    targets = torch.arange(6.0).view(2, 3, 1)
    outputs, truth = counted(-targets, batch_of(targets, lengths))
    expected = [3.0 * row + step for row, length in enumerate(lengths) for step in range(length)]
    assert truth.flatten().tolist() == expected
    assert outputs.flatten().tolist() == [-value for value in expected]


# --- symbols


def test_symbols_are_scored_in_nats_and_bits() -> None:
    goal, targets = SymbolGoal(2), torch.tensor([[0, 1], [1, 0]])
    outputs = torch.tensor([[[0.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [9.0, 9.0]]])
    batch = batch_of(targets, [2, 1])
    found = scores_of(goal, Nothing(), (outputs, batch))
    nats = (math.log(2) + math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3))) / 3
    assert found["loss"] == pytest.approx(nats)
    assert found["bits"] == pytest.approx(nats / math.log(2))
    assert found["perplexity"] == pytest.approx(math.exp(nats))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert goal.learn(outputs, batch)["nll_sum"].item() == pytest.approx(3 * nats)
    rows = goal.answers(outputs, batch)
    assert [row.shape for row in rows] == [(2, 2), (1, 2)]
    assert rows[0][1].exp().sum().item() == pytest.approx(1)


# --- values

PAIRS = [([1.0, 2.0], [0.0, 4.0]), ([0.5, 0.0], [0.5, 1.0]), ([3.0, 3.0], [0.0, 0.0])]
SAID, TRUE = (torch.tensor(rows) for rows in zip(*PAIRS, strict=True))


def test_errors_of_values_are_those_of_columns_in_both_units() -> None:
    goal = ValueGoal(2)
    first = SAID[None, :2], batch_of(TRUE[None, :2], [2])
    wide = torch.cat([TRUE[None, 2:], torch.full((1, 2, 2), 99.0)], dim=1)
    second = torch.cat([SAID[None, 2:], torch.zeros(1, 2, 2)], dim=1), batch_of(wide, [1])
    found = scores_of(goal, Metres(), first, second)
    squares = [(1 + 0 + 9) / 3, (4 + 1 + 9) / 3]
    sizes = [(1 + 0 + 3) / 3, (2 + 1 + 3) / 3]
    assert found["mse"] == found["loss"] == pytest.approx(sum(squares) / 2)
    assert found["mae"] == pytest.approx(sum(sizes) / 2)
    assert found["mse_original"] == pytest.approx((100 * squares[0] + 0.25 * squares[1]) / 2)
    assert found["mae_original"] == pytest.approx((10 * sizes[0] + 0.5 * sizes[1]) / 2)
    plain = scores_of(goal, Nothing(), first, second)
    assert plain == {name: found[name] for name in ("mse", "mae", "loss")}


def test_values_of_the_whole_come_as_one_row_of_numbers() -> None:
    goal = ValueGoal(2, steps=3)
    assert goal.output_size == 6
    outputs = torch.cat([SAID.flatten()[None], torch.ones(1, 6)])  # (B, T * V)
    lengths = torch.tensor([3, 0])  # the second only keeps a rank busy
    batch = Batch(torch.zeros(2, 7), lengths + 1, TRUE.expand(2, 3, 2), lengths)
    step = goal.learn(outputs, batch)
    assert step["nll_sum"].item() == pytest.approx(1 + 4 + 0 + 1 + 9 + 9)
    assert step["tokens"] == 6
    assert step["loss"].item() == pytest.approx(24 / 6)
    assert "correct" not in step
    assert torch.equal(goal.answers(outputs, batch)[0], SAID)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_loss_of_values_is_in_single_precision_at_least(v: int, s: int, seed: int) -> None:
    torch.manual_seed(seed)
    outputs, targets = torch.randn(2, s, v), torch.randn(2, s, v)
    batch = batch_of(targets, [s, 1])
    half = ValueGoal(v).learn(outputs.bfloat16(), batch)["loss"]
    assert half.dtype == torch.float32
    rounded = outputs.bfloat16().float() - targets
    expected = torch.cat([rounded[0], rounded[1, :1]]).square().mean()
    torch.testing.assert_close(half, expected)


# --- several labels at once


def test_labels_are_scored_decision_by_decision() -> None:
    goal = LabelsGoal(2)
    outputs = torch.tensor([[[1.0, -1.0], [2.0, 2.0]], [[-1.0, -3.0], [9.0, 9.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])
    batch = batch_of(targets, [2, 1])
    found = scores_of(goal, Nothing(), (outputs, batch))
    # In order: right, right; false alarm, right; missed, right.
    losses = [math.log(1 + math.exp(x)) for x in (-1, -1, 2, -2, 1, -3)]
    assert found["loss"] == pytest.approx(sum(losses) / 6)
    assert found["step_loss"] == pytest.approx(sum(losses) / 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    step = goal.learn(outputs, batch)
    assert step["nll_sum"].item() == pytest.approx(sum(losses))
    assert step["tokens"] == 6
    assert step["correct"] == 4
    rows = goal.answers(outputs, batch)
    assert [row.shape for row in rows] == [(2, 2), (1, 2)]
    assert rows[0][0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_labels_that_training_did_not_have_are_missed() -> None:
    goal, targets = LabelsGoal(1), torch.ones(1, 3, 1)
    missed = torch.tensor([[2, 0, 7]])  # the third step is padding
    batch = batch_of(targets, [2], **{MISSED: missed})
    found = scores_of(goal, Nothing(), (torch.ones(1, 3, 1), batch))
    assert found["accuracy"] == pytest.approx(2 / 4)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert found["loss"] == pytest.approx(math.log(1 + math.exp(-1)))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_micro_f1_is_torchmetrics_over_all_decisions(pairs: list[tuple[bool, bool]]) -> None:
    said, true = (torch.tensor(each).float() for each in zip(*pairs, strict=True))
    outputs = (said * 2 - 1)[None, :, None]
    batch = batch_of(true[None, :, None], [len(pairs)])
    found = scores_of(LabelsGoal(1), Nothing(), (outputs, batch))
    assert found["micro_f1"] == pytest.approx(binary_f1_score(said, true).item())


@pytest.mark.parametrize("known", [True, False])
def test_a_label_that_nobody_can_name_counts_as_wrong(known: bool) -> None:
    labels = torch.tensor([1, 0]) if known else torch.full((2,), UNKNOWN_CLASS)
    tags, label = torch.zeros(2, 2, 2), torch.tensor([[0.0, 9.0], [0.0, 9.0]])
    batch = batch_of(torch.tensor([[0, 1], [1, 0]]), [2, 1], index=torch.arange(2), label=labels)
    found = scores_of(TagGoal(2), Nothing(), ((tags, label), batch))
    assert found["label_accuracy"] == (0.5 if known else 0)
    assert ("label_loss" in found) is known
    assert "label_accuracy" not in scores_of(TagGoal(2), Nothing(), ((tags, None), batch))
