"""What all topologies that write text share: the loss, the search, the scores.

Shapes: B sentences, T target positions, S source positions, M target symbols that count, V symbols.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NotRequired, TypedDict, TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules._base import Task, TextData
from datamodules._batch import Batch
from datamodules._vocab import BOS, PAD
from lightning_modules._base import Topology
from lightning_modules._decoding import Hypothesis, Search, StepDecoder, search
from lightning_modules._errors import ModelError
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._losses import SymbolLosses, symbol_losses
from lightning_modules._ranks import mean_over_ranks
from lightning_modules._row_notes import RowSums, pairs, summed_by_row
from lightning_modules._scheduled_sampling import mixed_symbols, own_share
from lightning_modules._scoring import ScoredText, TokenAverages, score_outputs


class StepOutput(TypedDict):
    """What a training step tells the trainer (`loss`) and the runner's callbacks (the rest)."""

    #: Mean smoothed loss of a target symbol, class, decision or value (`mean_over_ranks`).
    loss: Tensor
    #: Sum of the losses without smoothing: nats, or squared errors of values.
    nll_sum: Tensor
    #: How many targets there were, the end symbols counted.
    tokens: Tensor
    #: How many of them the model would have chosen, given the true ones before; nothing where
    #: targets are not chosen.
    correct: NotRequired[Tensor]


def learned(costs: SymbolLosses) -> StepOutput:
    """Return what a training step tells of symbols that cost this."""
    return {
        "loss": mean_over_ranks(costs.mean, costs.nll.numel()),
        "nll_sum": costs.nll.sum(),
        "tokens": torch.tensor(costs.nll.numel(), device=costs.nll.device),
        "correct": costs.right.sum(),
    }


@dataclass
class _Running:
    """What an evaluation gathers of one split."""

    averages: TokenAverages
    outputs: dict[int, Sequence[Hypothesis]] = field(default_factory=dict)


def target_mask(batch: Batch) -> Tensor:
    """Return which targets count, bool (B, T), or (B,) where each row has a single one."""
    targets, lengths = targets_of(batch)
    if targets.ndim == 1:
        return lengths > 0
    return torch.arange(targets.shape[1], device=targets.device) < lengths[:, None]


def targets_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return target ids (B, T) and their lengths (B,); refuse a batch without them."""
    if batch.targets is None or batch.target_lengths is None:
        raise ModelError("this batch has no targets; generate from it instead of training on it")
    return batch.targets, batch.target_lengths


def previous_symbols(targets: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Return y_{i-1} for every y_i, (B, T): those chosen, else the begin symbol and the targets."""
    if chosen is not None:
        return chosen
    begin = torch.full_like(targets[:, :1], BOS)
    return torch.cat([begin, targets[:, :-1]], dim=1)


class TextTopology(EvaluatedTopology[_Running]):
    """A topology whose output is text, written symbol by symbol."""

    accepts: ClassVar[frozenset[Task]] = frozenset({("tokens", "tokens")})
    monitor = "val/bleu"
    monitor_mode: Literal["min", "max"] = "max"

    #: Whether this one does write text: a topology may write values where the data has these.
    writes_text: bool = True
    #: How validation, test and `generate` search.
    search: Search
    #: Label smoothing ε of the training loss.
    label_smoothing: float
    #: Share of own symbols that are read at the end of training (`_scheduled_sampling.py`).
    scheduled_sampling: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        #: The text and the scores of each split of the newest evaluation.
        self.outputs: dict[str, ScoredText] = {}

    @abstractmethod
    def forward(self, batch: Batch, previous: Tensor | None = None) -> Tensor:
        """Return the logits of every target symbol given those before it, (M, V).

        They lie row by row as `batch.targets[target_mask(batch)]` does. Those before it are
        `previous` (B, T), as they are to be read: the true ones, `previous_symbols`, if not given.
        """

    def losses(
        self, batch: Batch, smoothing: float, previous: Tensor | None = None
    ) -> SymbolLosses:
        """Return what target symbols cost with this label smoothing, given those before them.

        For those whose logits are all there is to it; others know a shorter way than `forward`.
        """
        targets = targets_of(batch)[0][target_mask(batch)]
        logits = self(batch) if previous is None else self(batch, previous)
        return symbol_losses(logits, targets, smoothing)

    @abstractmethod
    def decoder(self, batch: Batch) -> StepDecoder:
        """Return the step by which outputs for these inputs are written."""

    def alignment(self, batch: Batch) -> Tensor:  # noqa: ARG002 (for those that attend)
        """Return what each target symbol attended to, (B, T, S)."""
        raise ModelError(f"{type(self).__name__} does not attend; it has no attention to show")

    def generate(self, batch: Batch, how: Search | None = None) -> list[list[Hypothesis]]:
        """Return the n best outputs of each input, best first (`how`: else `self.search`)."""
        how = how or self.search
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                rows = batch.extras.get("index")
                found = search(self.decoder(batch), batch.lengths, how, rows)
                return self._explain(batch, found) if how.attention else found
        finally:
            self.train(training)

    def predict(self, batch: Batch) -> Sequence[Any]:
        """Return the n best outputs of each input."""
        return self.generate(batch)

    def _explain(self, batch: Batch, found: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        # Attention is read off in one pass over the finished outputs: cheaper than to carry it.
        explained: list[list[Hypothesis]] = [[] for _ in found]
        for rank in range(max(map(len, found))):
            rows = [row for row, hypotheses in enumerate(found) if rank < len(hypotheses)]
            ids = [torch.tensor(found[row][rank].ids, device=batch.inputs.device) for row in rows]
            forced = Batch(
                inputs=batch.inputs[rows],
                lengths=batch.lengths[rows],
                targets=pad_sequence(ids, batch_first=True, padding_value=PAD),
                target_lengths=torch.tensor([len(i) for i in ids], device=batch.inputs.device),
            )
            for row, weights in zip(rows, self.alignment(forced).float().cpu(), strict=True):
                hypothesis, length = found[row][rank], int(batch.lengths[row])
                matrix = weights[: len(hypothesis.ids), :length].clone()
                explained[row].append(replace(hypothesis, attention=matrix))
        return explained

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # noqa: ARG002 (Lightning)
        """Return the loss of a batch and what its symbols count for."""
        return learned(self.losses(batch, self.label_smoothing, self.own_or_true(batch)))

    def own_or_true(self, batch: Batch) -> Tensor | None:
        """Return what a training step reads, where some of it is the model's own."""
        if not (self.training and self.scheduled_sampling and self.global_step):
            return None
        share = own_share(self.scheduled_sampling, self.global_step, self.recipe.total_steps)
        self.eval()
        try:
            with torch.no_grad():
                return self.mixed(batch, share)
        finally:
            self.train()
            # Weights that autocast has cast without gradients must not be used again with them.
            torch.clear_autocast_cache()

    def mixed(self, batch: Batch, share: float) -> Tensor:
        """Return y_{i-1} for every y_i, (B, T), this share of them the model's own."""
        return mixed_symbols(self.decoder(batch), targets_of(batch)[0], share)

    def nothing_yet(self) -> _Running:
        """Return empty averages, and no outputs."""
        return _Running(TokenAverages(self.device))

    def gather(self, gathered: _Running, batch: Batch) -> None:
        """Add the losses and the text of a batch."""
        _, nll, right = self.losses(batch, 0.0)
        gathered.averages.update(nll, right)
        if self.noting:
            mask = target_mask(batch)
            rows, count = batch.extras["index"].tolist(), summed_by_row(torch.ones_like(nll), mask)
            loss, correct = (pairs(summed_by_row(each, mask), count) for each in (nll, right))
            sums: RowSums = {
                "loss": ("ratio", loss),
                "perplexity": ("perplexity", loss),
                "accuracy": ("ratio", correct),
            }
            self.noting.add(rows, sums)
        if isinstance(self.data, TextData) and not self.data.scoring.metrics:
            return  # nobody asked what the model would write
        how = self.search.at_least(self.data.candidates if isinstance(self.data, TextData) else 1)
        rows = batch.extras["index"].tolist()
        for row, hypotheses in zip(rows, self.generate(batch, how), strict=True):
            if row >= 0:  # -1: a row that only keeps this rank busy
                gathered.outputs[row] = hypotheses

    def scores(self, gathered: _Running, split: str) -> dict[str, float]:
        """Return the averages of the symbols and the scores of the text, which `outputs` keeps."""
        metrics = gathered.averages.compute()
        if isinstance(self.data, TextData) and self.data.scoring.metrics:
            self.outputs[split] = score_outputs(gathered.outputs, self.data, split)
            metrics |= self.outputs[split].metrics
        return metrics

    def predict_step(self, batch: Batch, batch_idx: int) -> list[list[Hypothesis]]:  # noqa: ARG002 (Lightning)
        """Return the outputs of a batch."""
        return self.generate(batch)


def writes_text(model: Topology) -> TypeGuard[TextTopology]:
    """Return whether what the model answers is text, which a search finds."""
    return isinstance(model, TextTopology) and model.writes_text
