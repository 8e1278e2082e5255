"""Scheduled sampling: in training, some of the symbols a model reads are its own.

Bengio, Vinyals, Jaitly & Shazeer 2015, "Scheduled sampling for sequence prediction with recurrent
neural networks": before each y_i a coin decides whether the true y_{i-1} is read or one that the
model draws, given all it has read so far. No gradient flows through what was drawn, so that one
serial pass without gradients, which draws, and one parallel pass over the symbols it chose learn
exactly what the serial training would. They are drawn without dropout, as the model will write.

The share of the model's own symbols grows linearly over the training, from 0 at its first step to
`scheduled_sampling` at its last (the paper's linear decay): a function of the step alone, so that a
run that is resumed goes on as it would have. All chance comes from torch's generator.

Shapes: B sentences, T target positions.
"""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor
from typing_extensions import Doc

from datamodules._vocab import BOS
from lightning_modules._decoding import StepDecoder
from lightning_modules._sampling import Sampling

ScheduledSampling = Annotated[
    float,
    Interval(ge=0, le=1),
    Doc(
        "share of previous symbols that are the model's own draws at the end of training, growing "
        "linearly from 0; 0: all are the true ones"
    ),
]


def own_share(final: float, step: int, total_steps: int) -> float:
    """Return the share of own symbols at optimiser step `step` (from 0) of `total_steps`."""
    return final * min(1.0, step / max(1, total_steps - 1))


@torch.no_grad()
def mixed_symbols(decoder: StepDecoder, targets: Tensor, share: float) -> Tensor:
    """Return what is read before each target (B, T): the true y_{i-1}, or the model's own."""
    coins, chances = torch.rand(2, *targets.shape, device=targets.device)
    own = coins < share
    read = [torch.full_like(targets[:, 0], BOS)]
    state = decoder.start()
    for at in range(targets.shape[1] - 1):
        log_probs, state = decoder.step(read[-1], state)
        drawn = Sampling().draw(log_probs, chances[:, at])
        read.append(torch.where(own[:, at], drawn, targets[:, at]))
    return torch.stack(read, dim=1)
