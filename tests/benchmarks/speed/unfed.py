"""Attention for which no step waits: all steps at once, against one after the other.

The states are made alike but for an LSTM, which goes through the library's loop where no step
waits, and through ours otherwise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

import torch
from torch import Tensor, nn

from lightning_modules._attention import Scanned, attend_in_turn, remember, scan
from lightning_modules._cells import CELLS, Cell, CellName
from lightning_modules._orders import make_order
from lightning_modules._recurrent import Drives, run
from lightning_modules._scores import Score, ScoreName, ScoreSizes, make_score
from tests.benchmarks.speed._measure import Row, in_turn
from tests.benchmarks.speed.step import SIZES, Size

_SCORES: Final[tuple[ScoreName, ...]] = ("additive", "general", "scaled_dot")


@dataclass(frozen=True)
class Attending:
    """A decoder's step that attends, and what it reads."""

    cell: Cell
    score: Score
    drives: Drives
    values: Tensor
    lengths: Tensor
    state: Tensor

    @classmethod
    def of(cls, size: Size, cell: CellName, score: ScoreName) -> "Attending":
        """Return one of this size, with annotations of both directions."""
        torch.manual_seed(0)
        made = CELLS[cell](size.hidden)
        drives = Drives(
            torch.randn(size.batch, size.target, size.embedding), made.driven_by(size.embedding)
        )
        return cls(
            made,
            make_score(score, ScoreSizes(size.hidden, 2 * size.hidden)),
            drives,
            torch.randn(size.batch, size.source, 2 * size.hidden, requires_grad=True),
            torch.full((size.batch,), size.source),
            torch.zeros(size.batch, made.state_size),
        )

    def at_once(self) -> Scanned:
        """Let all steps attend at once."""
        memory = remember(self.score, self.values, self.lengths)
        order = make_order("unfed", self.cell, self.values.shape[2])
        return scan(
            self.cell, self.score, order, memory=memory, drives=self.drives, state=self.state
        )

    def in_turn(self) -> Scanned:
        """Let one step attend after the other."""
        memory = remember(self.score, self.values, self.lengths)
        states = run(self.cell, self.drives.product(), self.state)
        return attend_in_turn(self.score, memory, self.cell.visible(states))

    def training(self, way: Callable[[], Scanned], dtype: torch.dtype) -> Callable[[], None]:
        """Return forward and backward of one of the two."""
        parameters = nn.ModuleList([self.cell, self.score, self.drives.linear]).parameters()
        wanted = [self.values, *parameters]

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                scanned = way()
            loss = scanned.states.sum() + scanned.contexts.sum()
            torch.autograd.grad(loss, wanted, allow_unused=True)

        return step


def rows() -> Iterator[Row]:
    """Measure every cell and score at the first two sizes, in both types."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for size in SIZES[:2]:
        for cell in get_args(CellName):
            for score in _SCORES:
                attending = Attending.of(size, cell, score)
                for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
                    ways = attending.at_once, attending.in_turn
                    pairs = in_turn(*(attending.training(way, dtype) for way in ways))
                    yield Row.of_pairs(
                        pairs,
                        name=f"unfed attention, {cell}, {score}, {name}",
                        size=str(size),
                        against_name="step by step",
                        goal="≥ 1 times as fast",
                    )
