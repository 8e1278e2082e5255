"""N-M without attention: the input becomes one vector, and the output is written from it.

Shapes: B sentences, N = B * k rows in a search, S source positions, T target positions, E width
of an embedding, H hidden units, C width of the context seen at every step (0 where it is not), W
width of a state of all layers, V target symbols, or values of a step.
"""

from itertools import product
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from lightning_modules._base import Share, Size
from lightning_modules._cells import CellName
from lightning_modules._decoding import Search
from lightning_modules._dropout import Dropout
from lightning_modules._errors import ModelError
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
from lightning_modules._sequence_to_sequence import Vocabularies
from lightning_modules._tanh import tanh
from lightning_modules._text import target_mask
from lightning_modules._value_writing import SymbolsOrValues

Context = Literal["last", "transformed_last", "transformed_all"]
Feed = Literal["initial", "every_step"]


class EncoderDecoder(SymbolsOrValues):
    """Read a sequence into one context vector c, and write another sequence from it.

    The encoder's states are h_1 ... h_S; of a bidirectional one h_j = [→h_j; ←h_j], each direction
    with half of the units, and its last state is h_S = [→h_S; ←h_1]. With c fed to the first step
    (`feed="initial"`), s_0 = c and

        s_i = f(s_{i-1}, y_{i-1}),  p(y_i) = softmax(g(y_{i-1}, s_i)),
        c = h_S                          last: every layer's state and memory as they are;
                                         Sutskever, Vinyals & Le 2014, "Sequence to sequence
                                         learning with neural networks"
        c = tanh(V h_S + b)              transformed_last: V' h_S of Cho et al. 2014 and s_0 of
                                         Bahdanau et al. 2015, appendix A.2.2
        c = tanh(V (1/S) Σ_j h_j + b)    transformed_all: Sennrich et al. 2017, "Nematus: a toolkit
                                         for neural machine translation"

    and fed to every step (`feed="every_step"`), with c of width H made of the highest layer's
    states by the same three equations,

        s_0 = tanh(V' c + b'),  s_i = f(s_{i-1}, y_{i-1}, c),  p(y_i) = softmax(g(y_{i-1}, s_i, c)),

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical
    machine translation", section 2.2 and appendix A. In all six

        g(x) = W_o tanh(W_r x + b_r) + b_o, its arguments side by side in x;

    with tied embeddings (Press & Wolf 2017) W_o is the target embedding, which is also the
    source's where both sides share a vocabulary. Of several layers the lowest reads c. No step
    waits for what an earlier one chose, so that one pass over all steps trains the decoder.

    Args:
        context: what the encoder hands over
        feed: whether the decoder sees that in its first state or at every step
        hidden_size: units of the decoder, and of the encoder with both its directions
        embedding_size: width of an embedding, or of what a frame is mapped to
        bidirectional: whether the encoder reads in both directions
        cell: kind of recurrent cell, of encoder and decoder
        layers: recurrent layers of the encoder, and of the decoder
        embedding_dropout: share of embedding values dropped in training
        dropout: share of readout values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over the whole vocabulary; values
            have none
        tie_embeddings: whether output and embeddings use one matrix; values have none to tie
        max_length_ratio: symbols an output may have for each input symbol
        max_length_extra: symbols an output may have beyond that

    """

    accepts: ClassVar[frozenset[Task]] = frozenset(
        product(("tokens", "frames"), ("tokens", "value"))
    )

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        context: Context = "transformed_last",
        feed: Feed = "every_step",
        hidden_size: Size = 512,
        embedding_size: Size = 256,
        bidirectional: bool = True,
        cell: CellName = "gru",
        layers: Size = 1,
        embedding_dropout: Share = 0.2,
        dropout: Share = 0.3,
        variational: Variational = False,
        recurrent_dropout: RecurrentDropout = 0.0,
        layer_norm: LayerNorm = False,
        residual: Residual = False,
        scheduled_sampling: ScheduledSampling = 0.0,
        label_smoothing: Share = 0.1,
        tie_embeddings: bool = True,
        max_length_ratio: Annotated[float, Interval(ge=0, le=100)] = 2.0,
        max_length_extra: Size = 10,
        source_vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        target_vocabulary_size: FromData[int] = 0,
        shared_vocabulary: FromData[bool] = False,
        value_size: FromData[int] = 0,
        value_steps: FromData[int] = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if bool(target_vocabulary_size) == bool(value_size):
            raise ModelError(
                "the data must give symbols (target_vocabulary_size) or values (value_size) to "
                "write, " + ("not both" if value_size else "and gives neither")
            )
        symbols = Vocabularies(
            source_vocabulary_size,
            target_vocabulary_size or value_size,
            shared_vocabulary,
            feature_size,
        )
        tied = tie_embeddings and not value_size
        self.label_smoothing = label_smoothing
        self.scheduled_sampling = scheduled_sampling
        choices = Choices(variational, recurrent_dropout, layer_norm, residual)
        self.search = Search(max_length_ratio=max_length_ratio, max_length_extra=max_length_extra)
        self.over_all = context == "transformed_all"
        self.every_step = feed == "every_step"
        self.add_embeddings(
            symbols,
            embedding_size,
            tied=tied,
            dropout=embedding_dropout,
            variational=variational,
        )
        if value_size:
            self.write_values(value_size, value_steps, embedding_size)
        self.dropout = Dropout(dropout)
        self.encoder = recurrent(
            cell,
            embedding_size,
            _each_direction(hidden_size, bidirectional=bidirectional),
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
            choices=choices,
        )
        seen = embedding_size + (hidden_size if self.every_step else 0)
        self.writer = recurrent(
            cell, seen, hidden_size, layers=layers, dropout=dropout, choices=choices
        )
        made = hidden_size if self.every_step else self.writer.state_size
        self.transform = None if context == "last" else Linear(hidden_size, made)
        self.first_state = Linear(hidden_size, self.writer.state_size) if self.every_step else None
        self.add_readout(hidden_size + seen, symbols, embedding_size)
        linears = [each for each in (self.transform, self.first_state) if each is not None]
        self.initialise(*linears, tied=tied)

    def features(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return what every target symbol is read off, given those before it, (M, H + E + C).

        Of values all are, given those before each, (B, T, H + E + C).
        """
        context, first = self.read(batch)
        previous = self.previous(batch, previous)
        embedded = self.target_embedding(previous)  # (B, T, E)
        repeated = context[:, None].expand(-1, embedded.shape[1], -1)
        seen = torch.cat([self.embedding_dropout(embedded), repeated], dim=-1)
        states, _ = self.writer(seen, state=first)
        features = torch.cat([states, seen], dim=-1)
        if self.goal is not None:
            return features
        counted = target_mask(batch).flatten().nonzero().squeeze(1)
        return features.flatten(0, 1).index_select(0, counted)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the context that every step sees (B, C), and s_0 of all layers (B, W)."""
        embedded = self.inputs(batch)
        states, last = self.encoder(embedded, batch.lengths)
        context = self._context(states, last, batch.lengths)
        if self.first_state is None:
            return embedded.new_zeros(len(batch), 0), context.to(embedded.dtype)
        first = tanh(self.first_state(context))
        return context.to(embedded.dtype), first.to(embedded.dtype)

    def _context(self, states: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
        """Return c for states (B, S, H) and the last of all layers (B, W)."""
        if self.transform is None:
            # The layers of both directions side by side are laid out as the decoder's layers are.
            return self.encoder.top(last) if self.every_step else last
        source = self.encoder.top(last)
        if self.over_all:
            source = states.sum(dim=1) / lengths[:, None]  # the states behind a length are zero
        return tanh(self.transform(source))

    def write(self, kept: Tensor, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of all layers: symbols (N,), state (N, W) -> logits (N, V), state (N, W).

        Values (N, V) in place of the symbols give the next ones in place of the logits.
        """
        context = kept.repeat_interleave(len(symbols) // len(kept), dim=0)
        seen = torch.cat([self.target_embedding(symbols), context], dim=-1)
        tops, moved = self.writer(seen[:, None], state=state)
        return self.logits(torch.cat([tops[:, 0], seen], dim=-1)), moved.to(state.dtype)

    def keep(self, kept: Tensor, index: Tensor) -> Tensor:
        """Return the contexts of some of the sentences."""
        return kept[index]


def _each_direction(hidden_size: int, *, bidirectional: bool) -> int:
    if not bidirectional:
        return hidden_size
    if hidden_size % 2:
        raise ModelError(
            f"hidden_size is {hidden_size}; a bidirectional encoder gives half of it to each "
            "direction: choose an even one, or bidirectional = false"
        )
    return hidden_size // 2
