"""What a model that writes on puts at each step: a symbol or a frame that is drawn, or a mean.

Shapes: N rows, O numbers of an output (V symbols, or F features), K numbers of chance a step.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from datamodules._vocab import BOS, PAD, UNK
from lightning_modules._errors import ModelError
from lightning_modules._goals import Goal, LabelsGoal, SymbolGoal
from lightning_modules._sampling import Sampling

#: Symbols that stand for no text: they are never drawn.
_NEVER: Final = (PAD, BOS, UNK)


class NextStep(ABC):
    """Turn what a model says of the next step into the step itself."""

    #: How many numbers of chance decide a step, K.
    chances: int

    @abstractmethod
    def __call__(self, outputs: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step, (N,) or (N, F), and the model's log-probability of it, (N,).

        `outputs` are float64 (N, O), `chances` float64 (N, K), in [0, 1), both on the CPU.
        """


class DrawnSymbol(NextStep):
    """A symbol, drawn as `Sampling` says."""

    chances = 1

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling

    def __call__(self, outputs: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Return symbols, int64 (N,)."""
        known = torch.log_softmax(outputs, dim=-1)
        allowed = known.index_fill(1, torch.tensor(_NEVER), -math.inf)
        symbols = self._sampling.draw(allowed, chances[:, 0])
        return symbols, known.gather(1, symbols[:, None]).squeeze(1)


class DrawnFrame(NextStep):
    """A frame of 0 and 1, each feature drawn for itself: p(x_k = 1) = σ(o_k / temperature)."""

    def __init__(self, features: int, temperature: float) -> None:
        self.chances = features
        self._temperature = temperature

    def __call__(self, outputs: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames, float64 (N, F)."""
        frames = (chances < torch.sigmoid(outputs / self._temperature)).double()
        losses = F.binary_cross_entropy_with_logits(outputs, frames, reduction="none")
        return frames, -losses.sum(dim=-1)


class MeanFrame(NextStep):
    """The frame that the model expects: it has no probability, so that is given as 1."""

    chances = 0

    def __call__(self, outputs: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 (nothing is drawn)
        """Return frames, float64 (N, F)."""
        return outputs, outputs.new_zeros(len(outputs))


def next_step_of(goal: Goal[Any, Any], sampling: Sampling) -> NextStep:
    """Return how the next step follows from what is learned. Raise ModelError for a misfit."""
    if isinstance(goal, SymbolGoal):
        return DrawnSymbol(sampling)
    if sampling.top_k or sampling.top_p < 1:
        raise ModelError(
            "top_k and top_p choose among symbols, and this model writes frames: leave them out"
        )
    if isinstance(goal, LabelsGoal):
        return DrawnFrame(goal.output_size, sampling.temperature)
    if sampling.temperature != 1:
        raise ModelError(
            "temperature is for what is drawn, and this model writes the frames that it expects:"
            " leave it out"
        )
    return MeanFrame()
