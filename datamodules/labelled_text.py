"""Texts that belong to a class each: names, questions, reviews, anything with a label."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from datamodules._base import Answer, LineData, Task, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import cached, key_of
from datamodules._classes import ClassSet, ClassSplit, Learned
from datamodules._encoded import encode_lines
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._labelled import Example, LabelledFiles, Layout, classes_of, cut_off
from datamodules._paths import find_folder
from datamodules._vocab import KINDS, Normalisation, TextForm, Tokens

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 1
_STATE_FORMAT: Final = 1
_log = logging.getLogger(__name__)

Share = Annotated[float, Interval(ge=0, lt=1)]


class LabelledText(LineData):
    """Texts with a label each, in tables, in lines that begin with their label, or a file a class.

    With `layout` splits, a split is a table `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet`, or
    else `root/{split}.txt` whose lines begin with their label; each of them gzip or not. A split
    val or test that has no file is cut off from training: a share of each class, by chance, each
    pair of text and label taken once. With `layout` classes, each file `root/{class}.txt` holds
    the texts of a class, one a line, and both splits are cut off.

    A label that only another split than training has counts as wrong; the result says how many
    rows have one (`unknown_labels`).

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        layout: whether there is a file for each split or one for each class
        text: column of the text in a table
        label: column of the label in a table
        label_until: sign that ends the label at the head of a line; the first blank if not given
        train: name of the training split
        val: name of the validation split
        test: name of the test split
        val_share: how much of each class is cut off as val where that has no file; 0 for none
        test_share: how much of each class is cut off as test where that has no file; 0 for none
        split_seed: what chooses the examples that are cut off
        encoding: how the files are encoded: utf-8, latin-1, cp1252, ...
        lowercase: whether all text is lower-cased
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        max_length: training texts with more symbols are left out

    """

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "label")})

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        layout: Layout = "splits",
        text: str = "text",
        label: str = "label",
        label_until: str = "",
        train: str = "train",
        val: str = "val",
        test: str = "test",
        val_share: Share = 0.1,
        test_share: Share = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        encoding: str = "utf-8",
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "subwords",
        vocabulary_size: Annotated[int, Ge(300)] = 6000,
        max_length: Annotated[int, Ge(1)] = 512,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError("'val_share' and 'test_share' leave nothing to train on: lower them")
        self._root = root
        self._files = LabelledFiles(layout, (text, label), label_until, encoding)
        self._names = {"train": train, "val": val, "test": test}
        self._shares = {"val": val_share, "test": test_share}
        self._split_seed = split_seed
        self._form = TextForm(lowercase=lowercase, normalise=normalise)
        self._tokens: Tokens = tokens
        self._vocabulary_size = vocabulary_size
        self._max_length = max_length
        self._learned: Learned | None = None
        self._splits: dict[str, ClassSplit] = {}
        self._absent: dict[str, DataMissingError] = {}
        self._workspace: Workspace | None = None
        #: How many training texts were left out, by reason: "too_long", "unknown_label".
        self.left_out: dict[str, int] = {}

    # --- preparing

    def prepare(self, workspace: Workspace) -> None:
        """Find, check, cut and encode all splits, or take them from the cache.

        With a loaded vocabulary none is learned, and any split may be missing until it is used.
        """
        self._workspace = workspace
        loaded = self._learned
        found = self._find(workspace)
        settings = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "files": {split: self._files.digest(paths) for split, paths in found.items()},
            "read": [self._files.layout, *self._files.columns, self._files.label_until],
            "encoding": self._files.encoding,
            "cut": [*self._cut(found).items(), self._split_seed],
            "form": self._form.state(),
            "learn": [self._tokens, self._vocabulary_size, self._max_length],
            "loaded": loaded and loaded.state(),
        }
        build = partial(self._made, found, loaded)
        kept = cached(workspace.cache / "labelled", key_of(settings), lambda: build().to_prepared())
        made = ClassSet.from_prepared(kept)
        self._splits = dict(made.splits)
        self._learned = loaded or made.learned
        self.left_out = dict(made.left_out)
        self._tell()

    def _find(self, workspace: Workspace) -> dict[str, tuple[Path, ...]]:
        folder = find_folder(self._root, workspace.roots)
        found: dict[str, tuple[Path, ...]] = {}
        self._absent = {}
        names = self._names if self._files.layout == "splits" else {"train": ""}
        for split, name in names.items():
            try:
                found[split] = self._files.find(folder, name, workspace.roots)
            except DataMissingError as error:
                self._absent[split] = error
        for split in self._cut(found):
            self._absent.pop(split, None)
        for split in () if self._learned else ("train", "val"):
            if split not in found and split not in self._cut(found):
                raise self._absent.get(split) or DataError(
                    "'val_share' must be above 0: a layout"
                    " of classes has no file of its own for val"
                )
        return found

    def _cut(self, found: Mapping[str, object]) -> dict[str, float]:
        """Return which splits are cut off from training, and how much of it."""
        if "train" not in found:
            return {}
        return {s: share for s, share in self._shares.items() if s not in found and share}

    def _made(self, found: Mapping[str, Sequence[Path]], loaded: Learned | None) -> ClassSet:
        examples = {split: self._files.read(paths, self._form) for split, paths in found.items()}
        if shares := self._cut(found):
            examples |= cut_off(examples["train"], shares, self._split_seed)
        learned = loaded or self._learn(examples["train"])
        splits = {split: ClassSplit.encode(rows, learned) for split, rows in examples.items()}
        left_out: dict[str, int] = {}
        if "train" in splits:
            splits["train"], left_out = splits["train"].learnable(self._max_length)
            if not loaded and not len(splits["train"].classes):
                raise DataFormatError(
                    f"{found['train'][0]} leaves no text to train on: all have more than"
                    f" {self._max_length} symbols ('max_length')"
                )
        return ClassSet(splits, learned, left_out)

    def _learn(self, examples: Sequence[Example]) -> Learned:
        labels = classes_of(examples)
        texts = [each.text for each in examples]
        vocabulary = KINDS[self._tokens].train(texts, self._vocabulary_size)
        return Learned(vocabulary, tuple(labels))

    def _tell(self) -> None:
        for reason, count in self.left_out.items():
            if count:
                _log.warning("training texts left out: %d %s", count, reason.replace("_", " "))
        for split, each in self._splits.items():
            if each.unknown:
                _log.warning(
                    "%d rows of %s have a label that training does not have", each.unknown, split
                )

    # --- what the trainer asks for

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many symbols and how many classes there are."""
        learned = self._known
        return {"vocabulary_size": len(learned.vocabulary), "num_classes": len(learned.labels)}

    def sizes(self, split: str) -> Sizes:
        """Return the lengths of the texts, the end symbols counted (N, 1)."""
        return self._split(split).symbols.lengths[:, None]

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        data = self._split(split)
        inputs, lengths = data.symbols.padded(rows)
        return Batch(
            inputs,
            lengths,
            torch.from_numpy(data.classes[np.asarray(rows, dtype=np.int64)]),
            torch.ones(len(rows), dtype=torch.int64),
            {"index": torch.tensor(rows, dtype=torch.int64)},
        )

    def facts(self, split: str) -> dict[str, int]:
        """Return how many rows have a label that training did not have, if any."""
        unknown = self._split(split).unknown
        return {"unknown_labels": unknown} if unknown else {}

    # --- lines in, labels out

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class."""
        return self._known.labels

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of these lines, in their order and without targets."""
        rows = encode_lines(self._known.vocabulary, [self._form(line) for line in lines])
        inputs, lengths = rows.padded(range(len(lines)))
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:  # noqa: ARG002 (a label needs no line)
        """Return the likeliest labels with their probabilities; log-probabilities (C,) in."""
        best = torch.topk(output.exp(), min(count, len(output)))
        return [
            Answer(self.labels[place], score, {"label": self.labels[place]})
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    # --- what the checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        """Return vocabulary, labels and the form of the text as plain values."""
        return {"format": _STATE_FORMAT, "form": self._form.state(), **self._known.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over vocabulary, labels and form: how text is read belongs to the model."""
        if state_dict.get("format") != _STATE_FORMAT:
            raise DataError(
                "this checkpoint holds its vocabulary in a form this version cannot read"
            )
        if self._learned is not None and self.state_dict() == state_dict:
            return
        self._form = TextForm(**state_dict["form"])
        self._learned = Learned.from_state(state_dict)
        if self._workspace is not None:
            self.prepare(self._workspace)

    @property
    def _known(self) -> Learned:
        if self._learned is None:
            raise DataError("this data has no vocabulary yet: prepare it or load a checkpoint")
        return self._learned

    def _split(self, split: str) -> ClassSplit:
        if split in self._absent:
            raise self._absent[split]
        if split not in self._splits:
            known = ", ".join(self._splits) or "none; it was not prepared"
            raise DataError(f"this data has no split {split!r} (it has: {known})")
        return self._splits[split]
