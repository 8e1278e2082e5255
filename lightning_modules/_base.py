"""What every topology is: a LightningModule whose constructor's signature is its schema.

A public file of this folder holds one public subclass of `Topology`; the contract tests pick it up.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval, Lt
from lightning import LightningModule
from torch import Tensor

from datamodules._base import DataModule, Task
from datamodules._batch import Batch
from datamodules._refusals import Refusal, misfit
from lightning_modules._errors import ModelError
from lightning_modules._recipe import Optimisers, Recipe
from lightning_modules._sampling import Sampling

#: A number of units, layers or symbols; more than there is memory for anywhere is a slip.
Size = Annotated[int, Interval(ge=1, le=1_000_000)]
#: A part of a whole that is never all of it.
Share = Annotated[float, Ge(0), Lt(1)]


class Topology(LightningModule):
    """A network that can be trained, scored and used."""

    #: Every task this topology can learn.
    accepts: ClassVar[frozenset[Task]]
    #: Trainer options that this topology sets otherwise than the general default.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {}
    #: Parameters that do not go together, for the catalogue and for `refuse_misfits`.
    refusals: ClassVar[tuple[Refusal, ...]] = ()
    #: The metric by which models are chosen, and which end of it is good.
    monitor: str
    monitor_mode: Literal["min", "max"]

    #: How the weights are optimised; the runner sets it before the fit.
    recipe: Recipe

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; torch need not look for tensors where a text, or None, follows another.

        Lightning notes on the model the name of each hook that it calls, fifty times a step.
        """
        if name in self.__dict__ and (value is None or isinstance(value, str)):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def refuse_misfits(self) -> None:
        """Raise ModelError where the saved hyper-parameters do not go together."""
        if line := misfit(self.refusals, self.hparams):
            raise ModelError(line)

    def configure_optimizers(self) -> Optimisers:
        """Return what `recipe` says."""
        return self.recipe.optimisers(self.parameters())

    def predict(self, batch: Batch) -> Sequence[Any]:  # noqa: ARG002 (for those that answer)
        """Return one output for each row, of the kind that `LineData.answers` reads.

        That is for a target of tokens the hypotheses, best first; of a label the log-probabilities
        of all classes (C,); of tags a `Tagging`; of labels their probabilities at each step (S, K);
        of a value or of values these, (T, V); of the next the log-probabilities of all symbols, or
        the frame. Called without gradients, in evaluation mode.
        """
        raise ModelError(f"{type(self).__name__} answers no lines")

    def write_on(
        self,
        batch: Batch,  # noqa: ARG002 (for those that write on)
        length: int,  # noqa: ARG002 (likewise)
        sampling: Sampling,  # noqa: ARG002 (likewise)
    ) -> list[tuple[Tensor, float]]:
        """Return `length` steps after each row, and their mean log-probability.

        That is of the kind that `StreamData.continued` reads. Called without gradients, in
        evaluation mode.
        """
        raise ModelError(f"{type(self).__name__} does not write on from a prompt: use predict")

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
