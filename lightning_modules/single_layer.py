"""One layer and no recurrence: the baseline that every sequence model is held against.

Shapes: B sequences, S positions, V symbols, K last symbols that are read, C classes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from datamodules._batch import Batch
from datamodules._params import FromData
from lightning_modules._attention import padding_bias
from lightning_modules._classes import ClassTopology

Reads = Literal["counts", "shares", "last"]


class SingleLayer(ClassTopology):
    """Say which class a sequence belongs to by y = f(Wx + b), x being what is in it.

    f is the softmax, so this is multinomial logistic regression. The vector x is by `reads`

        counts   how often each symbol occurs: (V,), the bag of symbols
        shares   the same divided by the length of the sequence
        last     which symbols the last K are, one-hot: (K * V,), position by position from the end

    W is kept as one row of C values for each entry of x, so that Wx is a sum of rows and x is
    never written out.

    Args:
        reads: what of the sequence x holds
        window: how many of the last symbols are read, where `reads` is last
        label_smoothing: share of the target's probability spread over all classes

    """

    # Each row of W is met by few examples, so that it wants larger steps than a dense layer.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-2}

    def __init__(
        self,
        *,
        reads: Reads = "counts",
        window: Annotated[int, Ge(1)] = 10,
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        vocabulary_size: FromData[int],
        num_classes: FromData[int],
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.reads = reads
        self.window = window if reads == "last" else 0
        self.vocabulary_size = vocabulary_size
        self.weight = nn.Parameter(torch.zeros(vocabulary_size * max(1, self.window), num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, batch: Batch) -> Tensor:
        """Return Wx + b, (B, C)."""
        rows, counted = batch.inputs, self._inside(batch)
        if self.window:
            place = batch.lengths[:, None] - 1 - torch.arange(rows.shape[1], device=rows.device)
            counted = counted & (place < self.window)
            rows = rows + place.clamp(0, self.window - 1) * self.vocabulary_size
        total = (nn.functional.embedding(rows, self.weight) * counted[..., None]).sum(dim=1)
        return (total / batch.lengths[:, None] if self.reads == "shares" else total) + self.bias

    def _inside(self, batch: Batch) -> Tensor:
        """Return which positions are not padding, bool (B, S)."""
        return padding_bias(batch.lengths, batch.inputs.shape[1], self.weight.dtype) == 0
