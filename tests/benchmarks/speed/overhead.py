"""What the runner costs a step, over the same training written bare in PyTorch.

Both train the same model on the same batches in one process, a block of steps each in turn, and the
processor's time is counted. The runner is the real one (an attempt folder, events, log lines,
progress, looks for checkpoints); beside it stands a Lightning Trainer with nothing added.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from itertools import chain, repeat
from os import devnull
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from lightning import Callback

from datamodules._base import DataModule, Feed, Workspace
from jobs.spec import Component, Policy, TrainerOptions, TrainSpec
from lightning_modules._base import Topology
from lightning_modules._recipe import Recipe
from tests.benchmarks.speed._measure import Row
from worker.folder import Attempt, AttemptFolder
from worker.runner import catalog, precision
from worker.runner.__main__ import run
from worker.runner.build import build_data, build_model
from worker.runner.commands import Commands
from worker.runner.lightning_setup import make_trainer, quiet
from worker.runner.metrics import MetricReporter, Plan
from worker.runner.reporter import Reporter
from worker.runner.resume import Continuation

CPU: Final = torch.device("cpu")
CLIP: Final = 1.0
LEARNING_RATE: Final = 1e-3


@dataclass(frozen=True)
class Size:
    """A training: rows of a batch, symbols of either side, widths, symbols of the vocabulary."""

    batch: int
    length: int
    embedding: int
    hidden: int
    vocabulary: int
    #: Steps of a block, of which there are `BLOCKS`.
    block: int
    goal: str

    def __str__(self) -> str:
        shape = self.batch, self.length, self.length, self.embedding, self.hidden, self.vocabulary
        return str(shape)


#: Steps that are reported.
REPORTS: Final = 4_000
BLOCKS: Final = 15
#: Blocks before those that count.
WARM_UP: Final = 3
SIZES: Final = (
    Size(80, 15, 256, 256, 6000, block=3, goal="ratio <= 1.03"),
    Size(128, 12, 128, 256, 50, block=5, goal="<= 1 ms more"),
    Size(256, 12, 64, 128, 40, block=5, goal="<= 1 ms more"),
    Size(8, 6, 16, 16, 40, block=50, goal="<= 1 ms more"),
)


@contextmanager
def nothing_printed() -> Iterator[None]:
    """Write what is printed in a block to where nobody looks: it costs what it costs."""
    with Path(devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


@dataclass
class Turns:
    """Let another loop run a block of steps after each block of this one; time both."""

    theirs: Callable[[], None]
    block: int
    #: Seconds of the processor for a step, block by block.
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    _steps: int = 0
    _began: float = 0.0

    def after_step(self) -> None:
        """Count a step, and let the other loop run where it is its turn."""
        self._steps += 1
        if self._steps % self.block:
            return
        ended = time.process_time()
        for _ in range(self.block):
            self.theirs()
        handed_back = time.process_time()
        if self._steps > WARM_UP * self.block:
            self.ours.append((ended - self._began) / self.block)
            self.bare.append((handed_back - ended) / self.block)
        self._began = time.process_time()


class TurnsOfRunner(Commands):
    """The runner asks after each batch whether somebody wants a checkpoint: the end of a step.

    After all of them somebody does.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._asked = math.inf
        #: Seconds that it took, by the wall clock: it waits for a disk.
        self.checkpoint = math.nan

    @property
    def wants_checkpoint(self) -> bool:
        """Whether this step was the last one that counts."""
        self._turns.after_step()
        if len(self._turns.ours) < BLOCKS or self._asked < math.inf:
            return False
        self._asked = time.perf_counter()
        return True

    def took_checkpoint(self, file: str | None) -> None:
        """Note how long the checkpoint that was asked for took."""
        if math.isnan(self.checkpoint):
            self.checkpoint = time.perf_counter() - self._asked
        super().took_checkpoint(file)


class TurnsOfTrainer(Callback):
    """All that is added to a bare Trainer; its own clipping refuses a fused optimiser."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_before_optimizer_step(self, _trainer: Any, module: Topology, *_: Any) -> None:
        """Clip as the bare loop does."""
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)

    def on_train_batch_end(self, *_: Any) -> None:
        """Count the step."""
        self._turns.after_step()


@dataclass(frozen=True)
class Bench:
    """A corpus of one size, and all that trains on it."""

    size: Size
    folder: Path

    @property
    def steps(self) -> int:
        """Steps of a training."""
        return (WARM_UP + BLOCKS) * self.size.block

    @property
    def spec(self) -> TrainSpec:
        """The training as it is submitted."""
        size = self.size
        model = {"embedding_size": size.embedding, "hidden_size": size.hidden}
        files = {"root": str(self.folder), "source": "a", "target": "b"}
        scoring = {"tokens": "words", "metrics": []}
        return TrainSpec(
            model=Component("attention_encoder_decoder", model),
            data=Component("parallel_text", {**files, **scoring}),
            trainer=TrainerOptions(
                max_epochs=1,
                batch_tokens=size.batch * size.length,
                lr=LEARNING_RATE,
                schedule="constant",
                clip=CLIP,
            ),
        )

    def write_corpus(self) -> None:
        """Write lines of equal length in which every word of the vocabulary occurs."""
        words = chain.from_iterable(repeat([f"w{n}" for n in range(self.size.vocabulary - 4)]))
        # One batch more than is counted: the runner looks for no checkpoint after the last one.
        for split, rows in {"train": self.size.batch * (self.steps + 1), "val": 1}.items():
            lines = [
                " ".join(next(words) for _ in range(self.size.length - 1)) for _ in range(rows)
            ]
            text = "\n".join(lines) + "\n"
            for side in ("a", "b"):
                (self.folder / f"{split}.{side}").write_text(text, encoding="utf-8")

    def parts(self) -> tuple[Topology, DataModule]:
        """Return a model and its data, built as the runner builds them."""
        spec = self.spec
        data = build_data(catalog.kinds_of_data().find(spec.data.name), spec.data)
        data.feed = Feed(batch_tokens=self.size.batch * self.size.length, seed=spec.seed)
        data.prepare(Workspace((self.folder,), self.folder / "cache"))
        torch.manual_seed(spec.seed)
        model = build_model(catalog.topologies().find(spec.model.name), spec.model, data.dims)
        model.recipe = Recipe(lr=LEARNING_RATE, schedule="constant")
        return model, data

    def bare_loop(self) -> Callable[[], None]:
        """Return a step of the training as one would write it without any of this."""
        model, data = self.parts()
        model.train()
        batches = iter(data.train_dataloader())
        configured = model.configure_optimizers()
        optimiser, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        half = precision.choose("auto", CPU) == "bf16-mixed"

        def step() -> None:
            batch = next(batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model.training_step(batch, 0)["loss"]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            scheduler.step()

        return step

    def runner(self) -> tuple[Turns, float]:
        """Train as a worker does; return what each step took, and the seconds of a checkpoint."""
        commands = TurnsOfRunner(turns := Turns(self.bare_loop(), self.size.block))
        folder = AttemptFolder(self.folder / "attempt")
        cache = str(self.folder / "cache")
        folder.lay(
            self.spec, Attempt(job="bench", attempt=1, roots=(str(self.folder),), cache=cache)
        )
        with nothing_printed():
            end = run(folder, commands)
        if end.reason != "succeeded":
            raise RuntimeError(f"the training ended as {end.reason}: {end.message}")
        return turns, commands.checkpoint

    def lightning(self) -> Turns:
        """Train with Lightning alone."""
        turns = Turns(self.bare_loop(), self.size.block)
        model, data = self.parts()
        trainer = make_trainer(
            self.folder,
            CPU,
            precision.choose("auto", CPU),
            [TurnsOfTrainer(turns)],
            max_epochs=1,
            limit_val_batches=0,
        )
        trainer.fit(model, datamodule=data)
        return turns


def reporting(every: int) -> list[float]:
    """Return the seconds of the processor of each call that reports a step, sorted.

    Every so many steps the window is full, and its metrics are written as events and for people.
    """
    outputs = {"nll_sum": torch.tensor(9.0), "tokens": torch.tensor(7), "correct": torch.tensor(3)}
    trainer: Any = SimpleNamespace(global_step=0, optimizers=[SimpleNamespace(param_groups=[])])
    trainer.optimizers[0].param_groups.append({"lr": LEARNING_RATE})
    at = Continuation(None, {})
    took = []
    with (
        tempfile.TemporaryDirectory() as folder,
        nothing_printed(),
        Reporter(AttemptFolder(Path(folder))) as told,
    ):
        reporter = MetricReporter(told, at, Plan(REPORTS, 1), every)
        for _ in range(REPORTS):
            trainer.global_step += 1
            at.on_train_batch_end(trainer)
            began = time.process_time()
            reporter.on_train_batch_end(trainer, trainer, outputs)
            took.append(time.process_time() - began)
    return sorted(took)


def rows() -> Iterator[Row]:
    """Yield what a step takes, bare and with all that is around it."""
    quiet()
    torch.set_num_threads(1)
    for every in (20, 1):
        took = reporting(every)
        for percent, goal in ((50, "<= 0.2 ms"), (99, "<= 1 ms")):
            yield Row(
                name=f"reporting a step, {percent}th percentile",
                size=f"trainer.log_every = {every}",
                figure=1e3 * took[percent * len(took) // 100],
                unit="ms",
                goal=goal,
            )
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(size, Path(folder))
            bench.write_corpus()
            turns, checkpoint = bench.runner()
            yield _row("step under the runner", size, turns, size.goal)
            yield Row(
                name="checkpoint, by the wall clock",
                size=str(size),
                figure=checkpoint,
                unit="s",
                against=Policy().checkpoint_seconds,
                against_name="between two",
                goal="ratio <= 0.01",
            )
            yield _row("step under Lightning alone", size, bench.lightning())


def _row(name: str, size: Size, turns: Turns, goal: str = "") -> Row:
    ratios = [ours / bare for ours, bare in zip(turns.ours, turns.bare, strict=True)]
    added = [ours - bare for ours, bare in zip(turns.ours, turns.bare, strict=True)]
    return Row(
        name=f"{name}, {1e3 * statistics.median(added):+.2f} ms",
        size=str(size),
        figure=1e3 * statistics.median(turns.ours),
        unit="ms",
        against=1e3 * statistics.median(turns.bare),
        against_name="bare loop",
        ratio=statistics.median(ratios),
        goal=goal,
    )
