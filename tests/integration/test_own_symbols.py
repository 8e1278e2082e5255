"""Scheduled sampling in whole models: the parallel pass learns what the serial one would."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._vocab import BOS, EOS, PAD
from lightning_modules._decoding import Search
from lightning_modules._losses import symbol_losses
from lightning_modules._recipe import Recipe
from lightning_modules._text import TextTopology, previous_symbols
from tests.doubles.toys import DATA
from tests.integration.test_topology_contract import FILES, build, public_classes

STEPS = 10
WRITERS: list[tuple[str, Task]] = [
    (name, task)
    for name in FILES
    for (topology,) in [public_classes(name)]
    if issubclass(topology, TextTopology)
    for task in sorted(topology.accepts)
    if task[1] == "tokens"
]
each_writer = pytest.mark.parametrize(("name", "task"), WRITERS)


def made(name: str, task: Task, **params: Any) -> tuple[TextTopology, Batch]:
    """Return a model in training, and a batch whose rows all have as many targets."""
    data = DATA[task]()
    (topology,) = public_classes(name)
    model = build(topology, data, label_smoothing=0.0, **params)
    assert isinstance(model, TextTopology)
    model.recipe = Recipe(total_steps=STEPS)
    batch = data.collate("train", range(4))
    assert batch.targets is not None
    full = torch.full_like(batch.lengths, batch.targets.shape[1])
    return model, replace(batch, target_lengths=full)


def true_symbols(batch: Batch) -> Tensor:
    assert batch.targets is not None
    return batch.targets


def loss_of(model: TextTopology, batch: Batch, read: Tensor) -> Tensor:
    return symbol_losses(model(batch, read), true_symbols(batch).flatten(), 0.0).mean


@pytest.fixture
def last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models think that they train for the last time."""
    monkeypatch.setattr(TextTopology, "global_step", STEPS - 1)


def test_every_topology_that_writes_offers_it() -> None:
    assert {"attention_encoder_decoder", "encoder_decoder", "one_to_many"} <= dict(WRITERS).keys()
    for name, _ in WRITERS:
        (topology,) = public_classes(name)
        assert "scheduled_sampling" in inspect.signature(topology).parameters


@each_writer
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.usefixtures("last_step")
def test_a_step_learns_from_what_the_serial_training_would_read(
    name: str, task: Task, share: float
) -> None:
    model, batch = made(name, task, scheduled_sampling=share, cell="lstm", layers=2)
    targets = true_symbols(batch)
    torch.manual_seed(4)
    coins, chances = torch.rand(2, *targets.shape)
    read = torch.full_like(targets, PAD)
    read[:, 0] = BOS
    for at in range(targets.shape[1] - 1):
        # One symbol after the other, each from a pass over all that was read before.
        logits = model(batch, read).view(*targets.shape, -1)[:, at]
        reached = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
        drawn = (reached <= chances[:, at, None]).sum(dim=-1)
        read[:, at + 1] = torch.where(coins[:, at] < share, drawn, targets[:, at])
    assert not torch.equal(read, previous_symbols(targets))
    torch.manual_seed(4)
    found = model.training_step(batch, 0)["loss"]
    expected = loss_of(model, batch, read)
    torch.testing.assert_close(found, expected)
    names, weights = zip(*model.named_parameters(), strict=True)
    pairs = zip(*(torch.autograd.grad(loss, weights) for loss in (found, expected)), strict=True)
    for each, (one, other) in zip(names, pairs, strict=True):
        torch.testing.assert_close(one, other, msg=each)
    assert model.training


@each_writer
@pytest.mark.usefixtures("last_step")
def test_with_its_own_symbols_alone_a_model_runs_freely(name: str, task: Task) -> None:
    model, batch = made(name, task, scheduled_sampling=1.0)
    with torch.no_grad():  # the most probable symbol is then as good as certain
        model.output.weight.mul_(1e4)
        model.output.bias[[PAD, BOS]] = -1e9
    read = model.own_or_true(batch)
    assert read is not None
    limit = read.shape[1] - 1
    for row, (best,) in enumerate(model.generate(batch, Search(max_length=limit))):
        written = [*best.ids[: best.ids.index(EOS) + 1]][:limit]
        assert read[row, : len(written) + 1].tolist() == [BOS, *written]


@each_writer
def test_the_first_step_reads_the_true_symbols(name: str, task: Task) -> None:
    model, batch = made(name, task, scheduled_sampling=1.0)
    before = torch.get_rng_state()
    found = model.training_step(batch, 0)["loss"]
    assert torch.equal(torch.get_rng_state(), before)
    expected = loss_of(model, batch, previous_symbols(true_symbols(batch)))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@each_writer
@pytest.mark.usefixtures("last_step")
def test_scores_are_those_of_the_true_symbols(name: str, task: Task) -> None:
    losses = []
    for share in (0.0, 1.0):
        model, batch = made(name, task, scheduled_sampling=share)
        losses.append(model.eval().training_step(batch, 0)["loss"].item())
    assert losses[0] == losses[1]


@each_writer
@pytest.mark.usefixtures("last_step")
def test_drawing_in_half_precision_takes_no_gradient_away(name: str, task: Task) -> None:
    gradients = []
    for share in (0.0, 1e-30):  # so small a share that no coin falls that way
        model, batch = made(name, task, scheduled_sampling=share)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_step(batch, 0)["loss"]
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert loss.isfinite()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
