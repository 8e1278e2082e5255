"""Whatever is chosen for recurrent layers, every topology keeps what it promises."""

import inspect
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._vocab import PAD
from lightning_modules._base import Topology
from lightning_modules._cells import CellName
from lightning_modules._decoding import Search
from lightning_modules._recurrent import Choices
from lightning_modules._text import TextTopology
from tests.doubles.toys import DATA, Toy
from tests.integration.test_topology_contract import FILES, batches, build, public_classes

ALL = {"variational": True, "recurrent_dropout": 0.3, "layer_norm": True, "residual": True}
EACH = [{name: value} for name, value in ALL.items()]
DROPPED = {"dropout": 0.2, "embedding_dropout": 0.2}


def topology_of(name: str) -> type[Topology]:
    (found,) = public_classes(name)
    return found


RECURRENT = [
    name for name in FILES if ALL.keys() <= inspect.signature(topology_of(name)).parameters.keys()
]
TASKS: list[tuple[str, Task]] = [
    (name, task) for name in RECURRENT for task in sorted(topology_of(name).accepts)
]
each_task = pytest.mark.parametrize(("name", "task"), TASKS)
each_cell = pytest.mark.parametrize("cell", get_args(CellName))


def made(name: str, task: Task, **params: Any) -> tuple[Topology, Toy]:
    data = DATA[task]()
    return build(topology_of(name), data, layers=2, **params), data


def test_every_topology_but_the_one_without_layers_offers_them() -> None:
    assert set(FILES) - set(RECURRENT) == {"single_layer"}
    assert set(vars(Choices())) == ALL.keys()


@each_task
@each_cell
def test_every_parameter_gets_a_gradient(name: str, task: Task, cell: CellName) -> None:
    model, data = made(name, task, cell=cell, **ALL, **DROPPED)
    for batch in batches(data):
        model.training_step(batch, 0)["loss"].backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@each_task
@each_cell
def test_padding_and_order_of_rows_change_nothing(name: str, task: Task, cell: CellName) -> None:
    model, data = made(name, task, cell=cell, **ALL)
    model.double().eval()
    order = np.random.default_rng(1).permutation(6).tolist()
    plain, shuffled = (as_double(data.collate("train", rows)) for rows in (range(6), order))
    one, other = (model.training_step(each, 0) for each in (plain, wider(shuffled, 3)))
    torch.testing.assert_close(one["nll_sum"], other["nll_sum"])


def as_double(batch: Batch) -> Batch:
    targets = batch.targets
    floating = targets is not None and targets.is_floating_point()
    return replace(
        batch,
        inputs=batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs,
        targets=targets.double() if floating else targets,
    )


def wider(batch: Batch, extra: int) -> Batch:
    """Return a batch with more padding behind its inputs, where they are sequences."""
    assert batch.targets is not None
    if bool((batch.lengths == 1).all()):
        return batch
    steps = (0, 0, 0, extra) if batch.inputs.ndim == 3 else (0, extra)
    inputs = pad(batch.inputs, steps, value=7.5 if batch.inputs.is_floating_point() else PAD)
    one_a_step = batch.targets.shape[:2] == batch.inputs.shape[:2]
    if not one_a_step:
        return replace(batch, inputs=inputs)
    steps = (0, 0, 0, extra) if batch.targets.ndim == 3 else (0, extra)
    return replace(batch, inputs=inputs, targets=pad(batch.targets, steps, value=0))


@each_task
@pytest.mark.parametrize("choice", EACH, ids=lambda choice: next(iter(choice)))
def test_each_changes_what_is_computed(name: str, task: Task, choice: dict[str, Any]) -> None:
    losses = []
    for chosen in ({}, choice):
        model, data = made(name, task, **chosen, **DROPPED)
        torch.manual_seed(5)
        losses.append(model.training_step(batches(data)[0], 0)["loss"].item())
    assert losses[0] != losses[1]


@each_task
def test_they_train_in_half_precision(name: str, task: Task) -> None:
    model, data = made(name, task, **ALL)
    batch = batches(data)[0]
    single = model.eval().training_step(batch, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.training_step(batch, 0)["loss"]
    torch.testing.assert_close(half, single, atol=0.1, rtol=0.05)
    half.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("name", "task"), [each for each in TASKS if each[1][1] == "tokens"])
@each_cell
def test_what_is_written_has_the_score_of_teacher_forcing(
    name: str, task: Task, cell: CellName
) -> None:
    model, data = made(name, task, cell=cell, **ALL)
    assert isinstance(model.double().eval(), TextTopology)
    batch = as_double(data.collate("train", range(3)))
    how = Search(beam=3, n_best=3, max_length=5)
    for row, hypotheses in enumerate(model.generate(batch, how)):
        assert len(hypotheses) == 3
        for hypothesis in hypotheses:
            ids = torch.tensor([hypothesis.ids])
            lengths = batch.lengths[row : row + 1]
            inputs = batch.inputs[row : row + 1, : int(lengths)]
            forced = Batch(inputs, lengths, ids, torch.tensor([ids.shape[1]]))
            logp = torch.log_softmax(model(forced), dim=-1).gather(1, ids.T).sum().item()
            assert hypothesis.score == pytest.approx(logp / how.penalty(ids.shape[1]), abs=1e-5)


@each_cell
def test_sequences_that_begin_with_silence_have_gradients_of_the_usual_size(cell: CellName) -> None:
    def norm(silent: int) -> float:
        model, data = made("many_to_one", ("frames", "label"), cell=cell, layer_norm=True)
        (batch, *_) = batches(data)
        frames = torch.randn(len(batch.inputs), 30, batch.inputs.shape[2])
        frames[:, :silent] = 0
        batch = replace(batch, inputs=frames, lengths=torch.full_like(batch.lengths, 30))
        model.training_step(batch, 0)["loss"].backward()
        return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))

    assert norm(12) < 20 * norm(0)  # 1e10 times where every step passes 1 / sqrt(1e-5) on
