"""Encoders of both directions, there and back: ours against the library's packed sequences."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

import torch
from torch import Tensor

from lightning_modules._cells import CellName
from lightning_modules._layers import Layers
from tests.benchmarks.speed._measure import Row, in_turn


@dataclass(frozen=True)
class Size:
    """Say how large a batch is, and its encoder."""

    rows: int
    shortest: int
    longest: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        lengths = f"{self.shortest} to {self.longest}"
        return f"({self.rows}, {self.longest}, {self.inputs}, {self.hidden}), lengths {lengths}"


SIZES: Final = (
    Size(64, 23, 25, 256, 512),
    Size(80, 13, 15, 256, 256),
    Size(256, 10, 12, 64, 128),
    Size(32, 40, 100, 64, 128),
)


def training(read: Callable[[], Tensor], dtype: torch.dtype) -> Callable[[], None]:
    """Return forward and backward; autocast keeps no weights, as in a run."""

    def step() -> None:
        half = dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            outputs = read()
        outputs.float().sum().backward()  # type: ignore[no-untyped-call]

    return step


def rows() -> Iterator[Row]:
    """Measure every size and cell in both types."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    for size in SIZES:
        inputs = torch.randn(size.rows, size.longest, size.inputs, requires_grad=True)
        lengths = torch.randint(size.shortest, size.longest + 1, (size.rows,))
        lengths[0] = size.longest
        for cell in get_args(CellName):
            encoder = Layers(cell, size.inputs, size.hidden, bidirectional=True)
            ways = (
                lambda: encoder(inputs, lengths)[0],  # noqa: B023 (called before the next one)
                lambda: encoder._packed(inputs, lengths, None)[0],  # noqa: B023 (the same)
            )
            for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
                yield Row.of_pairs(
                    in_turn(*(training(way, dtype) for way in ways), repeats=9),
                    name=f"encoder, {cell}, {name}",
                    size=str(size),
                    against_name="packed sequences",
                    goal="≥ 1 times as fast",
                )
