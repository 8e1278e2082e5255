"""Writing values as symbols are written: each step reads what the one before it has written.

Shapes: B sequences, T steps, V values of a step, E width of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from datamodules._batch import Batch
from datamodules._values import BEFORE
from lightning_modules._goals import ValueGoal
from lightning_modules._products import Linear
from lightning_modules._sequence_to_sequence import SequenceToSequence
from lightning_modules._text import StepOutput, previous_symbols, targets_of


@dataclass(frozen=True)
class _Errors:
    """What is gathered of values, given the true ones before each, and given the model's own."""

    forced: MetricCollection
    free: MetricCollection


class SymbolsOrValues(SequenceToSequence[Tensor]):
    """Write symbols, or values where the data has these: then all that is scored is their error.

    In place of its embedding, y_{i-1} is read as W_y y_{i-1} + b_y; y_0 is the newest value before
    the targets where the data knows it (`BEFORE`), else zero. In place of logits stand the values.
    A training step reads the true values (teacher forcing); validation and prediction read the
    model's own. `loss` of a validation is that of teacher forcing, as in training; `mse`, `mae` and
    what else there is are of the model's own.
    """

    #: What values cost; None where symbols are written.
    goal: ValueGoal | None = None

    def write_values(self, columns: int, steps: int, width: int) -> None:
        """Read and write values; call it after `add_embeddings`."""
        self.goal = ValueGoal(columns, steps)
        self._steps = steps
        self.writes_text = False
        self.monitor, self.monitor_mode = self.goal.monitor, self.goal.monitor_mode
        linear = Linear(columns, width)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        # Whatever gives a step's input its vector stands here.
        self.target_embedding = linear  # type: ignore[assignment]

    def previous(self, batch: Batch, chosen: Tensor | None = None) -> Tensor:
        """Return y_{i-1} for every y_i, symbols (B, T) or values (B, T, V).

        They are the true ones unless others were chosen. Raise ModelError for a batch without
        targets.
        """
        targets = targets_of(batch)[0]
        if self.goal is None:
            return previous_symbols(targets, chosen)
        if chosen is not None:
            return chosen
        return torch.cat([self._newest(batch)[:, None], targets[:, :-1]], dim=1)

    def _newest(self, batch: Batch) -> Tensor:
        """Return y_0, (B, V)."""
        known = batch.extras.get(BEFORE)
        return (
            self.output.weight.new_zeros(len(batch), len(self.output.weight))
            if known is None
            else known
        )

    def run_free(self, batch: Batch) -> Tensor:
        """Return the values of all steps, each written after the model's own, (B, T, V)."""
        kept, state = self.read(batch)
        value, told = self._newest(batch), []
        for _ in range(self._steps):
            written, state = self.write(kept, value, state)
            value = written.to(value.dtype)
            told.append(value)
        return torch.stack(told, dim=1)

    def predict(self, batch: Batch) -> Sequence[Any]:
        """Return the n best outputs of each input, or its values, float32 (T, V)."""
        if self.goal is None:
            return super().predict(batch)
        return self.goal.answers(self.run_free(batch), batch)

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Return the loss of a batch and what its symbols or values count for."""
        if self.goal is None:
            return super().training_step(batch, batch_idx)
        return self.goal.learn(self(batch, self.own_or_true(batch)), batch)

    def mixed(self, batch: Batch, share: float) -> Tensor:
        """Return y_{i-1} for every y_i, this share of them the model's own."""
        if self.goal is None:
            return super().mixed(batch, share)
        targets = targets_of(batch)[0]
        own = torch.rand(targets.shape[:2], device=targets.device) < share
        kept, state = self.read(batch)
        read = [self._newest(batch)]
        for at in range(targets.shape[1] - 1):
            written, state = self.write(kept, read[-1], state)
            read.append(torch.where(own[:, at, None], written.to(targets.dtype), targets[:, at]))
        return torch.stack(read, dim=1)

    def nothing_yet(self) -> Any:
        """Return what is gathered before the first batch; of values, of both ways to write them."""
        if self.goal is None:
            return super().nothing_yet()
        return _Errors(*(self.goal.nothing_yet(self.device) for _ in range(2)))

    def gather(self, gathered: Any, batch: Batch) -> None:
        """Add a batch."""
        if self.goal is None:
            super().gather(gathered, batch)
            return
        self.goal.gather(gathered.forced, self(batch), batch)
        written = self.run_free(batch)
        self.goal.gather(gathered.free, written, batch)
        if self.noting:
            sums = dict(self.goal.row_sums(written, batch))
            del sums["loss"]  # that is of teacher forcing
            self.noting.add(batch.extras["index"].tolist(), sums)

    def scores(self, gathered: Any, split: str) -> dict[str, float]:
        """Return the scores of the split."""
        if self.goal is None:
            return super().scores(gathered, split)
        forced = self.goal.scores(gathered.forced, self.data, split)
        free = self.goal.scores(gathered.free, self.data, split)
        return {**free, "loss": forced["loss"]}
