"""Processes that are the ranks of one training: each runs, at the same time, what it is given."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import distributed as dist

from datamodules._base import Feed, Task
from lightning_modules._ranks import rank, sum_over_ranks, world_size
from lightning_modules._recipe import Recipe
from tests.doubles.topologies import build, public_classes
from tests.doubles.toys import DATA
from worker.events import EndEvent
from worker.folder import Attempt, AttemptFolder
from worker.runner.__main__ import run
from worker.runner.commands import Commands
from worker.runner.gradients import GradientGuard
from worker.runner.lightning_setup import make_trainer, quiet
from worker.runner.metrics import logged_metrics, sums_of
from worker.runner.ranks import LOCAL_RANK, join


class Ranks:
    """Hold as many processes as there are ranks; they are slow to start, so keep them."""

    def __init__(self, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._processes = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_be, initargs=(number,))
            for number in range(count)
        ]

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what a function returns in each rank, by rank."""
        futures = [each.submit(function, *arguments) for each in self._processes]
        return [each.result(timeout=300) for each in futures]

    def together(self, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return the same with a process group, which the ranks make by this empty folder."""
        return self.each(_together, folder, len(self._processes), function, *arguments)

    def run(
        self,
        folder: AttemptFolder,
        commands: Callable[..., Commands] = Commands,
        *arguments: Any,
        at: Sequence[int] = (0, 1),
    ) -> EndEvent:
        """Run an attempt and return the end of rank 0.

        The ranks of `at` get the commands that are made of these arguments, the others none.
        """
        end: EndEvent = self.each(_run, folder, at, commands, *arguments)[0]
        return end

    def close(self) -> None:
        """End the processes, at once: tearing torch down takes seconds."""
        for each in self._processes:
            each.submit(os._exit, 0)
            each.shutdown()


def _be(number: int) -> None:
    os.environ[LOCAL_RANK] = str(number)


def _together(folder: Path, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    attempt = Attempt(job="job", attempt=1, roots=(), cache="", world_size=count)
    join(AttemptFolder(folder), attempt)
    try:
        return function(*arguments)
    finally:
        _part()


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _run(
    folder: AttemptFolder, at: Sequence[int], commands: Callable[..., Commands], *arguments: Any
) -> EndEvent:
    number = int(os.environ[LOCAL_RANK])
    given = commands(*arguments) if number in at else Commands()
    try:
        return run(folder, given, number)
    finally:
        _part()


class _Curve(Callback):
    """Keep what each step has summed up over all ranks."""

    def __init__(self) -> None:
        self.sums: list[list[float]] = []

    def on_train_batch_end(self, _trainer: Trainer, _module: Any, outputs: Any, *_: Any) -> None:
        self.sums.append(sum_over_ranks(sums_of(outputs)).tolist())


def fit(folder: Path, name: str, task: Task, **changes: Any) -> dict[str, Any]:
    """Train a topology on the toy of a task; return its curve, weights and scores.

    Some batches have fewer rows than there are ranks.
    """
    torch.set_num_threads(1)
    quiet()
    data = DATA[task]()
    data.feed = Feed(batch_tokens=14, seed=1, rank=rank(), world_size=world_size())
    model = build(public_classes(name)[0], data, **changes)
    steps = 2 * len(data.plan("train", 0))
    model.recipe = Recipe(warmup_steps=2, total_steps=steps)
    curve = _Curve()
    trainer = make_trainer(
        folder,
        torch.device("cpu"),
        "32-true",
        [GradientGuard(1.0), curve],
        max_epochs=2,
        reload_dataloaders_every_n_epochs=1,
    )
    trainer.fit(model, datamodule=data)
    return {
        "curve": curve.sums,
        "weights": model.state_dict(),
        "scores": logged_metrics(trainer),
    }


def validate(folder: Path, name: str, task: Task) -> dict[str, float]:
    """Return the scores of an untrained topology on the toy of a task."""
    torch.set_num_threads(1)
    quiet()
    data = DATA[task]()
    data.feed = Feed(batch_tokens=8, seed=1, rank=rank(), world_size=world_size())
    data.words_of["unseen"] = data.words_of["unseen"][:1]  # one rank has nothing of it
    while len(data.plan("val", 0)) % 2 == 0:  # and of this one batch less
        data.words_of["val"].pop()
    model = build(public_classes(name)[0], data, label_smoothing=0.3)
    trainer = make_trainer(folder, torch.device("cpu"), "32-true", [])
    trainer.validate(model, datamodule=data, verbose=False)
    return logged_metrics(trainer)
