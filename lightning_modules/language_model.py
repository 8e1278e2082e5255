"""N-N on the next symbol: a model of text, read and learned as one stream.

Shapes: B parallel streams, S symbols of a window, M symbols that count, E width of an embedding,
H hidden units, W width of the state of all layers, V symbols.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from lightning import Callback
from torch import Tensor, nn

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from datamodules._refusals import Refusal
from datamodules._vocab import BOS, PAD, UNK
from lightning_modules._carry import Carry
from lightning_modules._cells import CellName, FusedRNN
from lightning_modules._dropout import LockedDropout
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._losses import smoothed_cross_entropy
from lightning_modules._sampling import Sampling
from lightning_modules._scoring import TokenAverages
from lightning_modules._text import StepOutput, target_mask, targets_of

Size = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Lt(1)]

#: Symbols that stand for no text: they are never drawn.
_NEVER = (PAD, BOS, UNK)


@dataclass
class _Running:
    """What an evaluation gathers of one split, and the state in which it has read so far."""

    averages: TokenAverages
    carry: Carry


class LanguageModel(EvaluatedTopology[_Running]):
    """Read text symbol by symbol and say, at each, what comes next.

    Mikolov et al. 2010, "Recurrent neural network based language model"; of characters, Graves
    2013, "Generating sequences with recurrent neural networks":

        s_t = f(s_{t-1}, E x_t),  p(x_{t+1}) = softmax(W s_t + b).

    It learns by truncated back-propagation through time (Williams & Peng 1990): the gradient ends
    where a window begins, but the state goes over from one window to the next, and with it all that
    was read since the epoch began. An evaluation reads the whole split in one go, each symbol with
    its whole past. Losses are in nats, `bits` in bits, of a symbol.

    Args:
        hidden_size: units of each layer
        embedding_size: width of an embedding; hidden_size if not given
        cell: kind of recurrent cell
        layers: recurrent layers
        tie_embeddings: whether a symbol's embedding is also its output weight; the embedding is
            then as wide as the hidden layers
        embedding_dropout: share of embedding values dropped in training
        dropout: share of values between layers and before the output dropped in training
        variational: whether dropout drops the same units at all steps of a window

    """

    accepts: ClassVar[frozenset[Task]] = frozenset({("tokens", "next")})
    trainer_defaults: ClassVar[dict[str, Any]] = {"max_epochs": 20, "beta2": 0.99}
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            when={"tie_embeddings": (True,)},
            unless={"embedding_size": (None,)},
            unequal=("embedding_size", "hidden_size"),
            because="tie_embeddings needs embeddings as wide as the hidden layers: leave out "
            "embedding_size={embedding_size}, or make it {hidden_size}",
        ),
    )
    monitor = "val/loss"
    monitor_mode = "min"

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        hidden_size: Size = 256,
        embedding_size: Size | None = None,
        cell: CellName = "lstm",
        layers: Size = 2,
        tie_embeddings: bool = False,
        embedding_dropout: Share = 0.1,
        dropout: Share = 0.2,
        variational: bool = False,
        vocabulary_size: FromData[int],
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.refuse_misfits()
        width = embedding_size or hidden_size
        drop = LockedDropout if variational else nn.Dropout
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.embedding_dropout = drop(embedding_dropout)
        self.dropout = drop(dropout)
        # The library drops anew at each step: to drop alike at all, layers are run one by one.
        parts = [1] * layers if variational else [layers]
        self.parts = nn.ModuleList(
            FusedRNN(cell, hidden_size if at else width, hidden_size, layers=each, dropout=dropout)
            for at, each in enumerate(parts)
        )
        self.output = nn.Linear(hidden_size, vocabulary_size)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if tie_embeddings:
            self.output.weight = self.embedding.weight
        self.carry = Carry()

    def configure_callbacks(self) -> list[Callback]:
        """Let the trainer know what is carried over: checkpoints hold it."""
        return [self.carry]

    def forward(self, batch: Batch, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the top layer's outputs (B, S, H) and the state at each row's end (B, W)."""
        values = self.embedding_dropout(self.embedding(batch.inputs))
        full = bool((batch.lengths == batch.inputs.shape[1]).all())
        lengths = None if full else batch.lengths
        starts = self._split(state)
        ends = []
        for part, start in zip(self.parts, starts, strict=True):
            values, end = part(values, lengths, None if start is None else start.to(values.dtype))
            values = self.dropout(values)
            ends.append(end)
        return values, torch.cat(ends, dim=1)

    def _split(self, state: Tensor | None) -> Sequence[Tensor | None]:
        if state is None:
            return [None] * len(self.parts)
        return state.split_with_sizes([part.state_size for part in self.parts], dim=1)  # type: ignore[misc]

    def _counted(self, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor]:
        """Return the logits (M, V) and targets (M,) of the symbols that count; move the carry."""
        tops, ends = self(batch, carry.before(batch))
        carry.after(batch, ends)
        counted = target_mask(batch)
        return self.output(tops[counted]), targets_of(batch)[0][counted]

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # noqa: ARG002 (Lightning)
        """Return the loss of a window of each stream and what its symbols count for."""
        logits, targets = self._counted(batch, self.carry)
        loss, nll = smoothed_cross_entropy(logits, targets, 0.0)
        return {
            "loss": loss.sum() / max(1, len(loss)),
            "nll_sum": nll.sum(),
            "tokens": torch.tensor(nll.numel(), device=nll.device),
            "correct": (logits.detach().argmax(dim=-1) == targets).sum(),
        }

    # --- use

    def _next(self, batch: Batch, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of what follows each row (B, V), and the state there (B, W)."""
        tops, ends = self(batch, state)
        last = tops[torch.arange(len(batch), device=tops.device), batch.lengths - 1]
        return torch.log_softmax(self.output(last).float(), dim=-1), ends

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """Return the log-probabilities of the symbol after each row, float32 (V,) on the CPU."""
        return self._next(batch)[0].cpu().unbind()

    def write_on(
        self, batch: Batch, length: int, sampling: Sampling
    ) -> list[tuple[list[int], float]]:
        """Return `length` symbols after each row, drawn one by one, and their mean log-probability.

        Called without gradients, in evaluation mode.
        """
        chances = sampling.chances([(row, 0) for row in range(len(batch))], length)
        log_probs, state = self._next(batch)
        drawn, total = [], torch.zeros(len(batch), dtype=torch.float64)
        ones = torch.ones_like(batch.lengths)
        for at in range(length):
            known = log_probs.cpu().double()
            allowed = known.index_fill(1, torch.tensor(_NEVER), -math.inf)
            symbols = sampling.draw(allowed, chances[:, at])
            total += known.gather(1, symbols[:, None]).squeeze(1)
            drawn.append(symbols)
            following = Batch(symbols[:, None].to(ones.device), ones)
            log_probs, state = self._next(following, state)
        rows = torch.stack(drawn, dim=1).tolist()
        return list(zip(rows, (total / length).tolist(), strict=True))

    # --- scores

    def nothing_yet(self) -> _Running:
        """Return empty averages, and no state yet."""
        return _Running(TokenAverages(self.device), Carry())

    def gather(self, gathered: _Running, batch: Batch) -> None:
        """Add the losses of a window, read on from where the last one ended."""
        logits, targets = self._counted(batch, gathered.carry)
        _, nll = smoothed_cross_entropy(logits, targets, 0.0)
        gathered.averages.update(nll, logits.argmax(dim=-1) == targets)

    def scores(self, gathered: _Running, split: str) -> dict[str, float]:  # noqa: ARG002 (all alike)
        """Return loss, bits and perplexity of a symbol, and accuracy."""
        metrics = gathered.averages.compute()
        return {**metrics, "bits": metrics["loss"] / math.log(2)}
