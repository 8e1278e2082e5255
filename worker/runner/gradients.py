"""Bounding the gradient, and refusing to go on where it is no number."""

import math

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from worker.runner.reasons import NonFinite


class GradientGuard(Callback):
    """Clip the gradient's norm, and raise NonFinite before a bad one reaches the weights.

    One norm serves both. On an accelerator, reading it would stop the queue at every step: there it
    is read every `look_every` steps and before every checkpoint, so that none holds bad weights.
    """

    def __init__(self, clip: float | None, look_every: int = 16) -> None:
        self._clip = math.inf if clip is None else clip
        self._look_every = look_every
        self._unread: list[Tensor] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, _module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Clip, and look at the norm where that costs nothing."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        self._unread.append(norm)
        if norm.device.type == "cpu" or len(self._unread) >= self._look_every:
            self.look(trainer.global_step)

    def look(self, step: int) -> None:
        """Raise NonFinite if a gradient since the last look was not a number."""
        unread, self._unread = self._unread, []
        if unread and not math.isfinite(float(torch.stack(unread).sum())):
            raise NonFinite(
                f"the gradient was not a number after step {step}; a smaller trainer.lr, more "
                "trainer.warmup_steps or trainer.precision='fp32' may help"
            )
