"""Sequences with a tag for each of their symbols, and at choice a label for the whole."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from datamodules._base import Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared, cached, key_of
from datamodules._classes import UNKNOWN_CLASS
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._hub import open_root
from datamodules._learned import LearnedData
from datamodules._rows import Rows, Texts, arrays_of, rows_of
from datamodules._tag_files import Names, Sentences, TagFiles, find_tagged, split_blanks
from datamodules._tags import Index, TagData
from datamodules._vocab import PAD, SPECIALS, UNK, UNKNOWN_TEXT, Normalisation, TextForm

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 2
#: Between the tags of a row: what no format of files lets stand inside one.
_BETWEEN: Final = "\t"
_log = logging.getLogger(__name__)

#: By name: `words` and `tags` have a row a sequence, `labels` too but one value, `characters` a row
#: for each word of all sequences, `tag_text` the tags as they were written.
_Split = Mapping[str, Rows]


class _Indexes:
    """What has an id: words, their characters, tags and labels, all as training has them."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        seen = partial(Index, first=SPECIALS, unknown=UNK)
        self.words, self.characters = seen(names["words"]), seen(names["characters"])
        self.tags, self.labels = Index(names["tags"]), Index(names["labels"])

    def state(self) -> dict[str, list[str]]:
        return {name: each.names for name, each in vars(self).items()}


class TaggedText(LearnedData[_Indexes, _Split], TagData):
    """Words with a tag each: slots, names of persons and places, parts of speech.

    A split is a folder `root/{split}` with a file of tokens and one of tags, line for line and
    blank for blank, and a file of labels if `label` names one; or else one file of columns
    `root/{split}.conllu`, `.conll`, `.iob`, `.bio`, `.txt` or `.tsv`, with a row for each token and
    an empty line between sequences; or else a table `.jsonl` or `.parquet` with a list of tokens
    and a list of tags in each row; each of them gzip or not. In columns a label stands above its
    sequence as a comment `# LABEL = ...`. Tags and labels that training does not have count as
    wrong in every other split, and are counted; a training that goes on from a model leaves out the
    sequences with some that the model does not have. A test split may be missing until it is asked
    for.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker; or a data set
            of the Hugging Face hub: `hf://owner/name`, `hf://owner/name/config`
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        tokens: name of the file of tokens in a split's folder, or a table's column
        tags: name of the file of tags in a split's folder, or a table's column
        label: name of the file or column, or key of the comment, of a sequence's label, if any
        token_column: column of the token, from 1; if not given the first, of CoNLL-U the second
        tag_column: column of the tag, from 1; if not given the last, of CoNLL-U the fourth
        lowercase: whether words are lower-cased; their characters never are
        normalise: the Unicode normalisation of words and characters
        min_count: words that training has less often count as unknown
        characters: whether words are given with their characters

    """

    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 600}

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        tokens: str = "seq.in",
        tags: str = "seq.out",
        label: str | None = None,
        token_column: Annotated[int, Ge(1)] | None = None,
        tag_column: Annotated[int, Ge(1)] | None = None,
        lowercase: bool = True,
        normalise: Normalisation = "none",
        min_count: Annotated[int, Ge(1)] = 1,
        characters: bool = True,
    ) -> None:
        super().__init__()
        self._root = root
        self._splits_by_name = {"train": train, "val": val, "test": test}
        self._names = Names(tokens, tags, label, token_column, tag_column)
        self._form = TextForm(lowercase=lowercase, normalise=normalise)
        self._min_count = min_count
        self._characters = characters
        #: How many training sequences were left out, by reason: "unknown_label".
        self.left_out: dict[str, int] = {}

    # --- what it is

    @property
    def indexes(self) -> _Indexes:
        """The names with an id, learned by `prepare` or loaded from a checkpoint."""
        return self._known

    @property
    def tag_names(self) -> Sequence[str]:
        """The tags of training."""
        return self._known.tags.names

    @property
    def label_names(self) -> Sequence[str]:
        """The labels of training; none where sequences have no label."""
        return self._known.labels.names

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return how many words, characters (0: not given), tags and labels (0: none) there are."""
        known = self._known
        return {
            "vocabulary_size": len(known.words),
            "character_vocabulary_size": len(known.characters) if self._characters else 0,
            "num_tags": len(known.tags),
            "num_labels": len(known.labels),
        }

    def facts(self, split: str) -> dict[str, int]:
        """Return how many tags and labels training does not have, or rows were left out of it."""
        parts = self._split(split)
        counted = ["tags", "labels"] if self.label_names else ["tags"]
        facts = {
            f"unknown_{each}": int((parts[each].values == UNKNOWN_CLASS).sum()) for each in counted
        }
        if split == "train":
            facts |= {f"left_out_{reason}": n for reason, n in self.left_out.items() if n}
        return facts

    def true_tags(self, split: str) -> Sequence[Sequence[str]]:
        """Return the tags of every row as its file has them."""
        return [row.split(_BETWEEN) for row in Texts(self._split(split)["tag_text"])]

    def row_labels(self, split: str) -> Sequence[str]:
        """Return the label of every row; nothing where sequences have none."""
        if not self.label_names:
            return ()
        names = {UNKNOWN_CLASS: UNKNOWN_TEXT, **dict(enumerate(self.label_names))}
        return [names[each] for each in self._split(split)["labels"].values.tolist()]

    def words(self, line: str) -> list[str]:
        """Return what stands between blanks."""
        return split_blanks(line)

    # --- batches

    def sizes(self, split: str) -> Sizes:
        """Return the number of words of every row (N, 1)."""
        return self._split(split)["words"].lengths[:, None]

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows.

        In `extras` are the characters of every word, int64 (B, S, characters), PAD behind them, and
        the label (B,), where there are such.
        """
        parts = self._split(split)
        batch = self._inputs(parts, rows)
        tags, lengths = parts["tags"].padded(rows)
        extras = {"index": torch.tensor(rows, dtype=torch.int64)}
        if self.label_names:
            extras["label"] = parts["labels"].padded(rows)[0][:, 0]
        return replace(
            batch, targets=tags, target_lengths=lengths, extras={**batch.extras, **extras}
        )

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of these lines; an empty one is read as one unknown word."""
        parts = self._input_parts([self.words(line) or [""] for line in lines], self._known)
        batch = self._inputs(parts, range(len(lines)))
        return replace(batch, extras={**batch.extras, "index": torch.arange(len(lines))})

    def _inputs(self, parts: _Split, rows: Sequence[int]) -> Batch:
        words, lengths = parts["words"].padded(rows)
        extras = {"characters": _spelled(parts, rows, words.shape[1])} if self._characters else {}
        return Batch(words, lengths, extras=extras)

    # --- what travels with the checkpoint

    def _state(self) -> dict[str, Any]:
        return {
            "form": self._form.state(),
            "with_characters": self._characters,
            "names": self._known.state(),
        }

    def _reading(self) -> dict[str, Any]:
        return {**self._form.state(), "characters": self._characters}

    def _take_over(self, state: dict[str, Any]) -> None:
        self._form = TextForm(**state["form"])
        self._characters = state["with_characters"]
        self._learned = _Indexes(state["names"])

    # --- reading

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and encode all splits, or take them from the cache."""
        self._workspace = workspace
        loaded = self._learned
        if loaded and loaded.labels.names and self._names.label is None:
            raise DataError("the model of this checkpoint learned labels: say by 'label' where")
        files = self._find(workspace)
        digests = {split: each.digest() for split, each in files.items()}
        settings = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "files": digests,
            "names": vars(self._names),
            "learn": [self._min_count, self._characters],
            "form": self._form.state(),
            "loaded": loaded and loaded.state(),
        }
        read = [settings["names"], settings["form"]]
        self._origins = {split: [each, *read] for split, each in digests.items()}
        prepared = cached(
            workspace.cache / "tags", key_of(settings), lambda: self._prepared(files, loaded)
        )
        self._splits = {split: rows_of(prepared.arrays, split) for split in files}
        self._learned = loaded or _Indexes(prepared.facts)
        if loaded and "train" in self._splits:
            self._splits["train"] = self._learnable(self._splits["train"])
        names = self._splits_by_name.items()
        self._give_up_empty({split: f"{self._root}/{name}" for split, name in names})

    def _learnable(self, train: _Split) -> _Split:
        """Return the rows of which a loaded model has all tags and the label; count the others."""
        tags = train["tags"]
        known = np.logical_and.reduceat(tags.values != UNKNOWN_CLASS, tags.offsets[:-1])  # (N,)
        if self.label_names:
            known &= train["labels"].values != UNKNOWN_CLASS
        left_out = int((~known).sum())
        self.left_out = {"unknown_label": left_out}
        if left_out:
            _log.warning("sequences left out of training: %d unknown label", left_out)
        of_words = {"characters": np.repeat(known, train["words"].lengths)}
        return {name: rows.where(of_words.get(name, known)) for name, rows in train.items()}

    def _find(self, workspace: Workspace) -> dict[str, TagFiles]:
        folder, roots = open_root(self._root, workspace)
        needed = ("train", "val") if self._learned is None else ()
        found: dict[str, TagFiles] = {}
        self._absent = {}
        for split, name in self._splits_by_name.items():
            try:
                found[split] = find_tagged(folder, name, self._names, roots)
            except DataMissingError as error:
                if split in needed:
                    raise
                self._absent[split] = error
        return found

    def _prepared(self, files: Mapping[str, TagFiles], loaded: _Indexes | None) -> Prepared:
        read = {split: Sentences(each.read()) for split, each in files.items()}
        indexes = loaded or self._indexes_of(read["train"])
        splits = {split: self._encoded(each, indexes) for split, each in read.items()}
        return Prepared(arrays_of(splits), indexes.state())

    def _indexes_of(self, train: Sentences) -> _Indexes:
        tags = sorted({tag for row in train.tags for tag in row})
        if len(tags) < 2:
            raise DataFormatError(
                f"all words of {self._splits_by_name['train']!r} in {self._root} have the tag"
                f" {tags[0]!r}: there is nothing to tell apart"
            )
        counts = Counter(self._form(word) for row in train.tokens for word in row)
        letters: set[str] = set()
        for spelled in self._spelling(word for row in train.tokens for word in row):
            letters.update(spelled)
        return _Indexes(
            {
                "words": sorted(word for word in counts if counts[word] >= self._min_count),
                "characters": sorted(letters) if self._characters else [],
                "tags": tags,
                "labels": sorted(set(train.labels)),
            }
        )

    def _encoded(self, read: Sentences, indexes: _Indexes) -> _Split:
        labels = (indexes.labels.ids([label]) for label in read.labels)
        return {
            **self._input_parts(read.tokens, indexes),
            "tags": Rows.of_ids(map(indexes.tags.ids, read.tags), ended=False),
            "labels": Rows.of_ids(labels, ended=False),
            "tag_text": Rows.of_texts(map(_BETWEEN.join, read.tags)),
        }

    def _input_parts(self, tokens: Iterable[Sequence[str]], indexes: _Indexes) -> _Split:
        words = (indexes.words.ids(map(self._form, row)) for row in tokens)
        parts = {"words": Rows.of_ids(words, ended=False)}
        if self._characters:
            spelled = self._spelling(word for row in tokens for word in row)
            parts["characters"] = Rows.of_ids(map(indexes.characters.ids, spelled), ended=False)
        return parts

    def _spelling(self, words: Iterable[str]) -> Iterable[str]:
        return map(replace(self._form, lowercase=False), words)


def _spelled(parts: _Split, rows: Sequence[int], width: int) -> Tensor:
    """Return the characters of every word of these rows, int64 (B, width, characters)."""
    words = parts["words"]
    chosen = np.asarray(rows, dtype=np.int64)
    inside = torch.from_numpy(np.arange(width) < words.lengths[chosen, None])  # (B, width)
    places = [np.arange(words.offsets[row], words.offsets[row + 1]) for row in chosen]
    letters, _ = parts["characters"].padded(np.concatenate(places).tolist())
    spelled = torch.full((*inside.shape, max(1, letters.shape[1])), PAD)
    spelled[inside, : letters.shape[1]] = letters
    return spelled
