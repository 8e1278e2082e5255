"""Lightning as this program uses it: no files, no logger, no bar, no chatter, ours to supervise."""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from jobs.errors import SpecError
from lightning_modules._ranks import world_size
from worker.folder import Attempt

#: Warnings that tell a person nothing: each with why. Everything else is shown.
_QUIET: Final = (
    # A worker's slot may have no GPU on a machine that has some.
    r"GPU available but not used",
    # The loaders are plain iterables over a plan in memory; workers would only copy.
    r"The '\w+_dataloader' does not have many workers",
    # The cluster's way of starting processes is not used: the ranks are ours.
    r"The `srun` command is available on your system but is not used",
    # Scores are computed over all ranks before they are logged.
    r"It is recommended to use `self\.log\(.*, sync_dist=True\)`",
    # Lightning 2.6 with torch 2.13, inside Lightning.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


class Unprofiled(PassThroughProfiler):
    """Profile nothing: Lightning asks some fifty times a step, each time for a generator."""

    _nothing: Final = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # noqa: ARG002 (Lightning)
        """Return what does nothing."""
        return self._nothing


def quiet() -> None:
    """Keep Lightning from telling what `Reporter` tells, or what does not matter here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _QUIET:
        warnings.filterwarnings("ignore", message=message)


def set_up_torch(attempt: Attempt, rank: int = 0) -> torch.device:
    """Give torch its share of the machine, and return the device to train on. Raise SpecError."""
    # The machine's numbers, whatever this process was shown; without any, no GPU is ever touched.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, attempt.gpus))
    torch.set_num_threads(attempt.threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    # Numbers near zero, which gates produce plenty of, would otherwise be handled in microcode.
    torch.set_flush_denormal(True)
    if not attempt.gpus:
        return torch.device("cpu")
    if torch.cuda.device_count() <= rank:
        raise SpecError(f"no GPU {attempt.gpus[rank]} can be used here; ask for resources.gpus = 0")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", rank)


#: Numbers of a product's weight from which it is worth sharing.
_SHARED_FROM: Final = 1 << 17


def spare_threads(model: nn.Module) -> None:
    """Leave all products to one thread where they are so small that two wait for each other.

    On two cores models of 32 units took half as long by one thread, models of 128 units five
    sixths. What decides is the model alone, so that the same run gives the same numbers.
    """
    products = (each for each in model.modules() if not isinstance(each, nn.Embedding))
    weights = (weight for each in products for weight in each.parameters(recurse=False))
    if all(weight.numel() < _SHARED_FROM for weight in weights):
        torch.set_num_threads(1)


def make_trainer(
    folder: Path, device: torch.device, precision: Any, callbacks: list[Callback], **options: Any
) -> Trainer:
    """Return a Trainer that does nothing of its own accord."""
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=world_size(),
        strategy="auto" if world_size() == 1 else DDPStrategy(gradient_as_bucket_view=True),
        precision=precision,
        callbacks=callbacks,
        default_root_dir=folder,
        plugins=[LightningEnvironment()],  # whatever cluster this may run on: the ranks are ours
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        profiler=Unprofiled(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    _leave_signals_to_commands(trainer)
    return trainer


def _leave_signals_to_commands(trainer: Trainer) -> None:
    """Save the ranks a broadcast before each batch: `Commands` takes the signals, not Lightning."""
    loop: Any = trainer.fit_loop.epoch_loop
    if not hasattr(loop, "_broadcast_sigterm_tensor"):
        raise AttributeError("Lightning no longer asks the ranks for signals there")
    loop._broadcast_sigterm_tensor = lambda: None  # noqa: SLF001 (it has no switch for it)
