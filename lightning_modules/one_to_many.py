"""1-N: one input, a class or a vector of features, is written out as a sequence.

Shapes: B inputs, N = B * k rows in a search, T target positions, F features of a vector, E width of
an embedding, C width of what every step sees of the input (0 where it sees nothing), W width of a
state of all layers, V target symbols.
"""

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from lightning_modules._base import Share, Size
from lightning_modules._cells import CellName
from lightning_modules._decoding import Hypothesis, Search
from lightning_modules._dropout import Dropout
from lightning_modules._products import Linear
from lightning_modules._recurrent import (
    Choices,
    LayerNorm,
    RecurrentDropout,
    Residual,
    Variational,
    recurrent,
)
from lightning_modules._scheduled_sampling import ScheduledSampling
from lightning_modules._sequence_to_sequence import (
    SequenceToSequence,
    Vocabularies,
)
from lightning_modules._tanh import tanh
from lightning_modules._text import previous_symbols, target_mask, targets_of

Feed = Literal["initial", "every_step"]


class OneToMany(SequenceToSequence[Tensor]):
    """Write a sequence from one input x: a class k, or a vector v of features.

    The input becomes a vector of the width of an embedding,

        x = E_k (a row of a matrix)   or   x = W v + b,

    and the first state of all layers

        s_0 = tanh(V x + c).

    With `feed="initial"` that is all that the writer sees of the input,

        s_i = f(s_{i-1}, y_{i-1}),     p(y_i) = softmax(g(y_{i-1}, s_i)):

    Vinyals, Toshev, Bengio & Erhan 2015, "Show and tell: a neural image caption generator",
    section 3.1, where the input is seen once, before the first symbol; one layer makes it the first
    state, as in Xu et al. 2015, "Show, attend and tell", section 3.1.2. With `feed="every_step"`
    it is a part of what each step reads,

        s_i = f(s_{i-1}, y_{i-1}, x),  p(y_i) = softmax(g(y_{i-1}, s_i, x)):

    Wen et al. 2015, "Stochastic language generation in dialogue using recurrent neural networks
    with convolutional sentence reranking", section 3, whose steps all read the control vector of
    the meaning; there it loses what has been said, here it stays as it is. In both

        g(z) = W_o tanh(W_r z + b_r) + b_o, its arguments side by side in z;

    with tied embeddings (Press & Wolf 2017) W_o is the embedding of the symbols. Of several layers
    the lowest reads y_{i-1} and x. No step waits for what an earlier one chose, so that the
    library's loop trains the writer.

    Args:
        feed: whether the writer sees the input in its first state or at every step, too
        hidden_size: units of the writer
        embedding_size: width of an embedding, of symbols and of the input
        cell: kind of recurrent cell
        layers: recurrent layers of the writer
        embedding_dropout: share of embedding values dropped in training
        dropout: share of readout values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over the whole vocabulary
        tie_embeddings: whether output and embedding of the symbols use one matrix
        max_length: symbols an output may have, the end symbol not counted

    """

    accepts: ClassVar[frozenset[Task]] = frozenset({("label", "tokens"), ("vector", "tokens")})

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        feed: Feed = "every_step",
        hidden_size: Size = 256,
        embedding_size: Size = 128,
        cell: CellName = "gru",
        layers: Size = 1,
        embedding_dropout: Share = 0.2,
        dropout: Share = 0.3,
        variational: Variational = False,
        recurrent_dropout: RecurrentDropout = 0.0,
        layer_norm: LayerNorm = False,
        residual: Residual = False,
        scheduled_sampling: ScheduledSampling = 0.0,
        label_smoothing: Share = 0.0,
        tie_embeddings: bool = True,
        max_length: Annotated[int, Interval(ge=1, le=10_000)] = 100,
        target_vocabulary_size: FromData[int],
        source_classes: FromData[int] = 0,
        feature_size: FromData[int] = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        symbols = Vocabularies(source_classes, target_vocabulary_size, False, feature_size)
        self.label_smoothing = label_smoothing
        self.scheduled_sampling = scheduled_sampling
        choices = Choices(variational, recurrent_dropout, layer_norm, residual)
        self.search = Search(max_length_ratio=0.0, max_length_extra=max_length + 1)
        self.every_step = feed == "every_step"
        self.add_embeddings(
            symbols,
            embedding_size,
            tied=tie_embeddings,
            dropout=embedding_dropout,
            variational=variational,
        )
        self.dropout = Dropout(dropout)
        seen = embedding_size * (2 if self.every_step else 1)
        self.writer = recurrent(
            cell, seen, hidden_size, layers=layers, dropout=dropout, choices=choices
        )
        self.first_state = Linear(embedding_size, self.writer.state_size)
        self.add_readout(hidden_size + seen, symbols, embedding_size)
        self.initialise(self.first_state, tied=tie_embeddings)

    def features(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return what every target symbol is read off, given those before it, (M, H + E + C)."""
        context, first = self.read(batch)
        symbols = previous_symbols(targets_of(batch)[0], previous)
        embedded = self.target_embedding(symbols)  # (B, T, E)
        repeated = context[:, None].expand(-1, embedded.shape[1], -1)
        seen = torch.cat([self.embedding_dropout(embedded), repeated], dim=-1)
        states, _ = self.writer(seen, state=first)
        features = torch.cat([states, seen], dim=-1).flatten(0, 1)
        counted = target_mask(batch).flatten().nonzero().squeeze(1)
        return features.index_select(0, counted)

    def generate(self, batch: Batch, how: Search | None = None) -> list[list[Hypothesis]]:
        """Return the n best outputs of each input, best first; equal inputs are searched once.

        What is drawn by chance is drawn for each.
        """
        if (how or self.search).sampling or len(batch) < 2:
            return super().generate(batch, how)
        inputs, places = torch.unique(batch.inputs, dim=0, return_inverse=True)
        once = Batch(inputs, torch.ones_like(batch.lengths[: len(inputs)]))
        found = super().generate(once, how)
        return [found[place] for place in places.tolist()]

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what every step sees of the input (B, C), and s_0 of all layers (B, W)."""
        read = self.inputs(batch)[:, 0]  # (B, E)
        first = tanh(self.first_state(read)).to(read.dtype)
        return read if self.every_step else read[:, :0], first

    def write(self, kept: Tensor, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of all layers: symbols (N,), state (N, W) -> logits (N, V), state (N, W)."""
        context = kept.repeat_interleave(len(symbols) // len(kept), dim=0)
        seen = torch.cat([self.target_embedding(symbols), context], dim=-1)
        tops, moved = self.writer(seen[:, None], state=state)
        return self.logits(torch.cat([tops[:, 0], seen], dim=-1)), moved.to(state.dtype)

    def keep(self, kept: Tensor, index: Tensor) -> Tensor:
        """Return what is seen of some of the inputs."""
        return kept[index]
