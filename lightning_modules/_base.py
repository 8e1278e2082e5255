"""What every topology is: a LightningModule whose constructor's signature is its schema.

A public file of this folder holds one public subclass of `Topology`; the contract tests pick it up.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from lightning import LightningModule

from datamodules._base import DataModule, Task
from lightning_modules._recipe import Optimisers, Recipe


class Topology(LightningModule):
    """A network that can be trained, scored and used."""

    #: Every task this topology can learn.
    accepts: ClassVar[frozenset[Task]]
    #: Trainer options that this topology sets otherwise than the general default.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {}
    #: The metric by which models are chosen, and which end of it is good.
    monitor: ClassVar[str]
    monitor_mode: ClassVar[Literal["min", "max"]]

    #: How the weights are optimised; the runner sets it before the fit.
    recipe: Recipe

    def configure_optimizers(self) -> Optimisers:
        """Return what `recipe` says."""
        return self.recipe.optimisers(self.parameters())

    @property
    def data(self) -> DataModule:
        """Return the data that the trainer runs on."""
        trainer: Any = self.trainer
        data: DataModule = trainer.datamodule
        return data

    def split_name(self, dataloader_idx: int) -> str:
        """Return the split that an evaluation loader reads."""
        if self.trainer.testing:
            return "test"
        return self.data.validation_splits[dataloader_idx]
