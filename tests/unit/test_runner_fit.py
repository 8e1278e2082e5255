"""What the callbacks of a fit compute, without a fit."""

import math
import random
import resource
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from torch import nn

from jobs.errors import ArtifactError, SpecError
from jobs.job import Reason
from jobs.spec import TrainerOptions
from lightning_modules._recipe import Recipe
from worker.runner.checkpoints import Shelf, write_checkpoint
from worker.runner.gradients import GradientGuard
from worker.runner.lightning_setup import Unprofiled, make_trainer
from worker.runner.metrics import sums_of
from worker.runner.reasons import NonFinite, reason_of
from worker.runner.resume import (
    Continuation,
    Position,
    Saved,
    random_states,
    restore_optimisers,
    set_random_states,
)
from worker.runner.selection import Selection


def saved_at(step: int, **fields: Any) -> Saved:
    empty: dict[str, Any] = {
        "weights": {"w": torch.arange(3.0)},
        "hyper_parameters": {"size": 3},
        "optimisers": [],
        "schedulers": [],
        "random": [random_states()],
        "memory": {},
        "data": {"words": ["a", "ß"]},
        "spec": {"kind": "train"},
        "trainer": {"lr": 1e-3},
    }
    return Saved(position=Position(1, 2, step), **{**empty, **fields})


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(())), random.gauss(0, 1)]


def test_random_generators_go_on_where_they_were() -> None:
    draw()
    states = random_states()
    expected = [draw(), draw()]
    set_random_states(states)
    assert [draw(), draw()] == expected


def test_a_checkpoint_is_written_whole_and_read_back(tmp_path: Path) -> None:
    saved = saved_at(7)
    path = tmp_path / "step-00000007.ckpt"
    digest = write_checkpoint(path, saved)
    assert len(digest) == 64
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    again = Saved.read(path)
    assert again.position == saved.position
    assert again.data == saved.data
    assert torch.equal(again.weights["w"], saved.weights["w"])
    set_random_states(again.random[0])


def test_a_checkpoint_of_before_there_were_ranks_is_still_read(tmp_path: Path) -> None:
    old = {**saved_at(7).to_dict(), "format": 1, "random": random_states()}
    torch.save(old, tmp_path / "x.ckpt")
    (states,) = Saved.read(tmp_path / "x.ckpt").random
    expected = draw()
    set_random_states(states)
    assert draw() == expected


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, TypeError)):
        write_checkpoint(tmp_path / "x.ckpt", saved_at(1, data={"x": lambda: None}))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_named_as_the_cause(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_checkpoint(tmp_path / "x.ckpt", saved_at(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert reason_of(caught.value) is Reason.INFRASTRUCTURE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x02]q\x00."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises((ArtifactError, SpecError), match=r"x\.ckpt is"):
        Saved.read(path)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"format": 1, "x": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(ArtifactError):
        Saved.read(tmp_path / "x.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_shelf_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    told: list[Any] = []
    shelf = Shelf(tmp_path, SimpleNamespace(checkpoint=told.append))  # type: ignore[arg-type]
    (tmp_path / "step-00000000.ckpt").touch()  # of an earlier run: not this one's to clear
    kept = []
    for step, score in ((1, 0.5), (2, None), (3, None), (4, 0.7), (5, None)):
        shelf.put(saved_at(step), epoch=1, score=score)
        kept.append({int(path.stem[5:]) for path in tmp_path.iterdir()})
    assert kept == [{0, 1}, {0, 1, 2}, {0, 1, 3}, {0, 4}, {0, 4, 5}]
    assert [(each.step, each.best, each.score) for each in told] == [
        (1, True, 0.5),
        (2, False, None),
        (3, False, None),
        (4, True, 0.7),
        (5, False, None),
    ]


def optimised(lr: float, steps: int) -> tuple[nn.Linear, Any]:
    """Return a layer and what a trainer has of it after some steps."""
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    configured = Recipe(lr=lr, warmup_steps=2, total_steps=10).optimisers(layer.parameters())
    trainer = SimpleNamespace(
        optimizers=[configured["optimizer"]],
        lr_scheduler_configs=[SimpleNamespace(**configured["lr_scheduler"])],
    )
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
        configured["optimizer"].zero_grad()
    return layer, trainer


def captured(trainer: Any) -> Saved:
    return saved_at(
        4,
        optimisers=[each.state_dict() for each in trainer.optimizers],
        schedulers=[each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
    )


def test_an_optimiser_goes_on_as_if_it_had_never_stopped() -> None:
    _, before = optimised(1e-2, 4)
    _, after = optimised(1e-2, 0)
    restore_optimisers(after, captured(before))
    assert captured(after).schedulers == captured(before).schedulers
    left, right = captured(after).optimisers[0], captured(before).optimisers[0]
    assert left["param_groups"] == right["param_groups"]
    for key, state in right["state"].items():
        assert torch.equal(left["state"][key]["exp_avg"], state["exp_avg"])
        assert left["state"][key]["step"] == state["step"] == 4


def test_what_the_new_spec_says_of_rates_holds() -> None:
    _, before = optimised(1e-2, 4)
    _, after = optimised(5e-3, 0)
    restore_optimisers(after, captured(before))
    factor = Recipe(warmup_steps=2, total_steps=10).factor(4)
    rates = [group["lr"] for group in after.optimizers[0].param_groups]
    assert rates == [5e-3 * factor] * len(rates)
    assert after.lr_scheduler_configs[0].scheduler.get_last_lr() == rates


@pytest.mark.parametrize("clip", [0.5, None])
def test_the_gradient_is_clipped_as_torch_does(clip: float | None) -> None:
    layer, trainer = optimised(1e-2, 0)
    layer(torch.full((1, 3), 9.0)).sum().backward()
    before = [each.grad.clone() for each in layer.parameters() if each.grad is not None]
    norm = torch.stack([each.norm() for each in before]).norm()
    GradientGuard(clip).on_before_optimizer_step(
        SimpleNamespace(global_step=0),  # type: ignore[arg-type]
        layer,  # type: ignore[arg-type]
        trainer.optimizers[0],
    )
    scale = 1.0 if clip is None else min(1.0, clip / float(norm))
    for each, old in zip(layer.parameters(), before, strict=True):
        torch.testing.assert_close(each.grad, old * scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_no_number_is_stopped_before_the_weights(
    bad: float, clip: float | None
) -> None:
    layer, trainer = optimised(1e-2, 0)
    layer(torch.tensor([[1.0, bad, 1.0]])).sum().backward()
    with pytest.raises(NonFinite, match="after step 12"):
        GradientGuard(clip).on_before_optimizer_step(
            SimpleNamespace(global_step=12),  # type: ignore[arg-type]
            layer,  # type: ignore[arg-type]
            trainer.optimizers[0],
        )


def test_the_sums_of_a_step_keep_every_digit() -> None:
    outputs = {"nll_sum": torch.tensor(3.5), "tokens": 2**25 + 1, "correct": torch.tensor(3)}
    assert sums_of(outputs).tolist() == [3.5, 2**25 + 1, 3]


def test_a_step_that_chose_nothing_was_neither_right_nor_wrong() -> None:
    nll, tokens, correct = sums_of({"nll_sum": torch.tensor(3.5), "tokens": 2}).tolist()
    assert (nll, tokens) == (3.5, 2)
    assert math.isnan(correct)


class Fit:
    """Just enough of a trainer for the callbacks that choose models."""

    def __init__(
        self,
        values: list[float],
        mode: str = "max",
        losses: Sequence[float] = (),
        **options: Any,
    ) -> None:
        self.at = Continuation(None, {})
        resolved = TrainerOptions(max_epochs=99, **options).resolved()
        self.selection = Selection(self.at, resolved, "val/x", mode)  # type: ignore[arg-type]
        self.trainer: Any = SimpleNamespace(
            callback_metrics={}, should_stop=False, lightning_module=object()
        )
        self.best: list[bool] = []
        for step, value in enumerate(values, 1):
            self.at._step = step
            self.trainer.callback_metrics = {"val/x": torch.tensor(value), "train/y": 1}
            if losses:
                self.trainer.callback_metrics["val/loss"] = torch.tensor(losses[step - 1])
            self.selection.on_validation_end(self.trainer, None)  # type: ignore[arg-type]
            self.best.append(self.selection.is_best)


def test_the_best_model_is_strictly_better_in_the_topologys_sense() -> None:
    assert Fit([1.0, 3.0, 3.0, 2.0, 4.0]).best == [True, True, False, False, True]
    assert Fit([3.0, 1.0, 1.0, 2.0], mode="min").best == [True, True, False, False]
    nan = Fit([float("nan"), 1.0])
    assert nan.best == [False, True]
    assert nan.selection.metrics == {"val/x": 1.0}


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    found = Fit([1.0, 1.0, 1.0, 1.0, 0.5], losses=[3.0, 2.0, 2.0, float("nan"), 0.1])
    assert found.best == [True, True, False, False, False]
    assert found.selection.step == 2


def test_patience_counts_validations_since_the_best() -> None:
    assert not Fit([2.0, 1.0, 3.0, 1.0], patience=2).trainer.should_stop
    assert Fit([2.0, 1.0, 3.0, 1.0, 3.0], patience=2).trainer.should_stop
    assert not Fit([2.0] * 50).trainer.should_stop


def test_a_monitor_that_nobody_logs_is_told() -> None:
    fit = Fit([])
    fit.trainer.callback_metrics = {"val/loss": torch.tensor(1.0)}
    with pytest.raises(SpecError, match=r"by val/x, which .* \(it gave: val/loss\)"):
        fit.selection.on_validation_end(fit.trainer, None)  # type: ignore[arg-type]


def test_a_position_points_at_the_next_batch() -> None:
    at = Continuation(saved_at(7), {})
    assert at.position == Position(1, 2, 7)
    trainer: Any = SimpleNamespace(current_epoch=1, num_training_batches=2, global_step=8)
    at.on_train_epoch_start(trainer)
    at.on_train_batch_end(trainer)
    assert (at.position, at.epoch_is_over) == (Position(1, 3, 8), False)
    trainer.global_step = 9
    at.on_train_batch_end(trainer)
    assert (at.position, at.epoch_is_over) == (Position(2, 0, 9), True)


def test_lightning_still_calls_the_hooks_that_are_used() -> None:
    used = {
        name
        for each in (Continuation, GradientGuard, Selection)
        for name in vars(each)
        if name.startswith("on_")
    }
    assert used
    assert [name for name in used if not hasattr(Callback, name)] == []


def test_lightning_profiles_nothing_however_deep_its_hooks_lie(tmp_path: Path) -> None:
    profiler: Any = make_trainer(tmp_path, torch.device("cpu"), "32-true", []).profiler
    assert type(profiler) is Unprofiled
    with profiler.profile("run_training_batch") as outer, profiler.profile("[Callback]x") as inner:
        assert outer is inner is None
