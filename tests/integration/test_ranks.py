"""Two ranks are as good as one process: the same losses, the same weights, the same scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules._base import Task
from datamodules._batch import Batch
from lightning_modules._losses import mean_of
from lightning_modules._ranks import (
    any_over_ranks,
    gather,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)
from lightning_modules._tagging import TagGoal
from lightning_modules._text import targets_of
from tests.doubles.ranks import Ranks, fit, validate
from tests.doubles.topologies import cases

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated",  # Lightning's own use of torch's pytree
    "ignore:The .* does not have many workers",
)

LOSSES = torch.tensor([1.0, 4.0, 2.5, 0.5, 3.0])


def say() -> dict[str, Any]:
    """Return what each function says to this rank."""
    return {
        "who": (rank(), world_size()),
        "sum": sum_over_ranks(torch.tensor([[1.0, rank()]], dtype=torch.float64)).tolist(),
        "any": any_over_ranks(False, rank() == 1, rank() == 0, True),
        "gather": gather({"mine": [rank()] * (1 + 50 * rank()), "t": torch.full((2,), rank())}),
    }


def mean_of_a_share(shares: list[list[int]]) -> tuple[float, list[float]]:
    """Return the loss of this rank's share of `LOSSES`, and its gradient by all of them."""
    losses = LOSSES.clone().requires_grad_()
    mine = shares[rank()]
    loss = mean_over_ranks(mean_of(losses[mine]), len(mine))
    loss.backward()
    assert losses.grad is not None
    return loss.item(), losses.grad.tolist()


def test_alone_a_rank_talks_to_itself() -> None:
    assert say() == {
        "who": (0, 1),
        "sum": [[1.0, 0.0]],
        "any": [False, False, True, True],
        "gather": [{"mine": [0], "t": pytest.approx([0, 0])}],
    }
    assert mean_over_ranks(LOSSES.mean(), len(LOSSES)) == LOSSES.mean()


def test_ranks_hear_each_other(pair: Ranks, tmp_path: Path) -> None:
    for number, said in enumerate(pair.together(tmp_path, say)):
        assert said["who"] == (number, 2)
        assert said["sum"] == [[2.0, 1.0]]
        assert said["any"] == [False, True, True, True]
        first, second = said["gather"]
        assert (first["mine"], second["mine"]) == ([0], [1] * 51)
        assert (first["t"].tolist(), second["t"].tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3]], [[0, 1, 2, 3, 4], []]])
def test_the_mean_gradient_of_shares_is_that_of_the_whole(
    pair: Ranks, tmp_path: Path, shares: list[list[int]]
) -> None:
    (first, first_slope), (second, second_slope) = pair.together(tmp_path, mean_of_a_share, shares)
    assert (first + second) / 2 == pytest.approx(LOSSES.mean().item())
    slopes = (torch.tensor(first_slope) + torch.tensor(second_slope)) / 2
    torch.testing.assert_close(slopes, torch.full((5,), 0.2))


def slopes_of_tags() -> list[Tensor]:
    """Return the gradient of both heads by the logits of all rows, of this rank's share of them."""
    generator = torch.Generator().manual_seed(4)
    tags, labels = (torch.randn(shape, generator=generator) for shape in ((3, 4, 3), (3, 2)))
    lengths = torch.tensor([4, 1, 2])
    whole = Batch(
        torch.zeros(3, 4),
        lengths,
        torch.tensor([[0, 1, 2, 0], [1, 0, 0, 0], [2, 2, 0, 0]]),
        lengths,
        {"label": torch.tensor([1, 0, 1])},
    )
    mine = slice(rank(), None, world_size())
    share = Batch(
        whole.inputs[mine],
        lengths[mine],
        targets_of(whole)[0][mine],
        lengths[mine],
        {"label": whole.extras["label"][mine]},
    )
    heads = tags.requires_grad_(), labels.requires_grad_()
    TagGoal(3).learn((heads[0][mine], heads[1][mine]), share)["loss"].backward()
    return [sum_over_ranks(each.grad) / world_size() for each in heads if each.grad is not None]


def test_each_head_counts_its_own_targets(pair: Ranks, tmp_path: Path) -> None:
    for slopes in pair.together(tmp_path, slopes_of_tags):
        torch.testing.assert_close(slopes, slopes_of_tags())


def test_a_folder_is_met_in_again(pair: Ranks, tmp_path: Path) -> None:
    for _ in range(3):
        assert [said["who"] for said in pair.together(tmp_path, say)] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("case", cases())
def test_two_ranks_train_as_one_process_does(
    pair: Ranks, tmp_path: Path, case: tuple[str, Task]
) -> None:
    alone = fit(tmp_path, *case)
    first, second = pair.together(tmp_path, fit, tmp_path, *case)
    assert_same_weights(first["weights"], second["weights"], atol=0.0)
    assert first["scores"] == second["scores"]
    curves = (torch.tensor(each["curve"], dtype=torch.float64) for each in (first, alone))
    torch.testing.assert_close(*curves, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert_same_weights(first["weights"], alone["weights"], atol=1e-4)
    assert first["scores"].keys() == alone["scores"].keys()


def assert_same_weights(left: dict[str, Tensor], right: dict[str, Tensor], atol: float) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=atol)


@pytest.mark.parametrize("case", cases())
def test_two_ranks_score_as_one_process_does(
    pair: Ranks, tmp_path: Path, case: tuple[str, Task]
) -> None:
    alone = validate(tmp_path, *case)
    for scores in pair.together(tmp_path, validate, tmp_path, *case):
        # The sums of squared errors are added in another order, and may differ in the last digit.
        assert scores == pytest.approx(alone, rel=1e-14, abs=0)
        counts = {"accuracy", "bleu", "chrf", "exact_match", "f1", "macro_f1", "micro_f1"}
        for name, value in scores.items():
            assert value == alone[name] or name.split("/")[1] not in counts
