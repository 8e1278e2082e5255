"""What all that read one sequence and write another share: embeddings, readout, a search's step.

Shapes: B sentences, N = B * k rows in a search, M target symbols that count, E width of an
embedding, W width of a state, V target symbols.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Self, TypeVar

from torch import Tensor, nn

from datamodules._base import Task
from datamodules._batch import Batch
from lightning_modules._dropout import Dropout, dropout_of
from lightning_modules._errors import ModelError
from lightning_modules._inputs import Inputs
from lightning_modules._losses import SymbolLosses, log_probabilities, readout_losses
from lightning_modules._products import Linear
from lightning_modules._tanh import tanh
from lightning_modules._text import TextTopology, target_mask, targets_of

#: What a topology keeps of the inputs of a batch while it writes.
M = TypeVar("M")


@dataclass(frozen=True)
class Vocabularies:
    """Say how many symbols there are on each side, and whether they are the same ones."""

    #: 0 where frames come in.
    source: int
    target: int
    shared: bool
    #: Width of a frame; 0 where symbols come in.
    features: int = 0

    def __post_init__(self) -> None:
        """Refuse a shared vocabulary of two sizes."""
        if self.shared and self.source != self.target:
            raise ModelError(
                f"a shared vocabulary has one size, not {self.source} for sources and "
                f"{self.target} for targets"
            )


class SequenceToSequence(TextTopology, Generic[M]):
    """Embed both sides, and read the next symbol off features: W_o tanh(W_r x + b_r) + b_o."""

    accepts: ClassVar[frozenset[Task]] = frozenset({("tokens", "tokens"), ("frames", "tokens")})

    #: What the encoder reads: symbols embedded, or frames mapped.
    inputs: Inputs
    target_embedding: nn.Embedding
    embedding_dropout: nn.Module
    dropout: Dropout
    readout: nn.Linear
    output: nn.Linear

    def add_embeddings(
        self,
        symbols: Vocabularies,
        width: int,
        *,
        tied: bool,
        dropout: float,
        variational: bool = False,
    ) -> None:
        """Make the embeddings: one matrix where they are tied and both sides share their symbols.

        Press & Wolf 2017, "Using the output embedding to improve language models", section 4.
        """
        self.target_embedding = _embedding(symbols.target, width)
        self.embedding_dropout = dropout_of(dropout, variational=variational)
        self.inputs = Inputs(
            symbols.source, symbols.features, width, dropout=dropout, locked=variational
        )
        if tied and symbols.shared:
            self.inputs.map.weight = self.target_embedding.weight

    def add_readout(self, features: int, symbols: Vocabularies, width: int) -> None:
        """Make the layers from features to logits; `initialise` gives them their first weights."""
        self.readout = Linear(features, width)
        self.output = Linear(width, symbols.target)

    def initialise(self, *others: nn.Linear, tied: bool) -> None:
        """Make these linear layers and the readout's Xavier-uniform, their biases zero.

        With `tied` the output's matrix is then the target embedding's.
        """
        for linear in (*others, self.readout, self.output):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        if tied:
            self.output.weight = self.target_embedding.weight

    @abstractmethod
    def features(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return what every target symbol is read off, given those before it, (M, ...)."""

    def forward(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return the logits of every target symbol given those before it, (M, V)."""
        return self.logits(self.features(batch, previous))

    def losses(
        self, batch: Batch, smoothing: float, previous: Tensor | None = None
    ) -> SymbolLosses:
        """Return what target symbols cost with this label smoothing, given those before them."""
        targets = targets_of(batch)[0][target_mask(batch)]
        return self.costs(self.features(batch, previous), targets, smoothing)

    def costs(self, features: Tensor, targets: Tensor, smoothing: float) -> SymbolLosses:
        """Return what targets (M,) cost that are read off features (M, ...)."""
        return readout_losses(self.hidden(features), self.output, targets, smoothing)

    def logits(self, features: Tensor) -> Tensor:
        """Return W_o tanh(W_r x + b_r) + b_o for features x, (M, ...) -> (M, V)."""
        logits: Tensor = self.output(self.hidden(features))
        return logits

    def hidden(self, features: Tensor) -> Tensor:
        """Return tanh(W_r x + b_r) for features x, (M, ...) -> (M, E)."""
        hidden: Tensor = self.dropout(tanh(self.readout(features)))
        return hidden

    @abstractmethod
    def read(self, batch: Batch) -> tuple[M, Tensor]:
        """Return what is kept of the inputs, and s_0 of all layers (B, W)."""

    @abstractmethod
    def write(self, kept: M, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step: symbols (N,), state (N, W) -> logits (N, V), state (N, W)."""

    @abstractmethod
    def keep(self, kept: M, index: Tensor) -> M:
        """Return what is kept of some of the sentences."""

    def decoder(self, batch: Batch) -> "Writer[M]":
        """Return the step by which outputs for these inputs are written."""
        return Writer(self, *self.read(batch))


def _embedding(symbols: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(symbols, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    return embedding


@dataclass(frozen=True)
class Writer(Generic[M]):
    """The `StepDecoder` of one batch."""

    model: SequenceToSequence[M]
    kept: M
    first: Tensor

    def start(self) -> Tensor:
        """Return s_0."""
        return self.first

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the next symbol, and the state that knows `symbols`."""
        logits, state = self.model.write(self.kept, symbols, state)
        return log_probabilities(logits), state

    def keep(self, index: Tensor) -> Self:
        """Return the decoder of only these sentences."""
        kept = self.model.keep(self.kept, index)
        return replace(self, kept=kept, first=self.first[index])
