"""One layer and no recurrence: the baseline that every sequence model is held against.

Shapes: B sequences, S positions, F features of a position (V symbols, or the features of a frame),
K last positions that are read, O numbers of the output.
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from datamodules._refusals import Refusal
from lightning_modules._errors import ModelError
from lightning_modules._goals import WHOLE_REFUSALS, GoalTopology, goal_of_the_whole

Reads = Literal["counts", "shares", "last"]


class SingleLayer(GoalTopology):
    """Say which class or value belongs to a sequence by y = f(Wx + b), x being what is in it.

    Of a class, f is the softmax: this is multinomial logistic regression. Of values, f is the
    identity: linear regression. With v_j the frame at position j, or, of symbols, the vector with
    a one for the symbol and zeros for all others, x is by `reads`

        counts   Σ_j v_j: how often each symbol occurs, the bag of symbols, (F,)
        shares   1/S Σ_j v_j: the same divided by the length of the sequence, the mean frame
        last     [v_S; v_{S-1}; ...; v_{S-K+1}], position by position from the end, (K F,); zeros
                 where the sequence is shorter

    W is kept as one row of O values for each entry of x, so that of symbols Wx is a sum of rows
    and x is never written out.

    Args:
        reads: what of the sequence x holds
        window: how many of the last positions are read, where `reads` is last
        label_smoothing: share of the target's probability spread over all classes

    """

    accepts: ClassVar[frozenset[Task]] = frozenset(
        product(("tokens", "frames"), ("label", "value"))
    )
    refusals: ClassVar[tuple[Refusal, ...]] = WHOLE_REFUSALS
    # Each row of W is met by few examples, so that it wants larger steps than a dense layer.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-2}

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        reads: Reads = "counts",
        window: Annotated[int, Ge(1)] = 10,
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        num_classes: FromData[int] = 0,
        value_size: FromData[int] = 0,
        value_steps: FromData[int] = 1,
    ) -> None:
        super().__init__(goal_of_the_whole(num_classes, value_size, value_steps, label_smoothing))
        self.save_hyperparameters()
        self.refuse_misfits()
        if bool(vocabulary_size) == bool(feature_size):
            raise ModelError(
                "the data must give symbols (vocabulary_size) or frames (feature_size)"
            )
        self.reads = reads
        self.window = window if reads == "last" else 0
        self.of_symbols = vocabulary_size > 0
        self.features = vocabulary_size or feature_size
        self.weight = nn.Parameter(
            torch.zeros(self.features * max(1, self.window), self.goal.output_size)
        )
        self.bias = nn.Parameter(torch.zeros(self.goal.output_size))

    def forward(self, batch: Batch) -> Tensor:
        """Return Wx + b, (B, O)."""
        total = self._of_symbols(batch) if self.of_symbols else self._of_frames(batch)
        return (total / batch.lengths[:, None] if self.reads == "shares" else total) + self.bias

    def _from_the_end(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return how far from the end each position is, (B, S), and which are read, bool (B, S)."""
        steps = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        place = batch.lengths[:, None] - 1 - steps
        read = place >= 0  # what lies behind the end is padding
        return place, read & (place < self.window) if self.window else read

    def _of_symbols(self, batch: Batch) -> Tensor:
        """Return the sum of the rows of W that the symbols name, (B, O)."""
        place, read = self._from_the_end(batch)
        rows = batch.inputs
        if self.window:
            rows = rows + place.clamp(0, self.window - 1) * self.features
        return (nn.functional.embedding(rows, self.weight) * read[..., None]).sum(dim=1)

    def _of_frames(self, batch: Batch) -> Tensor:
        """Return W x with x of the frames written out, (B, O)."""
        place, read = self._from_the_end(batch)
        frames = batch.inputs.masked_fill(~read[..., None], 0).to(self.weight.dtype)  # (B, S, F)
        if not self.window:
            return frames.sum(dim=1) @ self.weight
        written = frames.new_zeros(len(batch), self.window, self.features)
        places = place.clamp(0, self.window - 1)[..., None].expand_as(frames)
        return written.scatter_add(1, places, frames).flatten(1) @ self.weight
