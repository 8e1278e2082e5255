"""N-N on what comes next: a model of text or of frames, read and learned as streams.

Shapes: B parallel streams, S steps of a window, E width of an embedding, H hidden units, W width of
the state of all layers, O numbers of an output (V symbols, or the features of a frame).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from lightning import Callback
from torch import Tensor, nn

from datamodules._base import Task
from datamodules._batch import Batch
from datamodules._params import FromData
from datamodules._refusals import Refusal
from lightning_modules._base import Share, Size
from lightning_modules._carry import Carry
from lightning_modules._cells import CellName
from lightning_modules._dropout import dropout_of
from lightning_modules._goals import GoalTopology, LabelsGoal, SymbolGoal, ValueGoal, counted
from lightning_modules._inputs import Inputs
from lightning_modules._losses import readout_losses
from lightning_modules._next_step import next_step_of
from lightning_modules._products import Linear
from lightning_modules._recurrent import (
    Choices,
    LayerNorm,
    RecurrentDropout,
    Residual,
    Variational,
    recurrent,
)
from lightning_modules._sampling import Sampling
from lightning_modules._text import StepOutput, learned

FrameLoss = Literal["auto", "squared", "bernoulli"]


@dataclass
class _Running:
    """What an evaluation gathers of one split, and the state in which it has read so far."""

    scores: Any
    carry: Carry


class LanguageModel(GoalTopology):
    """Read text or frames step by step and say, at each, what comes next.

    Mikolov et al. 2010, "Recurrent neural network based language model"; of characters, Graves
    2013, "Generating sequences with recurrent neural networks":

        s_t = f(s_{t-1}, E x_t),  p(x_{t+1}) = softmax(W s_t + b).

    A frame x_t is read through a linear map, and the next one learned by `frame_loss`

        squared    x_{t+1} = W s_t + b, the mean of the squared errors being least
        bernoulli  p(x_{t+1,k} = 1) = σ(W s_t + b)_k, each feature for itself given the past, as of
                   the notes of a piano roll (Boulanger-Lewandowski et al. 2012, "Modeling temporal
                   dependencies in high-dimensional sequences", the plain network of section 3)

    It learns by truncated back-propagation through time (Williams & Peng 1990): the gradient ends
    where a window begins, but the state goes over from one window to the next, and with it all that
    was read since the epoch began. An evaluation reads each stream in one go, each step with its
    whole past. Losses are in nats, `bits` in bits, of a symbol.

    Args:
        hidden_size: units of each layer
        embedding_size: width of an embedding, or of what a frame is mapped to; hidden_size if not
            given
        cell: kind of recurrent cell
        layers: recurrent layers
        tie_embeddings: whether a symbol's embedding is also its output weight; the embedding is
            then as wide as the hidden layers
        embedding_dropout: share of embedding values dropped in training
        dropout: share of values between layers and before the output dropped in training
        frame_loss: how the next frame is learned; auto is bernoulli where all features that
            training has are 0 or 1

    """

    accepts: ClassVar[frozenset[Task]] = frozenset({("tokens", "next"), ("frames", "next")})
    trainer_defaults: ClassVar[dict[str, Any]] = {"lr": 3e-3, "beta2": 0.99}
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            when={"tie_embeddings": (True,)},
            unless={"embedding_size": (None,)},
            unequal=("embedding_size", "hidden_size"),
            because="tie_embeddings needs embeddings as wide as the hidden layers: leave out "
            "embedding_size={embedding_size}, or make it {hidden_size}",
        ),
        Refusal(
            when={"tie_embeddings": (True,), "vocabulary_size": (0,)},
            because="tie_embeddings ties the embeddings of symbols, and this data has frames: "
            "leave it out",
        ),
        Refusal(
            when={"feature_size": (0,)},
            unless={"frame_loss": ("auto",)},
            because="frame_loss '{frame_loss}' is for frames, and this data has symbols: leave it "
            "out",
        ),
        Refusal(
            when={"frame_loss": ("bernoulli",), "binary_frames": (False,)},
            because="frame_loss 'bernoulli' is for frames of 0 and 1, and this data has others: "
            "choose 'squared'",
        ),
    )

    def __init__(  # noqa: PLR0913 (the signature is the schema)
        self,
        *,
        hidden_size: Size = 256,
        embedding_size: Size | None = None,
        cell: CellName = "lstm",
        layers: Size = 2,
        tie_embeddings: bool = False,
        embedding_dropout: Share = 0.1,
        dropout: Share = 0.3,
        variational: Variational = False,
        recurrent_dropout: RecurrentDropout = 0.0,
        layer_norm: LayerNorm = False,
        residual: Residual = False,
        frame_loss: FrameLoss = "auto",
        vocabulary_size: FromData[int] = 0,
        feature_size: FromData[int] = 0,
        binary_frames: FromData[bool] = False,
    ) -> None:
        super().__init__(_goal(vocabulary_size, feature_size, frame_loss, binary_frames))
        self.monitor, self.monitor_mode = "val/loss", "min"
        self.save_hyperparameters()
        self.refuse_misfits()
        width = embedding_size or hidden_size
        self.inputs = Inputs(
            vocabulary_size,
            feature_size,
            width,
            dropout=embedding_dropout,
            locked=variational,
            # Symbols are to move the gates from the start; the rows of an output weight are not so
            # large, or the first guesses would be sure ones.
            deviation=None if tie_embeddings else 1.0,
        )
        self.dropout = dropout_of(dropout, variational=variational)
        self.layers = recurrent(
            cell,
            width,
            hidden_size,
            layers=layers,
            dropout=dropout,
            choices=Choices(variational, recurrent_dropout, layer_norm, residual),
        )
        self.output = Linear(hidden_size, self.goal.output_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if tie_embeddings:
            self.output.weight = self.inputs.map.weight
        self.carry = Carry()

    def configure_callbacks(self) -> list[Callback]:
        """Let the trainer know what is carried over: checkpoints hold it."""
        return [self.carry]

    def forward(self, batch: Batch, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the top layer's outputs (B, S, H) and the state at each row's end (B, W)."""
        values = self.inputs(batch)
        full = bool((batch.lengths == batch.inputs.shape[1]).all())
        lengths = None if full else batch.lengths
        start = None if state is None else state.to(values.dtype)
        tops, end = self.layers(values, lengths, start)
        return self.dropout(tops), end

    def _tops(self, batch: Batch, carry: Carry) -> Tensor:
        """Return the top layer's outputs (B, S, H); move the carry."""
        tops, ends = self(batch, carry.before(batch))
        carry.after(batch, ends)
        return cast("Tensor", tops)

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # noqa: ARG002 (Lightning)
        """Return the loss of a window of each stream and what its steps count for."""
        tops = self._tops(batch, self.carry)
        if not isinstance(self.goal, SymbolGoal):
            return self.goal.learn(self.output(tops), batch)
        features, targets = counted(tops, batch)
        return learned(readout_losses(features, self.output, targets, 0.0))

    # --- use

    def _next(self, batch: Batch, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what is said of what follows each row (B, O), and the state there (B, W)."""
        tops, ends = self(batch, state)
        last = tops[torch.arange(len(batch), device=tops.device), batch.lengths - 1]
        return self.output(last), ends

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """Return what is said of the step after each row, float32 (O,) on the CPU.

        Of a symbol that are log-probabilities; of a frame its features, or their probabilities.
        """
        outputs = self._next(batch)[0][:, None]  # (B, 1, O)
        one_step = Batch(outputs, torch.ones_like(batch.lengths))
        return [row[0] for row in self.goal.answers(outputs, one_step)]

    def write_on(self, batch: Batch, length: int, sampling: Sampling) -> list[tuple[Tensor, float]]:
        """Return `length` steps after each row, and their mean log-probability.

        Steps are symbols, int64 (length,), or frames, float64 (length, O). Symbols are drawn, and
        so are frames that are learned as 0 and 1; other frames are the expected ones. Called
        without gradients, in evaluation mode. Raise ModelError where `sampling` does not fit.
        """
        next_step = next_step_of(self.goal, sampling)
        rows = [(row, 0) for row in range(len(batch))]
        chances = sampling.chances(rows, length * next_step.chances)
        chances = chances.view(len(batch), length, next_step.chances)
        outputs, state = self._next(batch)
        written, total = [], torch.zeros(len(batch), dtype=torch.float64)
        ones = torch.ones_like(batch.lengths)
        for at in range(length):
            steps, log_probs = next_step(outputs.cpu().double(), chances[:, at])
            total += log_probs
            written.append(steps)
            outputs, state = self._next(Batch(steps[:, None].to(batch.inputs), ones), state)
        return list(zip(torch.stack(written, dim=1), (total / length).tolist(), strict=True))

    # --- scores

    def nothing_yet(self) -> _Running:
        """Return empty scores, and no state yet."""
        return _Running(super().nothing_yet(), Carry())

    def gather(self, gathered: _Running, batch: Batch) -> None:
        """Add the losses of a window, read on from where the last one ended."""
        self.count(gathered.scores, self.output(self._tops(batch, gathered.carry)), batch)

    def scores(self, gathered: _Running, split: str) -> dict[str, float]:
        """Return the goal's scores."""
        return super().scores(gathered.scores, split)


def _goal(
    symbols: int, features: int, frame_loss: FrameLoss, binary: bool
) -> SymbolGoal | LabelsGoal | ValueGoal:
    if symbols:
        return SymbolGoal(symbols)
    bernoulli = frame_loss == "bernoulli" or (frame_loss == "auto" and binary)
    return LabelsGoal(features) if bernoulli else ValueGoal(features)
