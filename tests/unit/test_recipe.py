"""The learning rate follows its curve, and decay spares biases."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules._errors import ModelError
from lightning_modules._recipe import Recipe, Schedule


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant", "inverse_sqrt"]),
    warmup=st.integers(0, 50),
    total=st.integers(1, 300),
)
@settings(deadline=None)
def test_rises_to_the_peak_and_never_rises_again(
    schedule: Schedule, warmup: int, total: int
) -> None:
    recipe = Recipe(schedule=schedule, warmup_steps=warmup, total_steps=total)
    curve = [recipe.factor(step) for step in range(total + 60)]
    assert all(0 < value <= 1 for value in curve)
    assert curve[:warmup] == sorted(curve[:warmup])
    assert curve[warmup] == pytest.approx(1)
    assert curve[warmup:] == sorted(curve[warmup:], reverse=True)


def test_values_at_known_steps() -> None:
    cosine = Recipe(warmup_steps=100, total_steps=1100, final_lr_fraction=0.1)
    linear = Recipe(schedule="linear", warmup_steps=0, total_steps=100, final_lr_fraction=0.0)
    root = Recipe(schedule="inverse_sqrt", warmup_steps=99)
    assert [cosine.factor(step) for step in (100, 600, 1100, 9999)] == pytest.approx(
        [1, 0.55, 0.1, 0.1]
    )
    assert [linear.factor(step) for step in (0, 25, 100)] == pytest.approx([1, 0.75, 0])
    assert root.factor(399) == pytest.approx(0.5)


def test_every_optimiser_step_moves_the_rate() -> None:
    recipe = Recipe(lr=0.5, schedule="linear", warmup_steps=1, total_steps=3, weight_decay=0.1)
    layer = nn.Linear(2, 2)
    built = recipe.optimisers(layer.parameters())
    optimiser, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(4):
        rates.append(optimiser.param_groups[0]["lr"])
        layer(torch.ones(2)).sum().backward()
        optimiser.step()
        scheduler.step()
    assert rates == pytest.approx([0.5 * recipe.factor(step) for step in range(4)])
    decays = {g["params"][0].ndim: g["weight_decay"] for g in optimiser.param_groups}
    assert decays == {2: 0.1, 1: 0.0}


def test_a_saved_schedule_holds_plain_values_only(tmp_path) -> None:
    built = Recipe(total_steps=5).optimisers(nn.Linear(2, 2).parameters())
    state = built["lr_scheduler"]["scheduler"].state_dict()
    torch.save(state, tmp_path / "state.pt")
    with warnings.catch_warnings(action="error"):
        assert torch.load(tmp_path / "state.pt", weights_only=True) == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "must be one of cosine"),
        ({"schedule": "cosine", "total_steps": 0}, "needs the number of steps"),
        ({"schedule": "linear", "total_steps": 0}, "needs the number of steps"),
    ],
)
def test_refuses_a_schedule_it_cannot_follow(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Recipe(**options)


def test_steps_are_those_of_adamw() -> None:
    torch.manual_seed(3)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    recipe = Recipe(lr=0.05, schedule="constant", warmup_steps=0, weight_decay=0.1)
    groups = [
        {"params": [theirs.weight], "weight_decay": 0.1},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), foreach=False, fused=False)
    for optimiser, layer in (
        (recipe.optimisers(ours.parameters())["optimizer"], ours),
        (reference, theirs),
    ):
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            optimiser.zero_grad()
            layer(torch.randn(6, 4, generator=generator)).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
