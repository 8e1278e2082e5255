"""Going on exactly where a checkpoint was taken: what it holds, and Lightning's counters.

This is the one file that touches Lightning's progress counters, and it needs two of them: the
epochs and the optimiser's steps. A run that goes on at batch n of an epoch is, to Lightning, a
fresh fit whose first epoch happens to be shorter: the data module builds the training loader to
start at batch n (`Feed.start_batch`). None of Lightning's own restarting is used.

A checkpoint is taken between two batches; after the last batch of an epoch it is taken once the
validation has ended, so that a position is always "the next batch to train on".

Going on from another job's checkpoint (`resume_from`) is the same, with one rule: what the new spec
says holds. The optimiser keeps its moments but takes the new spec's rates and decays, and the
schedule is the new spec's, for its own number of steps, entered at the step reached.
"""

import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
import torch
from lightning import Callback, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from jobs.errors import ArtifactError, SpecError
from lightning_modules._ranks import gather, rank

FORMAT: Final = 2
#: Of before there were several ranks.
_ONE_RANK: Final = 1


@dataclass(frozen=True)
class Position:
    """Point at the next batch to train on."""

    epoch: int = 0
    #: Batches of the epoch that are done.
    batch: int = 0
    #: Optimiser steps taken, over all attempts.
    step: int = 0

    @property
    def epochs_begun(self) -> int:
        """Return the number of the epoch that the newest batch is of, from 1, as people count."""
        return self.epoch + (self.batch > 0)


@dataclass(frozen=True)
class Saved:
    """Hold a checkpoint's content: tensors and plain values, so that loading it runs no code."""

    position: Position
    #: The model's `state_dict`.
    weights: Mapping[str, torch.Tensor]
    #: Arguments of the model's class, those from the data among them.
    hyper_parameters: Mapping[str, Any]
    optimisers: list[Any]
    schedulers: list[Any]
    #: States of the random number generators of each rank (see `random_states`).
    random: Sequence[Mapping[str, Any]]
    #: What each callback remembers, by its class's name.
    memory: Mapping[str, Any]
    #: The data module's `state_dict`: its vocabularies.
    data: Mapping[str, Any]
    #: The spec, and the trainer options that were in force, as plain JSON.
    spec: Mapping[str, Any]
    trainer: Mapping[str, Any]
    #: Of the data that is learned from, and that models are chosen by; empty where none is known.
    data_digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `torch.save` writes."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["position"] = asdict(self.position)
        return {"format": FORMAT, "lightning": lightning.__version__, **content}

    @classmethod
    def read(cls, path: Path) -> "Saved":
        """Read a checkpoint onto the CPU.

        Raise ArtifactError for a torn file, SpecError for one that another program wrote.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            line = str(error).partition("\n")[0][:200]
            raise ArtifactError(f"{path.name} is torn or no checkpoint: {line}") from None
        if not isinstance(content, dict) or content.get("format") not in {_ONE_RANK, FORMAT}:
            raise SpecError(f"{path.name} is no checkpoint of this version (format {FORMAT})")
        if content["format"] == _ONE_RANK:
            content["random"] = [content["random"]]
        content.setdefault("data_digest", "")  # of before it was kept
        names = cls.__dataclass_fields__.keys() - {"position"}
        position = Position(**content["position"])
        return cls(position=position, **{name: content[name] for name in names})


class Continuation(Callback):
    """Put a fit where its checkpoint was taken, know where it stands, and capture it."""

    def __init__(self, saved: Saved | None, constants: Mapping[str, Any]) -> None:
        #: What the fit goes on from; let go of once it is in place.
        self._saved = saved
        #: Fields of `Saved` that no batch changes: spec, trainer, data_digest.
        self._constants = constants
        self._start = saved.position if saved else Position()
        self._epoch, self._batch, self._step = (
            self._start.epoch,
            self._start.batch,
            self._start.step,
        )
        self._batches = 0

    @property
    def position(self) -> Position:
        """Return where the fit stands; after the last batch of an epoch, at the next epoch."""
        if self.epoch_is_over:
            return Position(self._epoch + 1, 0, self._step)
        return Position(self._epoch, self._batch, self._step)

    @property
    def epoch(self) -> int:
        """Return the number of the epoch that the newest batch is of, from 1, as people count."""
        return self._epoch + 1

    @property
    def step(self) -> int:
        """Return how many optimiser steps were taken, over all attempts."""
        return self._step

    @property
    def epoch_is_over(self) -> bool:
        """Return whether the newest batch was the last of its epoch."""
        return 0 < self._batches <= self._batch

    def on_fit_start(self, trainer: Trainer, *_: Any) -> None:
        """Set the counters, the optimisers and what the callbacks remember."""
        if self._saved is None:
            return
        set_counters(trainer, self._start)
        restore_optimisers(trainer, self._saved)
        for callback in _with_memory(trainer):
            if (memory := self._saved.memory.get(type(callback).__name__)) is not None:
                callback.load_state_dict(memory)

    def on_train_start(self, *_: Any) -> None:
        """Set the random number generators, last: Lightning draws nothing from here on."""
        if self._saved is not None:
            if rank() < len(self._saved.random):  # else there were fewer ranks: its seed will do
                set_random_states(self._saved.random[rank()])
            self._saved = None

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Count the batches of the epoch from where its loader starts."""
        self._epoch = trainer.current_epoch
        self._batch = self._start.batch if self._epoch == self._start.epoch else 0
        self._batches = self._batch + int(trainer.num_training_batches)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Count the batch."""
        self._batch += 1
        self._step = trainer.global_step

    def capture(self, trainer: Trainer) -> Saved:
        """Return everything that a later attempt needs to go on from here exactly, on all ranks.

        All ranks ask for it at the same step: some of it is gathered from each.
        """
        module = trainer.lightning_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return Saved(
            position=self.position,
            weights=module.state_dict(),
            hyper_parameters=dict(module.hparams),
            optimisers=[optimiser.state_dict() for optimiser in trainer.optimizers],
            schedulers=[each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
            random=gather(random_states()),
            memory={type(each).__name__: each.state_dict() for each in _with_memory(trainer)},
            data=data.state_dict(),
            **self._constants,
        )


def _with_memory(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if type(each).state_dict is not Callback.state_dict]


def set_counters(trainer: Trainer, position: Position) -> None:
    """Tell Lightning, before a fit's loops run, how many epochs and steps are behind it."""
    fit_loop = trainer.fit_loop
    for epochs in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
        for counter in ("ready", "started", "processed", "completed"):
            _set_counter(epochs, counter, position.epoch)
    steps = fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    for counter in ("ready", "completed"):
        _set_counter(steps, counter, position.step)


def _set_counter(tracker: Any, name: str, value: int) -> None:
    if not hasattr(tracker, name):
        raise AttributeError(f"Lightning {lightning.__version__} has moved its counter {name!r}")
    setattr(tracker, name, value)


def restore_optimisers(trainer: Trainer, saved: Saved) -> None:
    """Load moments and schedules; rates, decays and curves stay those of the spec in force."""
    for optimiser, state in zip(trainer.optimizers, saved.optimisers, strict=True):
        _load_moments(optimiser, state)
    configs = trainer.lr_scheduler_configs
    for config, state in zip(configs, saved.schedulers, strict=True):
        scheduler: Any = config.scheduler
        rates = scheduler.base_lrs
        scheduler.load_state_dict({**state, "base_lrs": rates})
        if isinstance(scheduler, LambdaLR):
            _set_rates(scheduler, rates)


def _load_moments(optimiser: Optimizer, state: Mapping[str, Any]) -> None:
    in_force = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimiser.param_groups
    ]
    optimiser.load_state_dict(dict(state))
    for group, options in zip(optimiser.param_groups, in_force, strict=True):
        group.update(options)


def _set_rates(scheduler: LambdaLR, base: list[float]) -> None:
    curves: list[Callable[[int], float]] = scheduler.lr_lambdas
    rates = [rate * curve(scheduler.last_epoch) for rate, curve in zip(base, curves, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    # What `get_last_lr` answers; torch has no setter.
    scheduler._last_lr = list(rates)  # noqa: SLF001 (see above)


def random_states() -> dict[str, Any]:
    """Return the states of all random number generators as tensors and plain values."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set all random number generators to what `random_states` gave."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    stored = states["numpy"]
    np.random.set_state(
        ("MT19937", stored["key"].numpy(), stored["pos"], stored["has_gauss"], stored["gauss"])
    )
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
