"""The last layer and its loss, forward and backward: time against the whole logits, and memory."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._losses import readout_losses
from tests.benchmarks.speed._measure import Row, in_turn
from tests.benchmarks.speed._readout_memory import extra_megabytes

#: Symbols of a batch, width of a feature, size of the vocabulary; and how often to repeat.
SIZES: Final = (
    ((1600, 256, 8000), 7),
    ((1200, 256, 6000), 7),
    ((1500, 128, 50), 100),
    ((8000, 256, 32000), 3),
)
SMOOTHING: Final = 0.1

Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def rows() -> Iterator[Row]:
    """Measure both types of products at every size."""
    for size, repeats in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            yield _time(size, dtype, repeats)
    for dtype in ("float32", "bfloat16"):
        for held, how in ((0, ""), (100, " with copies")):
            yield Row(
                name=f"readout and loss{how}, memory, {dtype}",
                size=str(SIZES[-1][0]),
                figure=extra_megabytes(*SIZES[-1][0], dtype, held=held),
                unit="MB",
                goal="<= 400",
            )


def _time(size: tuple[int, int, int], dtype: torch.dtype, repeats: int) -> Row:
    symbols, width, vocabulary = size
    output = nn.Linear(width, vocabulary)
    features = torch.randn(symbols, width, dtype=dtype).tanh().requires_grad_()
    targets = torch.randint(vocabulary, (symbols,))

    def step(loss: Loss) -> None:
        output.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            mean = loss(features, output, targets)
        mean.backward()

    pairs = in_turn(lambda: step(_ours), lambda: step(_whole), repeats=repeats, warmup=1)
    return Row.of_pairs(
        pairs,
        name=f"readout and loss, {str(dtype).removeprefix('torch.')}",
        size=str(size),
        against_name="the same of all logits",
        goal="ratio >= 1",
    )


def _ours(features: Tensor, output: nn.Linear, targets: Tensor) -> Tensor:
    return readout_losses(features, output, targets, SMOOTHING).mean


def _whole(features: Tensor, output: nn.Linear, targets: Tensor) -> Tensor:
    """Give what ours gives: the loss, and beside it -log p(y) and what would have been chosen."""
    logits = output(features).float()
    with torch.no_grad():
        F.cross_entropy(logits, targets, reduction="none")
        _ = logits.argmax(dim=-1) == targets
    return F.cross_entropy(logits, targets, label_smoothing=SMOOTHING)
