"""N-M with attention: an encoder, and a decoder that looks back at every step.

Shapes: B sentences, N = B * k rows in a search, S source positions, T target positions, E width
of an embedding, H hidden units, C = 2H (one direction: H) width of an annotation, G*H a cell's
drive, V target symbols.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from datamodules._batch import Batch
from datamodules._params import FromData
from lightning_modules._attention import (
    Memory,
    OrderName,
    Parts,
    Scanned,
    bind,
    keep_rows,
    make_order,
    remember,
    scan,
)
from lightning_modules._cells import CELLS, CellName, FusedRNN
from lightning_modules._decoding import Search
from lightning_modules._scores import SCORE_REFUSALS, ScoreName, ScoreSizes, make_score
from lightning_modules._sequence_to_sequence import (
    SequenceToSequence,
    Share,
    Size,
    Vocabularies,
    Writer,
    log_probabilities,
)
from lightning_modules._text import previous_symbols, target_mask, targets_of


class AttentionEncoderDecoder(SequenceToSequence[Parts]):
    """Read a sequence, write another, attending to the input at every step.

    Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
    translate":

        h_j = [→h_j; ←h_j],  s_0 = tanh(W_0 [→h_S; ←h_1] + b_0),
        e_ij = a(s_{i-1}, h_j),  α_ij = softmax_j(e_ij),  c_i = Σ_j α_ij h_j,
        s_i = f(s_{i-1}, y_{i-1}, c_i),  p(y_i) = softmax(g(y_{i-1}, s_i, c_i)),
        g(y, s, c) = W_o tanh(W_r [s; y; c] + b_r) + b_o.

    With `order="after"` s_i attends and v_i, made of it and c_i, is fed to the next step (Luong,
    Pham & Manning 2015, "Effective approaches to attention-based neural machine translation"):

        s_i = f(s_{i-1}, y_{i-1}, v_{i-1}),  e_ij = a(s_i, h_j),  v_i = tanh(W_v [c_i; s_i] + b_v).

    The scores:

        additive    v · tanh(W s + U h_j + b), Bahdanau et al. 2015
        dot         s · h_j, Luong et al. 2015; needs bidirectional = false
        general     s · W h_j, Luong et al. 2015
        scaled_dot  (W s) · (U h_j) / √A, Vaswani et al. 2017, one head
        location    v · tanh(W s + U h_j + V (F * α_{i-1})_j + b), Chorowski et al. 2015

    With several layers the lowest attends and those above run over its states. With tied
    embeddings (Press & Wolf 2017) W_o is the target embedding, which is also the source's where
    both sides share a vocabulary.

    Args:
        hidden_size: units of each direction of the encoder, and of the decoder
        embedding_size: width of an embedding, or of what a frame is mapped to; hidden_size if not
            given
        bidirectional: whether the encoder reads in both directions
        score: how attention compares a state with an annotation
        order: whether the state before a step or the one after it attends
        attention_size: width in which attention compares states; hidden_size if not given
        location_filters: filters by which a location score sees the weights before; 10 if not given
        location_reach: positions they see to each side; 15 if not given
        cell: kind of recurrent cell, of encoder and decoder
        layers: recurrent layers of the encoder, and of the decoder
        embedding_dropout: share of embedding values dropped in training
        dropout: share of readout values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over the whole vocabulary
        tie_embeddings: whether output and embeddings use one matrix
        max_length_ratio: symbols an output may have for each input symbol
        max_length_extra: symbols an output may have beyond that

    """

    refusals = SCORE_REFUSALS

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        hidden_size: Size = 256,
        embedding_size: Size | None = None,
        bidirectional: bool = True,
        score: ScoreName = "additive",
        order: OrderName = "before",
        attention_size: Size | None = None,
        location_filters: Size | None = None,
        location_reach: Annotated[int, Ge(0)] | None = None,
        cell: CellName = "gru",
        layers: Size = 1,
        embedding_dropout: Share = 0.2,
        dropout: Share = 0.3,
        label_smoothing: Share = 0.1,
        tie_embeddings: bool = True,
        max_length_ratio: Annotated[float, Interval(ge=0, le=100)] = 2.0,
        max_length_extra: Size = 10,
        source_vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        target_vocabulary_size: FromData[int],
        shared_vocabulary: FromData[bool] = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.refuse_misfits()
        symbols = Vocabularies(
            source_vocabulary_size, target_vocabulary_size, shared_vocabulary, feature_size
        )
        self.label_smoothing = label_smoothing
        self.search = Search(max_length_ratio=max_length_ratio, max_length_extra=max_length_extra)
        width = embedding_size or hidden_size
        self.add_embeddings(symbols, width, tied=tie_embeddings, dropout=embedding_dropout)
        self.dropout = nn.Dropout(dropout)
        self.encoder = FusedRNN(
            cell, width, hidden_size, layers=layers, bidirectional=bidirectional, dropout=dropout
        )
        annotation = self.encoder.output_size
        self.cell = CELLS[cell](hidden_size)
        sizes = ScoreSizes(
            hidden_size, annotation, attention_size, location_filters, location_reach
        )
        self.score = make_score(score, sizes)
        self.drive = nn.Linear(width, self.cell.drive_size)
        self.order = make_order(order, self.cell, annotation)
        self.upper = (
            FusedRNN(cell, hidden_size, hidden_size, layers=layers - 1, dropout=dropout)
            if layers > 1
            else None
        )
        self.first_state = nn.Linear(annotation, self._state_size)
        self.add_readout(hidden_size + width + annotation, symbols, width)
        self.initialise(self.drive, self.first_state, tied=tie_embeddings)
        self.drive.bias.data.copy_(self.cell.initial_bias())

    @property
    def _state_size(self) -> int:
        return self.cell.state_size + (self.upper.state_size if self.upper else 0)

    def forward(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return the logits of every target symbol given those before it, (M, V)."""
        embedded, scanned, tops = self._write(batch, previous)
        features = torch.cat([tops, embedded, scanned.contexts], dim=-1).flatten(0, 1)
        counted = target_mask(batch).flatten().nonzero().squeeze(1)
        return self.logits(features.index_select(0, counted))

    def alignment(self, batch: Batch) -> Tensor:
        """Return α_ij of each target symbol, (B, T, S)."""
        return self._write(batch)[1].weights

    def read(self, batch: Batch) -> tuple[Parts, Tensor]:
        """Return the step bound to what is attended to, and s_0 of all layers (B, W)."""
        memory, first = self._remember(batch)
        parts = bind(self.cell, self.score, self.order, memory)
        lowest, above = self._layers(first)
        return parts, torch.cat([parts.start(lowest), above], dim=1)

    def _layers(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the step that attends has of a state, and the layers above it."""
        lowest = state.shape[1] - self._upper_size
        return state[:, :lowest], state[:, lowest:]

    def _remember(self, batch: Batch) -> tuple[Memory, Tensor]:
        """Return what is attended to, and s_0 of all layers (B, W)."""
        embedded = self.inputs(batch)
        annotations, last = self.encoder(embedded, batch.lengths)
        first = torch.tanh(self.first_state(self.encoder.top(last)))
        return remember(self.score, annotations, batch.lengths), first.to(embedded.dtype)

    def _write(
        self, batch: Batch, previous: Tensor | None = None
    ) -> tuple[Tensor, Scanned, Tensor]:
        """Return y_{i-1} embedded (B, T, E), the scan, and the top layer's states (B, T, H)."""
        memory, first = self._remember(batch)
        lowest, above = self._layers(first)
        symbols = previous_symbols(targets_of(batch)[0], previous)
        embedded = self.embedding_dropout(self.target_embedding(symbols))
        scanned = scan(
            self.cell,
            self.score,
            self.order,
            memory=memory,
            drives=self.drive(embedded),
            state=lowest,
        )
        if self.upper is None:
            return embedded, scanned, scanned.states
        tops, _ = self.upper(self.dropout(scanned.states), state=above)
        return embedded, scanned, tops

    @property
    def _upper_size(self) -> int:
        return self._state_size - self.cell.state_size

    def decoder(self, batch: Batch) -> "AttendingWriter":
        """Return the step by which outputs for these inputs are written."""
        return AttendingWriter(self, *self.read(batch))

    def write(self, kept: Parts, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of all layers: symbols (N,), state (N, W) -> logits (N, V), state (N, W)."""
        logits, state, _ = self.attend(kept, symbols, state)
        return logits, state

    def attend(self, kept: Parts, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `write` does; return α_ij of the step (N, S), too."""
        embedded = self.target_embedding(symbols)
        lowest, above = self._layers(state)
        drive = self.drive(embedded).to(kept.memory.values.dtype)
        with torch.autocast(state.device.type, enabled=False):
            lowest, context, weights = kept.step(drive, lowest)
        top = self.cell.visible(kept.split(lowest)[0])
        if self.upper is not None:
            tops, above = self.upper(top[:, None], state=above)
            top = tops[:, 0]
        logits = self.logits(torch.cat([top, embedded, context], dim=-1))
        return logits, torch.cat([lowest, above.to(lowest.dtype)], dim=1), weights

    def keep(self, kept: Parts, index: Tensor) -> Parts:
        """Return the step bound to some of the sentences."""
        return keep_rows(kept, self.score, index)


@dataclass(frozen=True)
class AttendingWriter(Writer[Parts]):
    """The `AttendingDecoder` of one batch."""

    model: AttentionEncoderDecoder

    def attend(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `step` does; return α_ij of the step (N, S), too."""
        logits, state, weights = self.model.attend(self.kept, symbols, state)
        return log_probabilities(logits), state, weights

    def present(self) -> Tensor:
        """Say where the inputs have a symbol, bool (B, S)."""
        return self.kept.memory.bias == 0
