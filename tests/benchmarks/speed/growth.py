"""How time and memory of a training step grow with the lengths of both sides.

Each point is measured in a process of its own. A row says how much more four times the length
takes, held against four times as much: 1 is linear.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final, Literal

import torch

from lightning_modules._text import TextTopology
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder
from lightning_modules.encoder_decoder import EncoderDecoder
from tests.benchmarks.speed._measure import Row
from tests.benchmarks.speed.step import Size, batches

_LENGTHS: Final = (25, 100, 400, 1600)
_SMALL: Final = Size(batch=8, source=25, target=25, embedding=64, hidden=64, symbols=50)
_REPEATS: Final = 5

Side = Literal["source", "target"]
_MODELS: Final = {
    "attention": AttentionEncoderDecoder,
    "no attention": EncoderDecoder,
}


def rows() -> Iterator[Row]:
    """Measure both sides, with and without attention."""
    for name in _MODELS:
        for side in ("source", "target"):
            points = [(length, *_apart(name, side, length)) for length in _LENGTHS]
            for (short, less_time, less_space), (long, more_time, more_space) in pairwise(points):
                size = f"{side} {short} -> {long}"
                linear = long / short
                for unit, less, more in (
                    ("s", less_time, more_time),
                    ("MB", less_space, more_space),
                ):
                    yield Row(
                        name=f"growth, {name}",
                        size=size,
                        figure=more,
                        unit=unit,
                        against=less * linear,
                        against_name=f"{linear:g} times that of {short}",
                        goal="≤ 1: linear",
                    )


def _apart(name: str, side: Side, length: int) -> tuple[float, float]:
    # A spawned process has no memory of the one before.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(point, name, side, length).result()


def point(name: str, side: Side, length: int) -> tuple[float, float]:
    """Return processor seconds of a step, and the MB that it needs beside model and data."""
    torch.set_num_threads(1)
    size = replace(_SMALL, **{side: length})
    model: TextTopology = _MODELS[name](
        hidden_size=size.hidden,
        embedding_size=size.embedding,
        source_vocabulary_size=size.symbols,
        target_vocabulary_size=size.symbols,
    ).train()
    batch, *others = batches(size)
    model.losses(batches(_SMALL)[0], 0.1).mean.backward()  # what is made once is there now
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    model.losses(batch, 0.1).mean.backward()
    space = _memory("VmHWM") - before
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        model.losses(others[0], 0.1).mean.backward()
        taken.append(time.process_time() - began)
    return median(taken), space


def _memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"the kernel tells no {field}")
