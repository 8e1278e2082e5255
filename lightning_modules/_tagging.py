"""One tag for each step as what is learned: the losses, the scores, the answers.

Shapes: B sequences, S steps, M steps that count (no padding), K tags, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from datamodules._base import DataModule
from datamodules._batch import Batch
from datamodules._classes import UNKNOWN_CLASS
from datamodules._tags import TagData, Tagging
from lightning_modules._goals import Goal
from lightning_modules._losses import mean_of, smoothed_cross_entropy
from lightning_modules._ranks import mean_over_ranks
from lightning_modules._row_notes import RowSums, pairs
from lightning_modules._row_scores import RowScores
from lightning_modules._scoring_tags import SpanCounts, Sums, each_step, have_marks, spans
from lightning_modules._text import StepOutput, target_mask, targets_of

#: The logits of all tags (B, S, K), and of all labels of the whole (B, C) if there are any.
Heads = tuple[Tensor, Tensor | None]

_SUMS: Final = (
    *("nll", "known", "right", "steps", "rows", "right_rows"),
    *("label_nll", "known_labels", "right_labels", "labels"),
)


@dataclass
class TagSums:
    """What an evaluation gathers of one split."""

    sums: Sums
    #: The ids of the tags of each row.
    outputs: dict[int, list[int]] = field(default_factory=dict)


class TagGoal(Goal[Heads, TagSums]):
    """One tag of several for each step, and at most one label for them all."""

    monitor = "val/f1"
    monitor_mode = "max"

    def __init__(self, tags: int, label_smoothing: float = 0.0) -> None:
        self.output_size = tags
        self.label_smoothing = label_smoothing

    def answers(self, outputs: Heads, batch: Batch) -> Sequence[Tagging]:
        """Return the log-probabilities of each row's tags and label, on the CPU."""
        logits, label_logits = outputs
        tags = _log_softmax(logits)
        labels = [None] * len(tags) if label_logits is None else _log_softmax(label_logits)
        return [
            Tagging(row[:length], label)
            for row, length, label in zip(tags, batch.lengths.tolist(), labels, strict=True)
        ]

    def learn(self, outputs: Heads, batch: Batch) -> StepOutput:
        """Return the loss of a batch, that of both heads added up, and what its tags count for."""
        logits, label_logits = outputs
        mask = target_mask(batch)
        targets = targets_of(batch)[0][mask]
        loss, nll, right = smoothed_cross_entropy(logits[mask], targets, self.label_smoothing)
        total = mean_over_ranks(mean_of(loss), len(loss))
        if label_logits is not None:
            counted = mask.any(dim=1)  # not a row that only keeps this rank busy
            labels = batch.extras["label"][counted]
            losses, *_ = smoothed_cross_entropy(label_logits[counted], labels, self.label_smoothing)
            total = total + mean_over_ranks(mean_of(losses), len(losses))
        return {
            "loss": total,
            "nll_sum": nll.sum(),
            "tokens": torch.tensor(nll.numel(), device=nll.device),
            "correct": right.sum(),
        }

    def nothing_yet(self, device: torch.device) -> TagSums:
        """Return empty sums."""
        return TagSums(Sums(_SUMS, device))

    def gather(self, gathered: TagSums, outputs: Heads, batch: Batch) -> None:
        """Add the losses, the tags and the labels of a batch."""
        logits, label_logits = outputs
        mask = target_mask(batch)
        counted = mask.any(dim=1)
        targets, found = targets_of(batch)[0], logits.argmax(dim=-1)  # (B, S)
        right = (found == targets) & mask
        whole = (right == mask).all(dim=1) & counted  # (B,)
        nll, known = _nll(logits[mask], targets[mask])
        gathered.sums.add(nll=nll, known=known, right=right.sum(), steps=mask.sum())
        if label_logits is not None:
            labels, agreed = batch.extras["label"], label_logits.argmax(dim=-1)
            nll, known = _nll(label_logits[counted], labels[counted])
            gathered.sums.add(label_nll=nll, known_labels=known)
            right_labels = ((agreed == labels) & counted).sum()
            gathered.sums.add(right_labels=right_labels, labels=counted.sum())
            whole &= agreed == labels
        gathered.sums.add(rows=counted.sum(), right_rows=whole.sum())
        for row, ids, length in zip(
            batch.extras["index"].tolist(), found.tolist(), batch.lengths.tolist(), strict=True
        ):
            if row >= 0:
                gathered.outputs[row] = ids[:length]

    def scores(self, gathered: TagSums, data: DataModule, split: str) -> dict[str, float]:
        """Return the averages, and the F1 of the spans or of the steps."""
        metrics = _averages(gathered.sums.compute())
        f1 = metrics["accuracy"]
        if isinstance(data, TagData):
            f1 = _f1(gathered, data.tag_names, data.true_tags(split))
        return {**metrics, "f1": f1}

    def row_sums(self, outputs: Heads, batch: Batch) -> RowSums:
        """Return how many tags of each row are right, and whether all are, its label too."""
        mask, targets = target_mask(batch), targets_of(batch)[0]
        right = ((outputs[0].argmax(dim=-1) == targets) & mask).sum(dim=1)
        steps, rows = mask.sum(dim=1), mask.any(dim=1)
        whole, sums = (right == steps) & rows, {"accuracy": pairs(right, steps)}
        if outputs[1] is not None:
            agreed = (outputs[1].argmax(dim=-1) == batch.extras["label"]) & rows
            whole, sums["label_accuracy"] = whole & agreed, pairs(agreed, rows)
        sums["exact_match"] = pairs(whole, rows)
        return {name: ("ratio", each) for name, each in sums.items()}

    def said(self, outputs: Heads, batch: Batch) -> Sequence[Sequence[int]]:
        """Return the likeliest tag of each step."""
        rows = zip(outputs[0].argmax(dim=-1).tolist(), batch.lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in rows]


def f1_of_rows(
    found: Sequence[Sequence[str]], truth: Sequence[Sequence[str]], names: Sequence[str]
) -> RowScores:
    """Return the spans, or the steps where tags of these names mark none, of each row for F1."""
    cut = spans if have_marks(names) else each_step
    counts = (SpanCounts.of(cut(one), cut(true)) for one, true in zip(found, truth, strict=True))
    rows = [(each.correct, each.found, each.true) for each in counts]
    return RowScores("f1", np.array(rows, dtype=np.float64))


def _f1(gathered: TagSums, names: Sequence[str], truth: Sequence[Sequence[str]]) -> float:
    """Return the F1 of the spans in the rows that were run."""
    cut = spans if have_marks(names) else each_step
    counts = (
        SpanCounts.of(cut([names[each] for each in ids]), cut(truth[row]))
        for row, ids in gathered.outputs.items()
    )
    total = Sums(("correct", "found", "true"), gathered.sums.device)
    total.add(**vars(sum(counts, SpanCounts())))
    return SpanCounts(**total.compute()).f1


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1).cpu()


def _nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of all targets that can be predicted (M,), and how many they are."""
    known = targets != UNKNOWN_CLASS
    _, nll, _ = smoothed_cross_entropy(logits[known], targets[known], 0.0)
    return nll.sum(dtype=torch.float64), known.sum()


def _averages(sums: dict[str, float]) -> dict[str, float]:
    """Return loss (nats a tag), accuracy and exact match; for labels too where there are any.

    A loss is left out where no target of the split can be predicted.
    """
    metrics = {
        "accuracy": sums["right"] / sums["steps"],
        "exact_match": sums["right_rows"] / sums["rows"],
    }
    if sums["known"]:
        metrics["loss"] = sums["nll"] / sums["known"]
    if sums["labels"]:
        metrics["label_accuracy"] = sums["right_labels"] / sums["labels"]
    if sums["known_labels"]:
        metrics["label_loss"] = sums["label_nll"] / sums["known_labels"]
    return metrics
