"""Texts that belong to a class each, names, questions, reviews: to be told apart, or written."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval

from datamodules._base import Answer, Task, TextData, TextFamily, TextScoring, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import cached, key_of
from datamodules._classes import UNKNOWN_CLASS, ClassSet, ClassSplit, Learned
from datamodules._encoded import encode_lines
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._hub import open_root
from datamodules._labelled import LabelledFiles, Layout
from datamodules._labelled_texts import LabelledTexts
from datamodules._learned import LearnedData
from datamodules._vocab import (
    KINDS,
    UNKNOWN_TEXT,
    Normalisation,
    TextForm,
    Tokens,
    VocabularySize,
    printable,
)

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 2
_log = logging.getLogger(__name__)

Share = Annotated[float, Interval(ge=0, lt=1)]
Direction = Literal["text_to_label", "label_to_text"]


class LabelledText(LearnedData[Learned, ClassSplit], TextData):
    """Texts with a label each, in tables, in lines that begin with their label, or a file a class.

    With `layout` splits, a split is a table `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet`, or
    else `root/{split}.txt` whose lines begin with their label; each of them gzip or not. A split
    val or test that has no file is cut off from training: a share of each class, by chance, each
    pair of text and label taken once. With `layout` classes, each file `root/{class}.txt` holds
    the texts of a class, one a line, and both splits are cut off.

    A label that only another split than training has counts as wrong; the result says how many
    rows have one (`unknown_labels`).

    Turned round (`direction = "label_to_text"`), a label goes in and a text of its class is to be
    written. What such a model is worth is the loss of a symbol, the end symbol counted: nobody
    asks which of the texts it writes, so that none is searched for while it is scored. Nothing can
    be said for a label that training does not have: its rows are left out, and told as above. A
    line to predict is a label.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker; or a data set
            of the Hugging Face hub: `hf://owner/name`, `hf://owner/name/config`
        layout: whether there is a file for each split or one for each class
        direction: whether labels are found for texts or texts written for labels
        text: column of the text in a table
        label: column of the label in a table
        label_until: sign that ends the label at the head of a line; the first blank if not given.
            Behind a sign that is no white space the text begins at the next blank only:
            "DESC:manner How" has the text "How"
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

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "label"), ("label", "tokens")})
    tasks_by: ClassVar[tuple[str, Mapping[str, frozenset[Task]]] | None] = (
        "direction",
        {
            "text_to_label": frozenset({("tokens", "label")}),
            "label_to_text": frozenset({("label", "tokens")}),
        },
    )
    scoring = TextScoring(metrics=())
    families: ClassVar[tuple[TextFamily, ...] | str | None] = ()

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        layout: Layout = "splits",
        direction: Direction = "text_to_label",
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
        vocabulary_size: VocabularySize = 6000,
        max_length: Annotated[int, Ge(1)] = 512,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError("'val_share' and 'test_share' leave nothing to train on: lower them")
        self._root = root
        self._turned = direction == "label_to_text"
        if self._turned:
            self.monitor = self.scoring.monitor
        self._files = LabelledFiles(layout, (text, label), label_until, encoding)
        self._names = {"train": train, "val": val, "test": test}
        self._shares = {"val": val_share, "test": test_share}
        self._split_seed = split_seed
        self._form = TextForm(lowercase=lowercase, normalise=normalise)
        self._tokens: Tokens = tokens
        self._vocabulary_size = vocabulary_size
        self._max_length = max_length
        #: How many rows of each split have a label that training does not have.
        self._unknown: dict[str, int] = {}
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
        digests = {split: self._files.digest(paths) for split, paths in found.items()}
        settings = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "files": digests,
            "read": [self._files.layout, *self._files.columns, self._files.label_until],
            "encoding": self._files.encoding,
            "cut": [*self._cut(found).items(), self._split_seed],
            "form": self._form.state(),
            "learn": [self._tokens, self._vocabulary_size, self._max_length],
            "loaded": loaded and loaded.state(),
        }
        self._origins = self._made_of(digests, settings)
        build = partial(self._made, found, loaded)
        kept = cached(workspace.cache / "labelled", key_of(settings), lambda: build().to_prepared())
        made = ClassSet.from_prepared(kept)
        self._splits = dict(made.splits)
        self._unknown = {split: each.unknown for split, each in made.splits.items()}
        if self._turned:
            self._splits = {
                split: each.where(each.classes != UNKNOWN_CLASS)
                for split, each in made.splits.items()
            }
        self._learned = loaded or made.learned
        self.left_out = dict(made.left_out)
        self._give_up_empty({s: found[s if s in found else "train"][0] for s in self._splits})
        self._tell()

    def _made_of(self, files: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the origin of each split, given digests of files and what the cache goes by."""
        read = [settings[name] for name in ("read", "encoding", "form")]
        cut = {split: [files["train"], *settings["cut"]] for split in self._cut(files)}
        return {split: [split, each, *read] for split, each in {**files, **cut}.items()}

    def _find(self, workspace: Workspace) -> dict[str, tuple[Path, ...]]:
        folder, roots = open_root(self._root, workspace)
        found: dict[str, tuple[Path, ...]] = {}
        self._absent = {}
        names = self._names if self._files.layout == "splits" else {"train": ""}
        for split, name in names.items():
            try:
                found[split] = self._files.find(folder, name, roots)
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
        texts = {
            split: LabelledTexts.of(self._files.read(paths, self._form))
            for split, paths in found.items()
        }
        if shares := self._cut(found):
            texts |= texts["train"].cut_off(shares, self._split_seed)
        learned = loaded or self._learn(texts["train"])
        splits = {split: ClassSplit.encode(each, learned) for split, each in texts.items()}
        left_out: dict[str, int] = {}
        if "train" in splits:
            splits["train"], left_out = splits["train"].learnable(self._max_length)
            if not loaded and not len(splits["train"].classes):
                raise DataFormatError(
                    f"{found['train'][0]} leaves no text to train on: all have more than"
                    f" {self._max_length} symbols ('max_length')"
                )
        return ClassSet(splits, learned, left_out)

    def _learn(self, train: LabelledTexts) -> Learned:
        labels = train.label_names()
        vocabulary = KINDS[self._tokens].train(train.texts, self._vocabulary_size)
        return Learned(vocabulary, tuple(labels))

    def _tell(self) -> None:
        for reason, count in self.left_out.items():
            if count:
                _log.warning("training texts left out: %d %s", count, reason.replace("_", " "))
        for split, unknown in self._unknown.items():
            if unknown:
                line = "%d rows of %s have a label that training does not have"
                _log.warning(line, unknown, split)

    # --- what the trainer asks for

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many symbols and how many classes there are."""
        symbols, classes = len(self._known.vocabulary), len(self.labels)
        if self._turned:
            return {"source_classes": classes, "target_vocabulary_size": symbols}
        return {"vocabulary_size": symbols, "num_classes": classes}

    def sizes(self, split: str) -> Sizes:
        """Return the lengths of the texts, the end symbols counted (N, 1); turned, behind a 1."""
        lengths = self._split(split).symbols.lengths
        return np.stack([np.ones_like(lengths), lengths] if self._turned else [lengths], axis=1)

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        data = self._split(split)
        symbols, lengths = data.symbols.padded(rows)
        classes = torch.from_numpy(data.classes[np.asarray(rows, dtype=np.int64)])
        ones, extras = torch.ones_like(classes), {"index": torch.tensor(rows, dtype=torch.int64)}
        if self._turned:
            return Batch(classes[:, None], ones, symbols, lengths, extras)
        return Batch(symbols, lengths, classes, ones, extras)

    def facts(self, split: str) -> dict[str, int]:
        """Return how many rows have a label that training did not have, if any."""
        self._split(split)
        return {"unknown_labels": self._unknown[split]} if self._unknown[split] else {}

    # --- lines in, labels out; or labels in, lines out

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class."""
        return self._known.labels

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of these lines, in their order and without targets.

        Raise DataError for a line that should be a label and is none.
        """
        if self._turned:
            classes = list(map(self._class, lines))
            index = torch.arange(len(lines))
            inputs = torch.tensor(classes, dtype=torch.int64)[:, None]
            return Batch(inputs, torch.ones_like(index), extras={"index": index})
        rows = encode_lines(self._known.vocabulary, [self._form(line) for line in lines])
        inputs, lengths = rows.padded(range(len(lines)))
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def _class(self, line: str) -> int:
        label = line.strip()
        if label and label not in self.labels:
            hint = get_close_matches(label, self.labels, 1)
            known = f"did you mean {hint[0]!r}?" if hint else f"there are: {', '.join(self.labels)}"
            raise DataError(f"the model knows no label {label!r}; {known}")
        return self.labels.index(label) if label else 0

    def answers(self, output: Any, line: str, count: int) -> list[Answer]:
        """Return the likeliest labels with their probabilities; log-probabilities (C,) in.

        Turned round: the n best texts of a search.
        """
        if self._turned:
            return super().answers(output, line, count)
        best = torch.topk(output.exp(), min(count, len(output)))
        return [
            Answer(self.labels[place], score, {"label": self.labels[place]})
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of these ids up to the end symbol."""
        return self._known.vocabulary.decode(ids)

    def source_symbols(self, line: str) -> list[str]:
        """Return the printable symbols of a text, its end symbol included; or the label itself."""
        if self._turned:
            return [printable(line)]
        return self.target_symbols(self.encode([line]).inputs[0].tolist())

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of a text, one for each id."""
        return self._known.vocabulary.symbols(ids)

    def sources(self, split: str) -> Sequence[str]:
        """Return the text of every row, as its symbols tell it; or the label."""
        return self._label_names(split) if self._turned else self._texts(split)

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return what every row should have got, as its only reference."""
        wanted = self._texts(split) if self._turned else self._label_names(split)
        return [[each] for each in wanted]

    def content(self, split: str) -> Iterator[Any]:
        """Yield what the split was made of: its texts are known as the model's symbols alone."""
        yield self.origin(split)

    def _texts(self, split: str) -> list[str]:
        rows = self._split(split).symbols
        ends = zip(rows.offsets, rows.offsets[1:], strict=False)
        return [self.detokenise(rows.values[start:end].tolist()) for start, end in ends]

    def row_labels(self, split: str) -> Sequence[str]:
        """Return the label of every row."""
        return self._label_names(split)

    def _label_names(self, split: str) -> list[str]:
        names = {UNKNOWN_CLASS: UNKNOWN_TEXT, **dict(enumerate(self.labels))}
        return [names[place] for place in self._split(split).classes.tolist()]

    # --- what the checkpoint keeps

    def _state(self) -> dict[str, Any]:
        return {"form": self._form.state(), **self._known.state()}

    def _reading(self) -> dict[str, Any]:
        return self._form.state()

    def _take_over(self, state: dict[str, Any]) -> None:
        self._form = TextForm(**state["form"])
        self._learned = Learned.from_state(state)
