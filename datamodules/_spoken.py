"""What a model gets of speech once it is prepared, and how its answers are read.

Shapes: B recordings, S frames, F numbers of a frame, N recordings of a split, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules._audio import read_head
from datamodules._base import Answer, DataModule, TextData
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._errors import DataError
from datamodules._learned import LearnedData
from datamodules._masking import Masking
from datamodules._recordings import at_path
from datamodules._rows import Rows
from datamodules._speech import Learned, SpeechSplit, listen
from datamodules._targets import LabelTargets, TextTargets


class SpokenData(LearnedData[Learned, SpeechSplit], TextData):
    """Recordings in, labels or texts out. A subclass fills the attributes below in `prepare`."""

    def __init__(self) -> None:
        super().__init__()
        #: What is hidden of recordings in training.
        self.masking = Masking()
        #: How many training recordings were left out, by reason: "too_long", "unknown_label".
        self.left_out: dict[str, int] = {}

    # --- what the trainer asks for

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return the size of a frame, and how many classes or symbols there are."""
        return {"feature_size": self._known.listening.size, **self._known.targets.dims}

    def sizes(self, split: str) -> Sizes:
        """Return how many frames there are, and ids of the answer (N, 2)."""
        return self._split(split).sizes

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        data = self._split(split)
        inputs, lengths = self._scaled(data.heard.frames, rows)
        targets, target_lengths = self._known.targets.padded(data.answers, rows)
        index = torch.tensor(rows, dtype=torch.int64)
        return Batch(inputs, lengths, targets, target_lengths, {"index": index})

    def altered(self, batch: Batch, epoch: int) -> Batch:
        """Return a batch of training with parts of each recording hidden, others each epoch."""
        if not self.masking:
            return batch
        key = self.feed.seed, epoch, 1  # the plan of the epoch is drawn by the first two
        mels = self._known.listening.mels
        parts = batch.inputs.view(*batch.inputs.shape[:2], -1, mels)  # (B, S, P, M)
        hidden = self.masking(parts, batch.lengths, key, batch.extras["index"])
        return replace(batch, inputs=hidden.flatten(-2))

    def facts(self, split: str) -> dict[str, int]:
        """Return how many rows have a label that training did not have, or were left out of it."""
        facts = {"unknown_labels": self._split(split).unknown}
        if split == "train":
            facts |= {f"left_out_{reason}": count for reason, count in self.left_out.items()}
        return {name: count for name, count in facts.items() if count}

    def _scaled(self, frames: Rows, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return scaled frames (B, S, F), zero behind each length, and lengths (B,)."""
        padded, lengths = frames.padded_frames(rows)
        scaled = torch.from_numpy(self._known.scaling(padded.numpy()))
        inside = torch.arange(scaled.shape[1]) < lengths[:, None]  # (B, S)
        return scaled * inside[..., None], lengths

    # --- paths in, labels or text out

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of the recordings at these paths; an empty line is a moment of silence.

        Raise DataError for the first that is not right.
        """
        listening = self._known.listening
        silence = listening(np.zeros(1))
        frames = [
            listen(at_path(line, self.roots), listening) if line.strip() else silence
            for line in lines
        ]
        inputs, lengths = self._scaled(Rows.of_frames(frames, listening.size), range(len(lines)))
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def line_length(self, line: str) -> int:
        """Return how many frames the recording at this path has; 1 where `encode` refuses it."""
        try:
            head = read_head(at_path(line, self.roots).path, line)
        except DataError:
            return 1
        return self._known.listening.length(head.length)

    def answers(self, output: Any, line: str, count: int) -> list[Answer]:
        """Return the likeliest labels, of log-probabilities (C,), or the best texts of a search."""
        targets = self._known.targets
        if not isinstance(targets, LabelTargets):
            return super().answers(output, line, count)
        return targets.answers(output, count) if line.strip() else [Answer("", 0.0)]

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class; none where the answers are texts."""
        targets = self._known.targets
        return targets.labels if isinstance(targets, LabelTargets) else ()

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of these ids up to the end symbol."""
        return self._written.vocabulary.decode(ids)

    def source_symbols(self, line: str) -> list[str]:
        """Return when each frame begins, in seconds."""
        listening = self._known.listening
        step = listening.hop_samples * listening.stack / listening.rate
        return [f"{place * step:.2f}" for place in range(int(self.encode([line]).lengths))]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of an output, one for each id."""
        return self._written.vocabulary.symbols(ids)

    def sources(self, split: str) -> Sequence[str]:
        """Return the path of every row."""
        return self._split(split).heard.names

    def lengths(self, split: str) -> Sequence[int]:
        """Return the frames of each recording."""
        return DataModule.lengths(self, split)

    def row_labels(self, split: str) -> Sequence[str]:
        """Return the label of every recording; nothing where a text is said in it."""
        return list(self._split(split).heard.said) if self.labels else ()

    def content(self, split: str) -> Iterator[Any]:
        """Yield what the split was made of: a row's path does not tell what its file holds."""
        yield self.origin(split)

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the text of every row, as its only reference."""
        return [[self._written.form(text)] for text in self._split(split).heard.said]

    # --- what the checkpoint keeps

    def _state(self) -> dict[str, Any]:
        return self._known.state()

    def _take_over(self, state: dict[str, Any]) -> None:
        self._learned = Learned.from_state(state)

    @property
    def _written(self) -> TextTargets:
        targets = self._known.targets
        if not isinstance(targets, TextTargets):
            raise DataError("these recordings have labels and no texts: set target to text")
        return targets
