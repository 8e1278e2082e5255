"""Two ranks against one on the same global batch, and what they say to each other in a step."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning import Callback

from datamodules._base import DataModule, Feed, Workspace
from datamodules._batch import Batch
from datamodules._vocab import SPECIALS
from lightning_modules._ranks import any_over_ranks, mean_over_ranks, rank, world_size
from lightning_modules._recipe import Recipe
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder
from tests.benchmarks.speed._measure import Pairs, Row
from tests.doubles.ranks import Ranks
from worker.runner.gradients import GradientGuard
from worker.runner.lightning_setup import make_trainer, quiet

STEPS: Final = 8
REPEATS: Final = 3
#: Steps before the clock counts.
WARMUP: Final = 2


@dataclass(frozen=True)
class Size:
    """The rows of a batch, the length of all of them on both sides, and the model's sizes."""

    rows: int
    length: int
    embedding: int
    hidden: int
    vocabulary: int

    def __str__(self) -> str:
        return f"({', '.join(map(str, vars(self).values()))})"


SIZES: Final = (Size(80, 15, 256, 256, 6000), Size(128, 12, 128, 256, 50))


class Noise(DataModule):
    """Rows of one length, drawn by chance."""

    gives = frozenset({("tokens", "tokens")})

    def __init__(self, size: Size) -> None:
        super().__init__()
        self._size = size
        self.feed = Feed(size.rows * size.length, 1, rank=rank(), world_size=world_size())

    def prepare(self, workspace: Workspace) -> None:
        """Do nothing."""

    @property
    def dims(self) -> dict[str, int | bool]:
        return {}

    def sizes(self, split: str) -> Any:
        return np.full((self._size.rows * (STEPS + WARMUP), 2), self._size.length)

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        shape = (len(rows), self._size.length)
        ids = torch.randint(SPECIALS, self._size.vocabulary, (2, *shape))
        lengths = torch.full((len(rows),), self._size.length)
        return Batch(ids[0], lengths, ids[1], lengths, {"index": torch.tensor(rows)})


class _Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def seconds_a_step(size: Size) -> float:
    """Return how long a step under the trainer takes, in the median."""
    torch.set_num_threads(1)
    quiet()
    data = Noise(size)
    model = AttentionEncoderDecoder(
        hidden_size=size.hidden,
        embedding_size=size.embedding,
        source_vocabulary_size=size.vocabulary,
        target_vocabulary_size=size.vocabulary,
        shared_vocabulary=False,
    )
    model.recipe = Recipe(warmup_steps=2, total_steps=STEPS + WARMUP)
    clock = _Clock()
    trainer = make_trainer(
        Path(tempfile.gettempdir()),
        torch.device("cpu"),
        "32-true",
        [GradientGuard(1.0), clock],
        max_epochs=1,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data)
    return statistics.median(b - a for a, b in pairwise(clock.times[WARMUP - 1 :]))


def seconds_of_talk(calls: int = 300) -> float:
    """Return how long all takes that ranks say in a step besides gradients, in the median."""
    losses, spent = torch.ones(100), []
    for _ in range(calls):
        began = time.perf_counter()
        mean_over_ranks(losses.mean(), len(losses))
        any_over_ranks(False, False)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def rows() -> Iterator[Row]:
    """Yield what two ranks gain and what they cost."""
    one, two = Ranks(1), Ranks(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        talk = max(two.together(folder, seconds_of_talk))
        yield Row(name="what two ranks say in a step", figure=talk * 1e3, unit="ms")
        for size in SIZES:
            measured = [
                (
                    max(two.together(folder, seconds_a_step, size)),
                    one.together(folder, seconds_a_step, size)[0],
                )
                for _ in range(REPEATS)
            ]
            pairs = Pairs(*zip(*measured, strict=True))
            yield Row(
                name="a step of two ranks, one thread each",
                size=str(size),
                figure=pairs.our_median * 1e3,
                unit="ms",
                against=pairs.their_median * 1e3,
                against_name="one rank, the same global batch",
                ratio=pairs.speedup,
            )
    for ranks in (one, two):
        ranks.close()
