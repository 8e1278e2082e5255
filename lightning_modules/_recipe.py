"""How a model is optimised: what of `[trainer]` concerns weights, and the learning rate's curve."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules._errors import ModelError

Schedule = Literal["cosine", "constant", "linear", "inverse_sqrt"]


class SchedulerConfig(TypedDict):
    """Lightning's form of "this scheduler moves after every optimiser step"."""

    scheduler: LambdaLR
    interval: Literal["step"]


class Optimisers(TypedDict):
    """Lightning's form of one optimiser with its scheduler."""

    optimizer: Optimizer
    lr_scheduler: SchedulerConfig


@dataclass(frozen=True)
class Recipe:
    """Say how the weights are optimised; the runner sets it before the fit."""

    #: Learning rate at its peak, after the warm-up.
    lr: float = 2e-3
    #: Decay of Adam's two moments.
    betas: tuple[float, float] = (0.9, 0.98)
    #: Decoupled weight decay (AdamW), of matrices only.
    weight_decay: float = 0.0
    #: Optimiser steps over which the rate rises linearly from zero to its peak.
    warmup_steps: int = 200
    #: Shape of the rate after the warm-up.
    schedule: Schedule = "cosine"
    #: What remains of the peak at the end of a cosine or linear schedule.
    final_lr_fraction: float = 0.03
    #: Optimiser steps of the whole training; 0 where unknown, which only two schedules allow.
    total_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what no optimiser can follow."""
        if self.schedule not in get_args(Schedule):
            raise ModelError(
                f"schedule is {self.schedule!r}; it must be one of {', '.join(get_args(Schedule))}"
            )
        if self.schedule in {"cosine", "linear"} and self.total_steps < 1:
            raise ModelError(
                f"schedule {self.schedule!r} needs the number of steps of the whole training; "
                "set max_epochs or max_steps, or choose 'constant' or 'inverse_sqrt'"
            )

    def factor(self, step: int) -> float:
        """Return the learning rate of optimiser step `step` (from 0) as a fraction of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "inverse_sqrt":  # Vaswani et al. 2017, section 5.3
            return math.sqrt((self.warmup_steps + 1) / (step + 1))
        share = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.final_lr_fraction + (1 - self.final_lr_fraction) * self._descent(min(share, 1))

    def _descent(self, share: float) -> float:
        if self.schedule == "linear":
            return 1 - share
        return 0.5 * (1 + math.cos(math.pi * share))  # Loshchilov & Hutter 2017

    def optimisers(self, parameters: Iterable[nn.Parameter]) -> Optimisers:
        """Return AdamW over these parameters with a schedule that moves every step."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = AdamW(
            [g for g in groups if g["params"]], lr=self.lr, betas=self.betas, fused=True
        )
        # A plain function: LambdaLR then keeps it out of the checkpoint.
        curve: Callable[[int], float] = lambda step: self.factor(step)  # noqa: E731, PLW0108 (see above)
        scheduler = LambdaLR(optimiser, curve)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
