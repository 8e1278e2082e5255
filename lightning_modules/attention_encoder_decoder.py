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
from datamodules._refusals import Refusal
from lightning_modules._attention import Scanned, bind, keep_rows, remember, scan
from lightning_modules._base import Share, Size
from lightning_modules._cells import CellName
from lightning_modules._copying import Mixture, Sources
from lightning_modules._coverage import attended_again
from lightning_modules._decoding import Search
from lightning_modules._dropout import Dropout
from lightning_modules._losses import SymbolLosses, log_probabilities, mean_of, read_out
from lightning_modules._orders import OrderName, make_order
from lightning_modules._parts import Memory, Parts
from lightning_modules._products import Linear
from lightning_modules._recurrent import (
    Choices,
    Drives,
    LayerNorm,
    RecurrentDropout,
    Residual,
    Variational,
    layers_above,
    recurrent,
)
from lightning_modules._scheduled_sampling import ScheduledSampling
from lightning_modules._scores import SCORE_REFUSALS, ScoreName, ScoreSizes, make_score
from lightning_modules._sequence_to_sequence import (
    SequenceToSequence,
    Vocabularies,
    Writer,
)
from lightning_modules._tanh import tanh
from lightning_modules._text import previous_symbols, target_mask, targets_of


@dataclass(frozen=True)
class Read:
    """Hold what is kept of the inputs of a batch while outputs are written."""

    #: The step, bound to what is attended to.
    parts: Parts
    #: What may be copied; None where nothing is.
    sources: Sources | None


@dataclass(frozen=True)
class Written:
    """Hold what the decoder made of every target symbol."""

    #: [s_i; y_{i-1}; c_i] of each that counts, (M, H + E + C).
    features: Tensor
    #: Which those are, numbers below B * T, (M,).
    counted: Tensor
    scanned: Scanned

    def of_counted(self, values: Tensor) -> Tensor:
        """Return the rows (M, ...) that count of values (B, T, ...)."""
        return values.flatten(0, 1).index_select(0, self.counted)


class AttentionEncoderDecoder(SequenceToSequence[Read]):
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

    With `order="unfed"` s_i attends and nothing is fed: s_i = f(s_{i-1}, y_{i-1}).

    The scores:

        additive    v · tanh(W s + U h_j + b), Bahdanau et al. 2015
        dot         s · h_j, Luong et al. 2015; needs bidirectional = false
        general     s · W h_j, Luong et al. 2015
        scaled_dot  (W s) · (U h_j) / √A, Vaswani et al. 2017, one head
        location    v · tanh(W s + U h_j + V (F * α_{i-1})_j + b), Chorowski et al. 2015

    With `hops` a step looks several times, each look with a query that knows what the one before
    found (Sukhbaatar et al. 2015, "End-to-end memory networks"): q_1 is the state that attends,

        e_rj = a(q_r, h_j),  α_r = softmax_j(e_rj),  c_r = Σ_j α_rj h_j,  q_{r+1} = q_r + W_q c_r,

    and α_i, c_i are those of the last look. With `coverage` the key of h_j, whatever the score,
    gains w C_ij, where C_ij = Σ_{i'<i} α_i'j is how much was attended to it before, and each target
    symbol costs λ Σ_j min(α_ij, C_ij) more (See, Liu & Manning 2017, "Get to the point:
    summarization with pointer-generator networks", section 2.3; Tu et al. 2016). With `copy`,
    output symbols are also taken from the input (See et al. 2017, section 2.2; Gu et al. 2016):

        p(y_i = v) = p_gen P(v) + (1 - p_gen) Σ_{j: x_j = v} α_ij,
        P = softmax(g(y_{i-1}, s_i, c_i)),  p_gen = σ(w_p · [s_i; y_{i-1}; c_i] + b_p),

    and label smoothing is that of p. Symbols are copied by their number in the vocabulary, which
    must be one for both sides. No subword or character is out of it; of words that are, it is the
    unknown symbol that is copied, not the word.

    With several layers the lowest attends and those above run over its states. With tied
    embeddings (Press & Wolf 2017) W_o is the target embedding, which is also the source's where
    both sides share a vocabulary.

    Args:
        hidden_size: units of each direction of the encoder, and of the decoder
        embedding_size: width of an embedding, or of what a frame is mapped to; hidden_size if not
            given
        bidirectional: whether the encoder reads in both directions
        score: how attention compares a state with an annotation
        order: whether the state before a step or the one after it attends, that with what it finds
            fed to the next step or not
        attention_size: width in which attention compares states; hidden_size if not given
        location_filters: filters by which a location score sees the weights before; 10 if not given
        location_reach: positions they see to each side; 15 if not given
        hops: how often a step looks at the input
        coverage: whether attention knows what it has attended to before
        coverage_weight: λ, what attending there again costs in training; 1 if not given
        copy: whether symbols of the input can be copied
        cell: kind of recurrent cell, of encoder and decoder
        layers: recurrent layers of the encoder, and of the decoder
        embedding_dropout: share of embedding values dropped in training
        dropout: share of readout values, and of values between layers, dropped in training
        label_smoothing: share of the target's probability spread over the whole vocabulary
        tie_embeddings: whether output and embeddings use one matrix
        max_length_ratio: symbols an output may have for each input symbol
        max_length_extra: symbols an output may have beyond that

    """

    refusals = (
        *SCORE_REFUSALS,
        Refusal(
            when={"coverage": (False,)},
            unless={"coverage_weight": (None,)},
            because="there is no coverage to weigh: leave out coverage_weight, or set "
            "coverage = true",
        ),
        Refusal(
            when={"copy": (True,), "source_vocabulary_size": (0,)},
            because="frames hold no symbols to copy: leave out copy",
        ),
        Refusal(
            when={"copy": (True,), "shared_vocabulary": (False,)},
            because="copy needs one vocabulary for both sides: set shared_vocabulary = true in "
            "[data], or leave out copy",
        ),
    )

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
        hops: Size = 1,
        coverage: bool = False,
        coverage_weight: Annotated[float, Ge(0)] | None = None,
        copy: bool = False,
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
        self.scheduled_sampling = scheduled_sampling
        choices = Choices(variational, recurrent_dropout, layer_norm, residual)
        self.search = Search(max_length_ratio=max_length_ratio, max_length_extra=max_length_extra)
        width = embedding_size or hidden_size
        self.add_embeddings(
            symbols,
            width,
            tied=tie_embeddings,
            dropout=embedding_dropout,
            variational=variational,
        )
        self.dropout = Dropout(dropout)
        self.encoder = recurrent(
            cell,
            width,
            hidden_size,
            layers=layers,
            bidirectional=bidirectional,
            dropout=dropout,
            choices=choices,
        )
        annotation = self.encoder.output_size
        self.cell = choices.cell(cell, hidden_size)
        sizes = ScoreSizes(
            hidden_size, annotation, attention_size, location_filters, location_reach, coverage
        )
        self.score = make_score(score, sizes)
        self.drive = Linear(width, self.cell.drive_size, bias=not layer_norm)
        self.order = make_order(order, self.cell, annotation, hops=hops)
        self.coverage_weight = (1.0 if coverage_weight is None else coverage_weight) * coverage
        self.upper = (
            layers_above(cell, hidden_size, layers=layers - 1, dropout=dropout, choices=choices)
            if layers > 1
            else None
        )
        self.first_state = Linear(annotation, self._state_size)
        features = hidden_size + width + annotation
        self.add_readout(features, symbols, width)
        self.pointer = Linear(features, 1) if copy else None
        linears = (self.drive, self.first_state, *([self.pointer] if self.pointer else []))
        self.initialise(*linears, tied=tie_embeddings)
        if not layer_norm:  # with it the cell has a bias of its own
            self.drive.bias.data.copy_(self.cell.initial_bias())

    @property
    def _state_size(self) -> int:
        return self.cell.state_size + (self.upper.state_size if self.upper else 0)

    def forward(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return the logits of every target symbol given those before it, (M, V).

        Where symbols are copied these are log-probabilities.
        """
        if self.pointer is None:
            return super().forward(batch, previous)
        written = self._write(batch, previous)
        mixture = self._mixture(batch, written, self.pointer)
        return mixture.log_probabilities(self.logits(written.features))

    def features(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return [s_i; y_{i-1}; c_i] of every target symbol, (M, H + E + C)."""
        return self._write(batch, previous).features

    def losses(
        self, batch: Batch, smoothing: float, previous: Tensor | None = None
    ) -> SymbolLosses:
        """Return what target symbols cost, that of attending again included."""
        written = self._write(batch, previous)
        targets = written.of_counted(targets_of(batch)[0])
        if self.pointer is None:
            costs = self.costs(written.features, targets, smoothing)
        else:
            cost = self._mixture(batch, written, self.pointer).cost(targets, smoothing)
            costs = read_out(self.hidden(written.features), self.output, cost)
        if not self.coverage_weight:
            return costs
        again = mean_of(written.of_counted(attended_again(written.scanned.weights)))
        return costs._replace(mean=costs.mean + self.coverage_weight * again)

    def _mixture(self, batch: Batch, written: Written, pointer: nn.Linear) -> Mixture:
        """Return what every target symbol is written from."""
        sources = Sources.of(batch.inputs)
        rows = written.counted // written.scanned.weights.shape[1]
        return Mixture(
            gate=_gate(pointer, written.features),
            symbols=sources.symbols.index_select(0, rows),
            shares=written.of_counted(sources.shares(written.scanned.weights)),
        )

    def alignment(self, batch: Batch) -> Tensor:
        """Return α_ij of each target symbol, (B, T, S)."""
        return self._write(batch).scanned.weights

    def read(self, batch: Batch) -> tuple[Read, Tensor]:
        """Return the step bound to what is attended to, and s_0 of all layers (B, W)."""
        memory, first = self._remember(batch)
        parts = bind(self.cell, self.score, self.order, memory)
        lowest, above = self._layers(first)
        sources = Sources.of(batch.inputs) if self.pointer else None
        return Read(parts, sources), torch.cat([parts.start(lowest), above], dim=1)

    def _layers(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the step that attends has of a state, and the layers above it."""
        lowest = state.shape[1] - self._upper_size
        return state[:, :lowest], state[:, lowest:]

    def _remember(self, batch: Batch) -> tuple[Memory, Tensor]:
        """Return what is attended to, and s_0 of all layers (B, W)."""
        embedded = self.inputs(batch)
        annotations, last = self.encoder(embedded, batch.lengths)
        first = tanh(self.first_state(self.encoder.top(last)))
        return remember(self.score, annotations, batch.lengths), first.to(embedded.dtype)

    def _write(self, batch: Batch, previous: Tensor | None = None) -> Written:
        """Run the decoder over the symbols before each target."""
        memory, first = self._remember(batch)
        lowest, above = self._layers(first)
        symbols = previous_symbols(targets_of(batch)[0], previous)
        embedded = self.embedding_dropout(self.target_embedding(symbols))
        scanned = scan(
            self.cell,
            self.score,
            self.order,
            memory=memory,
            drives=Drives(embedded, self.drive),
            state=lowest,
        )
        tops = scanned.states
        if self.upper is not None:
            tops, _ = self.upper(tops, state=above)
        features = torch.cat([tops, embedded, scanned.contexts], dim=-1).flatten(0, 1)
        counted = target_mask(batch).flatten().nonzero().squeeze(1)
        return Written(features.index_select(0, counted), counted, scanned)

    @property
    def _upper_size(self) -> int:
        return self._state_size - self.cell.state_size

    def decoder(self, batch: Batch) -> "AttendingWriter":
        """Return the step by which outputs for these inputs are written."""
        return AttendingWriter(self, *self.read(batch))

    def write(self, kept: Read, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of all layers: symbols (N,), state (N, W) -> logits (N, V), state (N, W)."""
        logits, state, _ = self.attend(kept, symbols, state)
        return logits, state

    def attend(self, kept: Read, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `write` does; return α_ij of the step (N, S), too."""
        embedded = self.target_embedding(symbols)
        lowest, above = self._layers(state)
        drive = self.drive(embedded).to(kept.parts.memory.values.dtype)
        with torch.autocast(state.device.type, enabled=False):
            lowest, context, weights = kept.parts.step(drive, lowest)
        top = self.cell.visible(kept.parts.split(lowest)[0])
        if self.upper is not None:
            tops, above = self.upper(top[:, None], state=above)
            top = tops[:, 0]
        features = torch.cat([top, embedded, context], dim=-1)
        logits = self._with_copies(kept.sources, features, weights)
        return logits, torch.cat([lowest, above.to(lowest.dtype)], dim=1), weights

    def _with_copies(self, sources: Sources | None, features: Tensor, weights: Tensor) -> Tensor:
        """Return logits (N, V), log-probabilities with copies, for features and α_i of a step."""
        logits = self.logits(features)
        if sources is None or self.pointer is None:
            return logits
        weights = weights.view(len(sources.symbols), -1, weights.shape[1])  # (B, k, S)
        shares = sources.shares(weights)
        symbols = sources.symbols[:, None].expand_as(shares)
        both = symbols.flatten(0, 1), shares.flatten(0, 1)
        return Mixture(_gate(self.pointer, features), *both).log_probabilities(logits)

    def keep(self, kept: Read, index: Tensor) -> Read:
        """Return what is kept of some of the sentences."""
        sources = kept.sources and kept.sources.rows(index)
        return Read(keep_rows(kept.parts, self.score, index), sources)


def _gate(pointer: nn.Linear, features: Tensor) -> Tensor:
    """Return the logit of p_gen, (M,) in float32 or wider."""
    gate: Tensor = pointer(features).squeeze(-1)
    return gate.to(torch.promote_types(gate.dtype, torch.float32))


@dataclass(frozen=True)
class AttendingWriter(Writer[Read]):
    """The `AttendingDecoder` of one batch."""

    model: AttentionEncoderDecoder

    def attend(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `step` does; return α_ij of the step (N, S), too."""
        logits, state, weights = self.model.attend(self.kept, symbols, state)
        return log_probabilities(logits), state, weights

    def present(self) -> Tensor:
        """Say where the inputs have a symbol, bool (B, S)."""
        return self.kept.parts.memory.bias == 0
