"""What a model gets of frames once they are prepared, and how its answers are read.

Shapes: B sequences, S frames, F features, N sequences of a split, n windows of a split.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules._base import Answer, DataModule, Plan, StreamData, TextData
from datamodules._batch import Batch
from datamodules._bucketing import EVALUATION_SCALE, Sizes
from datamodules._errors import DataError
from datamodules._frame_files import Frames, count_frames, read_frames
from datamodules._frame_streams import FrameStreams
from datamodules._frame_targets import Measured, NextFrame, OneEach, OneOf, Written
from datamodules._framed import FrameSplit, Learned
from datamodules._learned import LearnedData
from datamodules._paths import find_path
from datamodules._rows import Rows
from datamodules._tags import TagData
from datamodules._targets import TextTargets
from datamodules._values import ValueData


class FrameData(LearnedData[Learned, FrameSplit], TextData, TagData, ValueData, StreamData):
    """Frames in, anything out. A subclass fills the attributes below in `prepare`."""

    def __init__(self) -> None:
        super().__init__()
        #: The same as windows, where the next frame is to be told.
        self._streams: dict[str, FrameStreams] = {}
        #: How many training sequences were left out, by reason: "too_long", "unknown_label".
        self.left_out: dict[str, int] = {}

    # --- what the trainer asks for

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return the size of a frame, and what depends on the answers."""
        return {"feature_size": self._features, **self._known.targets.dims}

    @property
    def _features(self) -> int:
        return len(self._known.scaling.mean)

    def sizes(self, split: str) -> Sizes:
        """Return how many frames there are, and how long their answers are: (N, 2), or (n, 1)."""
        data = self._split(split)
        return self._streams[split].sizes if self._streams else data.sizes

    @property
    def reads_on(self) -> bool:
        """Whether a batch goes on where the one before it ended."""
        return bool(self._streams)

    def plan(self, split: str, epoch: int) -> Plan:
        """Return sequences of like length together, or streams of windows."""
        self._split(split)
        if not self._streams:
            return super().plan(split, epoch)
        data, tokens = self._streams[split], self.feed.batch_tokens
        if split == "train":
            return data.training_plan(max(1, tokens // data.window), self.feed.seed, epoch)
        return data.reading_plan(max(1, EVALUATION_SCALE * tokens // data.window))

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        data = self._split(split)
        if self._streams:
            return self._streams[split].collate(rows)
        batch = self._batch(data.framed.frames, rows)
        learned = self._known.targets.padded(data.said, rows)
        extras = {"index": torch.tensor(rows, dtype=torch.int64), **learned.extras}
        return Batch(batch.inputs, batch.lengths, learned.targets, learned.lengths, extras)

    def _batch(self, frames: Rows, rows: Sequence[int]) -> Batch:
        """Return scaled frames, zero behind each length, without targets."""
        padded, lengths = frames.padded_frames(rows)
        inside = torch.arange(padded.shape[1]) < lengths[:, None]  # (B, S)
        scaled = torch.from_numpy(self._known.scaling(padded.numpy())) * inside[..., None]
        return Batch(scaled, lengths, extras={"index": torch.arange(len(lengths))})

    def facts(self, split: str) -> dict[str, int]:
        """Return how many rows have a label that training did not have, or were left out of it."""
        facts = {"unknown_labels": int((self._split(split).unknown > 0).sum())}
        if split == "train":
            facts |= {f"left_out_{reason}": count for reason, count in self.left_out.items()}
        return {name: count for name, count in facts.items() if count}

    # --- paths in, answers out

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of the files at these paths; an empty line is a single mean frame.

        Raise DataError for the first that is not right.
        """
        if isinstance(self._known.targets, NextFrame):
            begun = [np.concatenate([self._mean, *self._frames(line)]) for line in lines]
            batch = self._batch(Rows.of_frames(begun, self._features), range(len(begun)))
            batch.inputs[:, 0] = 0  # as in training, before the first frame
            return batch
        frames = [np.concatenate(self._frames(line) or [self._mean]) for line in lines]
        return self._batch(Rows.of_frames(frames, self._features), range(len(frames)))

    @property
    def _mean(self) -> Frames:
        return np.array([self._known.scaling.mean], dtype=np.float32)

    def _frames(self, line: str) -> list[Frames]:
        if not line.strip():
            return []
        return [read_frames(find_path(line, self.roots), line, self._features)]

    def _count(self, line: str) -> int:
        return count_frames(find_path(line, self.roots), line) if line.strip() else 1

    def line_length(self, line: str) -> int:
        """Return how many frames the file at this path has; 1 where `encode` refuses it."""
        try:
            return self._count(line)
        except DataError:
            return 1

    def answers(self, output: Any, line: str, count: int) -> list[Answer]:  # noqa: ARG002 (its output says all)
        """Return what a model says, in the words and units of the manifest."""
        return self._known.targets.answers(output, count)

    def continued(self, prompt: Batch, written: Tensor, score: float) -> Answer:  # noqa: ARG002 (its frames are in a file)
        """Return the frames that were written, without those of the prompt."""
        if not isinstance(self._known.targets, NextFrame):
            raise DataError("no frame follows these: set target to next")
        return self._known.targets.continued(written, score)

    def words(self, line: str) -> list[str]:
        """Return the number of each frame."""
        return [str(place) for place in range(self._count(line))]

    def source_symbols(self, line: str) -> list[str]:
        """Return the number of each frame."""
        return self.words(line)

    def sources(self, split: str) -> Sequence[str]:
        """Return the path of every row."""
        return self._split(split).framed.names

    def lengths(self, split: str) -> Sequence[int]:
        """Return the frames of each sequence, or window."""
        return DataModule.lengths(self, split)

    def row_labels(self, split: str) -> Sequence[str]:
        """Return the label of every sequence; nothing where they have none."""
        return list(self._split(split).framed.answers()) if self.labels else ()

    def content(self, split: str) -> Iterator[Any]:
        """Yield what the split was made of: a row's path does not tell what its file holds."""
        yield self.origin(split)

    # --- of texts

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of these ids up to the end symbol."""
        return self._written.vocabulary.decode(ids)

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of an output, one for each id."""
        return self._written.vocabulary.symbols(ids)

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the text of every row, as its only reference."""
        return [[self._written.form(text)] for text in self._split(split).framed.answers()]

    @property
    def _written(self) -> TextTargets:
        targets = self._known.targets
        if not isinstance(targets, Written):
            raise DataError("no text is said of these frames: set target to text")
        return targets.targets

    # --- of labels

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class of a whole sequence; none where that has none."""
        targets = self._known.targets
        return targets.targets.labels if isinstance(targets, OneOf) else ()

    @property
    def tag_names(self) -> Sequence[str]:
        """The labels of frames that have one each, by id; none where they have none."""
        targets = self._known.targets
        return targets.labels if isinstance(targets, OneEach) else ()

    @property
    def label_names(self) -> Sequence[str]:
        """Return none: frames with labels have no other beside them."""
        return ()

    def true_tags(self, split: str) -> Sequence[Sequence[str]]:
        """Return the labels of every row's frames."""
        return self._split(split).framed.answers()

    # --- of values

    @property
    def value_scale(self) -> Sequence[float]:
        """Return what one scaled unit of each value, or feature of the next frame, is."""
        targets = self._known.targets
        if isinstance(targets, Measured | NextFrame):
            return targets.scaling.scale
        raise DataError("no values are said of these frames: set target to value or values")

    # --- what the checkpoint keeps

    def _state(self) -> dict[str, Any]:
        return self._known.state()

    def _take_over(self, state: dict[str, Any]) -> None:
        self._learned = Learned.from_state(state)
