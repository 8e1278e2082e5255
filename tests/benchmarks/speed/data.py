"""The data: what batching pads, what preparing costs, and whether the loader keeps ahead.

Real sentences come from UNROLL_TEST_DATA (Multi30k); without it they are left out.
"""

import os
import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from datamodules._base import BatchLoader, DataModule, Feed, Workspace
from datamodules._bucketing import Sizes, padding_fraction, training_plan
from datamodules.parallel_text import ParallelText
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder
from tests.benchmarks.speed._measure import Row, in_turn, seconds

#: (batch, source, target, embedding, hidden, vocabulary)
STEPS: Final = (
    (64, 25, 25, 256, 512, 8000),
    (80, 15, 15, 256, 256, 6000),
    (128, 12, 12, 128, 256, 50),
    (256, 12, 12, 64, 128, 40),
)
#: Rows of an epoch.
EPOCHS: Final = (29_000, 1_000_000, 10_000_000)
#: Bytes of text on both sides of a corpus whose preparing is watched; UNROLL_CORPUS=1.2e9 for more.
CORPUS: Final = int(float(os.environ.get("UNROLL_CORPUS", "6e7")))
_LETTERS: Final = string.ascii_letters


def rows() -> Iterator[Row]:
    """Measure everything about the data."""
    yield from _multi30k()
    yield from map(_planning, EPOCHS)
    for size in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            yield _appetite(size, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _streaming(Path(folder))


def _multi30k() -> Iterator[Row]:
    folder = Path(os.environ.get("UNROLL_TEST_DATA", "")) / "multi30k"
    if not (folder / "train.de").is_file():
        return
    with tempfile.TemporaryDirectory() as cache:
        workspace = Workspace(roots=(folder,), cache=Path(cache))

        def prepare() -> DataModule:
            data = ParallelText(
                root=".", source="de", target="en", lowercase=True, test="test_2016_flickr"
            )
            data.feed = Feed(batch_tokens=data.trainer_defaults["batch_tokens"], seed=0)
            data.prepare(workspace)
            return data

        first = seconds(prepare)
        yield Row(
            name="preparing again what was prepared",
            size="Multi30k",
            figure=seconds(prepare),
            unit="s",
            against=first,
            against_name="the first time",
        )
        data = prepare()
    shares = [padding_fraction(data.sizes("train"), data.plan("train", epoch)) for epoch in (0, 1)]
    yield Row(
        name="places that are padding, both sides",
        size="Multi30k",
        figure=100 * shares[0],
        unit="%",
        against=100 * shares[1],
        against_name="the next epoch",
        goal="< 5 %",
    )


def _planning(count: int) -> Row:
    sizes = _sentences(count)
    took = sorted(seconds(lambda: training_plan(sizes, 1200, 0, 0)) for _ in range(3))
    return Row(
        name="plan of an epoch", size=f"{count:,} rows", figure=took[1], unit="s", goal="0.3"
    )


def _sentences(count: int) -> Sizes:
    """Return lengths as translations have them: mostly short, both sides alike."""
    chance = np.random.default_rng(0)
    source = np.clip(chance.gamma(9, 1.8, count), 3, 60)
    target = np.clip(source + chance.normal(0, 2.5, count), 3, 60)
    return np.stack([source, target], axis=1).astype(np.int32)


def _appetite(size: tuple[int, ...], folder: Path) -> Row:
    """Hold the time of loading a batch against that of the step that eats it."""
    data = _made(size, folder)
    loader = BatchLoader(data, "train", 0, alter=True)
    batches, given = cycle(loader), cycle(list(loader))
    step = _stepper(size, data)
    pairs = in_turn(lambda: next(batches), lambda: step(next(given)), repeats=len(loader))
    return Row(
        name="loading a batch",
        size=str(size),
        figure=1000 * pairs.our_median,
        unit="ms",
        against=1000 * pairs.their_median,
        against_name="a training step",
        ratio=1 / pairs.speedup,
        goal="ratio < 0.02",
    )


def _made(size: tuple[int, ...], folder: Path) -> ParallelText:
    """Return parallel text whose batches have this size, lengths varying by three symbols."""
    batch, source, target, _, _, vocabulary = size
    chance = np.random.default_rng(0)
    words = vocabulary > len(_LETTERS)
    blank = " " if words else ""
    symbols = [f"w{n}" for n in range(vocabulary)] if words else list(_LETTERS[: vocabulary - 4])
    for split, count in (("train", 20 * batch), ("val", 1)):
        for suffix, longest in (("de", source), ("en", target)):
            lengths = chance.integers(longest - 3, longest, count)
            lines = (blank.join(chance.choice(symbols, length)) for length in lengths)
            (folder / f"{split}.{suffix}").write_text("".join(f"{line}\n" for line in lines))
    data = ParallelText(
        root=".",
        source="de",
        target="en",
        tokens="words" if words else "characters",
        vocabulary_size=max(300, vocabulary),
    )
    data.feed = Feed(batch_tokens=batch * max(source, target), seed=0)
    data.prepare(Workspace(roots=(folder,), cache=folder / "cache"))
    return data


def _stepper(size: tuple[int, ...], data: DataModule) -> Callable[..., None]:
    """Return what a training step does, in bfloat16, without trainer or loader."""
    *_, embedding, hidden, _ = size
    model = AttentionEncoderDecoder(embedding_size=embedding, hidden_size=hidden, **data.dims)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    weights = list(model.train().parameters())

    def step(batch: object) -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_step(batch, 0)["loss"]
        loss.backward()
        clip_grad_norm_(weights, 1.0)
        optimiser.step()

    return step


def _streaming(folder: Path) -> Iterator[Row]:
    """Prepare a corpus and read an epoch of it in a process of its own, and tell what that held."""
    chance = np.random.default_rng(0)
    words = np.array(["".join(chance.choice(list(_LETTERS), 5)) for _ in range(30_000)])
    with (folder / "train.de").open("w") as source, (folder / "train.en").open("w") as target:
        while source.tell() + target.tell() < CORPUS:
            drawn = words[np.minimum(chance.zipf(1.3, (5000, 12)), len(words)) - 1].tolist()
            source.writelines(f"{' '.join(line)}\n" for line in drawn)
            target.writelines(f"{' '.join(line[::-1])}\n" for line in drawn)
    for suffix in ("de", "en"):
        (folder / f"val.{suffix}").write_text("a b c\n")
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.speed._memory", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    for name, grown in re.findall(r"(.+): (\d+)", run.stdout):
        yield Row(
            name=f"memory that {name} takes",
            figure=int(grown) / 1e6,
            unit="MB",
            against=CORPUS / 1e6,
            against_name="the corpus",
        )
