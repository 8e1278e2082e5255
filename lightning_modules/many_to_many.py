"""N-N: an output for every step read, and at choice one label for them all.

Shapes: B sequences, S steps, L characters of a word, M words of a batch, E width of an embedding,
D width of what characters say, H hidden units, A = H or 2H width of an annotation, O numbers of an
output, C labels.
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
from lightning_modules._characters import CharacterConvolution, CharacterRNN
from lightning_modules._dropout import dropout_of
from lightning_modules._errors import ModelError
from lightning_modules._goals import GoalTopology, LabelsGoal, ValueGoal
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
from lightning_modules._tagging import Heads, TagGoal

Characters = Literal["convolution", "recurrent", "none"]


class ManyToMany(GoalTopology):
    """Read a sequence, in one direction or both, and say something at every step.

    Elman 1990, "Finding structure in time", with the annotations of Schuster & Paliwal 1997 where
    both directions are read:

        h_j = f(h_{j-1}, x_j),  or [→h_j; ←h_j],   o_j = W h_j + b,

    where x_j is the embedding of a symbol, or a linear map of a frame of features. What is said is,
    as the data has it,

        a tag           p(y_j) = softmax(o_j)
        several labels  p(y_jk = 1) = σ(o_jk), each for itself
        values          y_j = o_j, the mean of their squared errors being least

    Where the data gives a label of the whole sequence, a second head reads it off all steps (Liu &
    Lane 2016, "Attention-based recurrent neural network models for joint intent detection and slot
    filling", here with the maximum in place of attention), and its loss is added:

        p(z) = softmax(V max_j h_j + d), unit by unit.

    Where the data gives the characters of words, x_j = [E w_j; what the characters of w_j say], by
    `characters`

        convolution  max_l of a convolution over three characters (Ma & Hovy 2016, section 2.1)
        recurrent    the last states of both directions (Lample et al. 2016, section 4.1)
        none         they are left out

    Args:
        hidden_size: units of each direction
        embedding_size: width of a symbol's embedding, or of what a frame is mapped to; hidden_size
            if not given
        cell: kind of recurrent cell
        layers: recurrent layers
        bidirectional: whether the sequence is read backwards too
        characters: how the characters of a word are read, where the data gives them
        character_embedding_size: width of a character's embedding
        character_size: units of a convolution, or of each direction of a recurrent reader
        symbol_dropout: share of input symbols replaced by the unknown one in training
        embedding_dropout: share of embedding values dropped in training
        dropout: share of annotation values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over all tags

    """

    accepts: ClassVar[frozenset[Task]] = frozenset(
        {("tokens", "tags"), *product(("frames",), ("tags", "labels", "values"))}
    )
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            when={"num_tags": (0,)},
            unless={"label_smoothing": (0.0,)},
            because="label_smoothing spreads the probability of one tag over all, and this data "
            "has no tags to choose one from: leave it out",
        ),
    )
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        hidden_size: Size = 128,
        embedding_size: Size | None = None,
        cell: CellName = "lstm",
        layers: Size = 1,
        bidirectional: bool = True,
        characters: Characters = "convolution",
        character_embedding_size: Size = 30,
        character_size: Size = 50,
        symbol_dropout: Share = 0.05,
        embedding_dropout: Share = 0.4,
        dropout: Share = 0.5,
        variational: Variational = False,
        recurrent_dropout: RecurrentDropout = 0.0,
        layer_norm: LayerNorm = False,
        residual: Residual = False,
        label_smoothing: Share = 0.0,
        vocabulary_size: FromData[int] = 0,
        character_vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        num_tags: FromData[int] = 0,
        num_labels: FromData[int] = 0,
        label_size: FromData[int] = 0,
        value_size: FromData[int] = 0,
    ) -> None:
        super().__init__(_goal(num_tags, label_size, value_size, label_smoothing))
        self.save_hyperparameters()
        self.refuse_misfits()
        choices = Choices(variational, recurrent_dropout, layer_norm, residual)
        self.inputs = Inputs(
            vocabulary_size,
            feature_size,
            embedding_size or hidden_size,
            dropout=embedding_dropout,
            symbol_dropout=symbol_dropout,
            locked=variational,
        )
        self.speller = _speller(
            characters if character_vocabulary_size else "none",
            (character_vocabulary_size, character_embedding_size, character_size),
            cell,
        )
        self.speller_dropout = dropout_of(embedding_dropout, variational=variational)
        self.encoder = recurrent(
            cell,
            self.inputs.output_size + (self.speller.output_size if self.speller else 0),
            hidden_size,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
            choices=choices,
        )
        self.dropout = dropout_of(dropout, variational=variational)
        self.output = Linear(self.encoder.output_size, self.goal.output_size)
        self.label_output = Linear(self.encoder.output_size, num_labels) if num_labels else None
        for linear in filter(None, (self.output, self.label_output)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, batch: Batch) -> Tensor | Heads:
        """Return the outputs of every step (B, S, O).

        Of tags, with the logits of all labels of the whole (B, C) or None beside them.
        """
        annotations, _ = self.encoder(self._read(batch), batch.lengths)  # (B, S, A)
        dropped = self.dropout(annotations)
        outputs: Tensor = self.output(dropped)
        if not isinstance(self.goal, TagGoal):
            return outputs
        if self.label_output is None:
            return outputs, None
        bias = padding_bias(batch.lengths, dropped.shape[1], dropped.dtype)[..., None]
        return outputs, self.label_output((dropped + bias).amax(dim=1))

    def _read(self, batch: Batch) -> Tensor:
        """Return x of every step, (B, S, E + D)."""
        words: Tensor = self.inputs(batch)
        if self.speller is None:
            return words
        inside = torch.arange(words.shape[1], device=words.device) < batch.lengths[:, None]
        characters = batch.extras["characters"]  # (B, S', L), S' <= S
        there = inside[:, : characters.shape[1]]
        said = self.speller(characters[there])  # (M, D)
        spelled = said.new_zeros(*inside.shape, said.shape[-1])
        spelled[inside] = said
        return torch.cat([words.to(said.dtype), self.speller_dropout(spelled)], dim=-1)


def _goal(
    tags: int, labels: int, values: int, label_smoothing: float
) -> TagGoal | LabelsGoal | ValueGoal:
    if [bool(each) for each in (tags, labels, values)].count(True) != 1:
        raise ModelError(
            "the data must give one thing to say at every step: tags (num_tags), labels"
            " (label_size) or values (value_size)"
        )
    if tags:
        return TagGoal(tags, label_smoothing)
    return LabelsGoal(labels) if labels else ValueGoal(values)


def _speller(
    kind: Characters, sizes: tuple[int, int, int], cell: CellName
) -> CharacterConvolution | CharacterRNN | None:
    if kind == "none":
        return None
    return CharacterConvolution(*sizes) if kind == "convolution" else CharacterRNN(*sizes, cell)
