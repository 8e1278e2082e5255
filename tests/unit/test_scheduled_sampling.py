"""Of the symbols that a training step reads, some are the model's own, as coins decide."""

import math
from dataclasses import dataclass
from typing import Self

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules._vocab import BOS
from lightning_modules._scheduled_sampling import mixed_symbols, own_share
from lightning_modules._text import previous_symbols

SYMBOLS = 7


@dataclass
class Chain:
    """A model whose next symbol depends on all that it has read, by way of their sum."""

    #: Log-probabilities of the next symbol for each sum modulo SYMBOLS, (SYMBOLS, SYMBOLS).
    table: Tensor
    rows: int

    def start(self) -> Tensor:
        return torch.zeros(self.rows, 1, dtype=torch.float64)

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = state + symbols[:, None]
        return self.table[state[:, 0].long() % SYMBOLS], state

    def keep(self, index: Tensor) -> Self:
        raise NotImplementedError


def chain(seed: int, rows: int, sharpness: float = 1.0) -> Chain:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SYMBOLS, SYMBOLS, generator=generator, dtype=torch.float64)
    return Chain(torch.log_softmax(sharpness * logits, dim=-1), rows)


def drawn(log_probs: list[float], chance: float) -> int:
    """Return the symbol in whose share of [0, 1) a chance falls."""
    reached = 0.0
    for symbol, each in enumerate(log_probs):
        reached += math.exp(each)
        if chance < reached:
            return symbol
    return len(log_probs) - 1


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 4),
    length=st.integers(1, 6),
    share=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_reads_what_the_paper_reads(seed: int, rows: int, length: int, share: float) -> None:
    model = chain(seed, rows)
    targets = torch.randint(SYMBOLS, (rows, length))
    torch.manual_seed(seed)
    coins, chances = torch.rand(2, rows, length).tolist()
    torch.manual_seed(seed)
    mixed = mixed_symbols(model, targets, share).tolist()
    for row, true in enumerate(targets.tolist()):
        read = [BOS]
        for at in range(length - 1):
            own = drawn(model.table[sum(read) % SYMBOLS].tolist(), chances[row][at])
            read.append(own if coins[row][at] < share else true[at])
        assert mixed[row] == read


def test_without_own_symbols_it_is_teacher_forcing() -> None:
    targets = torch.randint(SYMBOLS, (3, 5))
    assert torch.equal(mixed_symbols(chain(1, 3), targets, 0.0), previous_symbols(targets))


def test_with_own_symbols_alone_it_runs_freely() -> None:
    model = chain(3, 2, sharpness=1e4)  # whatever is drawn is the most probable
    mixed = mixed_symbols(model, torch.zeros(2, 9, dtype=torch.int64), 1.0)
    free = [BOS]
    while len(free) < 9:
        free.append(int(model.table[sum(free) % SYMBOLS].argmax()))
    assert mixed.tolist() == [free, free]


def test_the_true_symbols_after_a_step_are_not_seen_by_it() -> None:
    one, other = (torch.full((2, 6), symbol) for symbol in (1, 2))
    other[:, :3] = 1
    mixed = []
    for targets in (one, other):
        torch.manual_seed(8)
        mixed.append(mixed_symbols(chain(5, 2), targets, 0.5))
    assert torch.equal(mixed[0][:, :4], mixed[1][:, :4])


def test_the_share_grows_from_nothing_to_all_that_was_asked() -> None:
    shares = [own_share(0.4, step, 11) for step in range(11)]
    assert shares[0] == 0
    assert shares[5] == pytest.approx(0.2)
    assert shares[10] == 0.4
    assert shares == sorted(shares)
    assert own_share(0.4, 30, 11) == 0.4
    assert own_share(0.4, 0, 0) == 0
