"""N-1: a sequence in, one class or value out.

Shapes: B sequences, S positions, E width of an embedding, H hidden units, A = H or 2H width of an
annotation, O numbers of the output.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from datamodules._refusals import Refusal
from lightning_modules._base import Share, Size
from lightning_modules._cells import CellName
from lightning_modules._dropout import Dropout
from lightning_modules._goals import WHOLE_REFUSALS, GoalTopology, goal_of_the_whole
from lightning_modules._inputs import Inputs
from lightning_modules._parts import padding_bias
from lightning_modules._products import Linear
from lightning_modules._recurrent import (
    Choices,
    LayerNorm,
    RecurrentDropout,
    Residual,
    Variational,
    recurrent,
)
from lightning_modules._tanh import tanh

Pooling = Literal["last", "mean", "max", "attention"]


class ManyToOne(GoalTopology):
    """Read a sequence, in one direction or both, and say which class or value belongs to it.

    Elman 1990, "Finding structure in time", with the annotations of Schuster & Paliwal 1997 where
    both directions are read:

        h_j = f(h_{j-1}, x_j),  or [→h_j; ←h_j],
        c = pool(h_1, ..., h_S),  o = W c + b,

    where x_j is the embedding of a symbol, or a linear map of a frame of features. Of a class,
    p(y) = softmax(o); of values, y = o, and what is least is the mean of their squared errors.

    What stands for the whole sequence, c, is by `pooling`

        last       h_S, or [→h_S; ←h_1]: what each direction knows at its end
        mean       1/S Σ_j h_j
        max        max_j h_j, each unit by itself (Collobert & Weston 2008)
        attention  Σ_j α_j h_j, α = softmax_j(v · tanh(U h_j + d)) (Yang et al. 2016, eq. 5-7)

    Args:
        hidden_size: units of each direction
        embedding_size: width of an embedding, or of what a frame is mapped to; hidden_size if not
            given
        cell: kind of recurrent cell
        layers: recurrent layers
        bidirectional: whether the sequence is read backwards too
        pooling: what of the annotations the output is read from
        symbol_dropout: share of input symbols replaced by the unknown one in training
        embedding_dropout: share of embedding values dropped in training
        dropout: share of pooled values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over all classes

    """

    accepts: ClassVar[frozenset[Task]] = frozenset(
        product(("tokens", "frames"), ("label", "value"))
    )
    refusals: ClassVar[tuple[Refusal, ...]] = WHOLE_REFUSALS
    # A batch has one target a row, not one a symbol: far fewer than the general rate is made for.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        hidden_size: Size = 128,
        embedding_size: Size | None = None,
        cell: CellName = "gru",
        layers: Size = 1,
        bidirectional: bool = True,
        pooling: Pooling = "max",
        symbol_dropout: Share = 0.0,
        embedding_dropout: Share = 0.2,
        dropout: Share = 0.3,
        variational: Variational = False,
        recurrent_dropout: RecurrentDropout = 0.0,
        layer_norm: LayerNorm = False,
        residual: Residual = False,
        label_smoothing: Share = 0.0,
        vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        num_classes: FromData[int] = 0,
        value_size: FromData[int] = 0,
        value_steps: FromData[int] = 1,
    ) -> None:
        super().__init__(goal_of_the_whole(num_classes, value_size, value_steps, label_smoothing))
        self.save_hyperparameters()
        self.refuse_misfits()
        self.pooling = pooling
        choices = Choices(variational, recurrent_dropout, layer_norm, residual)
        self.inputs = Inputs(
            vocabulary_size,
            feature_size,
            embedding_size or hidden_size,
            dropout=embedding_dropout,
            symbol_dropout=symbol_dropout,
            locked=variational,
        )
        self.encoder = recurrent(
            cell,
            self.inputs.output_size,
            hidden_size,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
            choices=choices,
        )
        annotation = self.encoder.output_size
        self.attention = _PoolingScore(annotation) if pooling == "attention" else None
        self.dropout = Dropout(dropout)
        self.output = Linear(annotation, self.goal.output_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits of all classes, or the values of all steps, (B, O)."""
        annotations, last = self.encoder(self.inputs(batch), batch.lengths)  # (B, S, A), (B, W)
        pooled = (
            self.encoder.top(last) if self.pooling == "last" else self._pool(annotations, batch)
        )
        outputs: Tensor = self.output(self.dropout(pooled))
        return outputs

    def _pool(self, annotations: Tensor, batch: Batch) -> Tensor:
        """Return mean, maximum or weighted sum of (B, S, A) over the true length, (B, A)."""
        if self.pooling == "mean":  # annotations are zero behind each length
            return annotations.sum(dim=1) / batch.lengths[:, None]
        bias = padding_bias(batch.lengths, annotations.shape[1], annotations.dtype)[..., None]
        if self.attention is None:
            return (annotations + bias).amax(dim=1)
        weights = torch.softmax(self.attention(annotations) + bias, dim=1)
        return (weights * annotations).sum(dim=1)


class _PoolingScore(nn.Module):
    """v · tanh(U h_j + d), the same question to every sequence: (B, S, A) -> (B, S, 1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.key = Linear(size, size)
        self.vector = Linear(size, 1, bias=False)  # the softmax sees no bias
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.zeros_(self.key.bias)
        nn.init.xavier_uniform_(self.vector.weight)

    def forward(self, annotations: Tensor) -> Tensor:
        energies: Tensor = self.vector(tanh(self.key(annotations)))
        return energies
