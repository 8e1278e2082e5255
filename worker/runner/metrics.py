"""Telling how a fit goes: training metrics every few steps, validation metrics, progress."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules._ranks import sum_over_ranks
from worker.events import ProgressEvent
from worker.runner.reporter import Reporter
from worker.runner.resume import Continuation

#: What a topology's `training_step` returns of its batch besides the loss: summed negative
#: log-likelihood in nats (of values: squared error), number of targets, number of those predicted
#: right; the last only where a target is one of several things.
SUMS = ("nll_sum", "tokens", "correct")


@dataclass(frozen=True)
class Plan:
    """Say where a fit will end."""

    steps: int
    epochs: int


class MetricReporter(Callback):
    """Report means over the steps since the last report; nothing is read from a device in between.

    Each validation is preceded by a report: its scores then stand behind training's of that step.
    What a window has gathered is part of a checkpoint, so that a resumed fit reports equal points.
    """

    def __init__(
        self, reporter: Reporter, continuation: Continuation, plan: Plan, every: int
    ) -> None:
        self._reporter = reporter
        self._at = continuation
        self._plan = plan
        self._every = every
        #: Sums (3,) of each step of the window: those of all ranks before it was gone on with, and
        #: those of this one.
        self._before: list[list[float]] = []
        self._window: list[Tensor] = []
        #: Target symbols since the clock started; the clock stands still during validations.
        self._clock = 0.0
        self._paused = 0.0
        #: Whether a batch was trained on here: from the first on, a supervisor misses the next one.
        self._going = False

    def state_dict(self) -> dict[str, Any]:
        """Return what the window has gathered on all ranks."""
        return {"window": self._summed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a window."""
        self._before, self._window = list(state_dict["window"]), []

    def on_train_start(self, *_: Any) -> None:
        """Tell that training begins."""
        self._reporter.phase("training")
        self._clock = time.perf_counter()
        self._tell_progress(now=True)

    def on_train_batch_end(
        self, trainer: Trainer, _module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Take the batch into the window, and report a full one."""
        self._window.append(sums_of(outputs))
        if self._at.step % self._every == 0:
            self._report(trainer)
        self._tell_progress(now=not self._going)
        self._going = True

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Report what the window has, and stop the clock."""
        if self._before or self._window:
            self._report(trainer)
        self._paused = time.perf_counter()
        self._tell_progress(now=True)
        self._reporter.phase("validating")

    def on_validation_batch_end(self, *_: Any) -> None:
        """Give a sign of life."""
        self._tell_progress()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Report the validation's metrics."""
        self._clock += time.perf_counter() - self._paused
        self._reporter.metrics(
            validation_metrics(trainer), step=self._at.step, epoch=self._at.epoch
        )
        self._reporter.phase("training")

    def on_train_end(self, *_: Any) -> None:
        """Tell where the fit ended; its last validation has reported the window."""
        self._tell_progress(now=True)

    def _report(self, trainer: Trainer) -> None:
        sums = self._summed()
        nll, tokens, correct = (math.fsum(column) for column in zip(*sums, strict=True))
        timed = math.fsum(row[1] for row in sums[len(self._before) :])
        now = time.perf_counter()
        values = {
            "train/loss": nll / max(tokens, 1),
            **({} if math.isnan(correct) else {"train/accuracy": correct / max(tokens, 1)}),
            "train/lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "train/tokens_per_second": timed / max(now - self._clock, 1e-9),
        }
        self._before, self._window, self._clock = [], [], now
        self._reporter.metrics(values, step=self._at.step, epoch=self._at.epoch)

    def _summed(self) -> list[list[float]]:
        """Return the sums (3,) of each step of the window, over all ranks."""
        if not self._window:
            return self._before
        return self._before + sum_over_ranks(torch.stack(self._window)).tolist()

    def _tell_progress(self, *, now: bool = False) -> None:
        progress = ProgressEvent(self._at.step, self._plan.steps, self._at.epoch, self._plan.epochs)
        self._reporter.progress(progress, now=now)


class EvaluationProgress(Callback):
    """Tell how many batches of a split are scored: for people, and as a sign of life."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._scored = 0

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of the test split."""
        self._count(trainer.num_test_batches)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count a batch of another split."""
        self._count(trainer.num_val_batches)

    def _count(self, batches: Sequence[float]) -> None:
        self._scored += 1
        self._reporter.progress(ProgressEvent(self._scored, int(sum(batches)), 0, 0))


def sums_of(outputs: Mapping[str, Any]) -> Tensor:
    """Return nll_sum, tokens and correct of a training step as one float64 tensor (3,).

    What the step has no number for is not a number.
    """
    sums = (outputs.get(name, math.nan) for name in SUMS)
    device = outputs["nll_sum"].device
    return torch.stack([torch.as_tensor(each, dtype=torch.float64, device=device) for each in sums])


def scoring_facts(model: LightningModule) -> dict[str, str]:
    """Return how the newest scores were computed, where text was scored: sacrebleu's signatures."""
    scored = list(getattr(model, "outputs", {}).values())
    return dict(scored[-1].facts) if scored else {}


def logged_metrics(trainer: Trainer) -> dict[str, float]:
    """Return what a model has logged, by name."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """Return what the newest validation of a fit logged, by name."""
    return {
        name: value
        for name, value in logged_metrics(trainer).items()
        if not name.startswith("train/")
    }
