"""Sentences that say a meaning, or tell of a vector of features."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval

from datamodules._base import Counts, Task, TextData, TextFamily, TextScoring, W, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._caption_splits import CaptionSplit, Learned, Reader, Sentences
from datamodules._captions import CaptionFiles, Inputs
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import digest_of
from datamodules._hub import open_root
from datamodules._learned import LearnedData
from datamodules._meanings import Meaning, slot_name
from datamodules._refusals import Refusal, misfit
from datamodules._vocab import (
    KINDS,
    Normalisation,
    TextForm,
    Tokens,
    Vocabulary,
    VocabularySize,
    printable,
)

_log = logging.getLogger(__name__)


class Captions(LearnedData[Learned, CaptionSplit], TextData):
    """Sentences with the meaning that each says, or the vector of features that each tells of.

    Of meanings, such as `inform(name='red door cafe';food=thai)`, a split is `root/{split}.json`, a
    list of [meaning, sentence, ...] behind lines that begin with #, as in shawnwun/RNNLG; or a
    table `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet` with columns of both. Of vectors it is
    such a table, whose cell holds a list of numbers or the path of a `.npy` or `.npz` file below
    `root`, or else a matrix `root/{split}.npy` beside `root/{split}.txt`. In `.jsonl` and
    `.parquet` a row may have a list of sentences. A line to predict is a meaning, or a list of
    numbers in JSON.

    A meaning becomes a vector of 0 and 1: its act, and of each slot its kind (yes, no, none,
    dontcare, ? where it is asked for) or how many values it has. Names are taken out of the
    sentences, "[name] serves [food] food", and put back in where they are read (`_meanings.py`).

    Every sentence is a row, of evaluation too. The references of a row are all sentences of its
    split whose meanings are the same but for names, with its own names in them, each once; of
    vectors, those of equal vectors. BLEU is that of the whole split over these, one hypothesis a
    row. (The figures of Wen et al. 2015 and of shawnwun/RNNLG are counted so, with the five best
    hypotheses of each row instead of the best, on words as they stand between blanks:
    `bleu_tokens = "none"`, and over the test split's rows, equal meanings among them.)

    Of the `candidates` that a search finds for a meaning the one with the fewest slot errors is
    taken, of equal ones the most probable. `slot_error` is, over a whole split, the slots that are
    missing or too many, over those that should be there: ERR of Wen et al. 2015, "Semantically
    conditioned LSTM-based natural language generation for spoken dialogue systems". A slot is
    counted by its name's place in the sentence, or by `mentions` where it has no name.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker; or a data set
            of the Hugging Face hub: `hf://owner/name`, `hf://owner/name/config`
        inputs: whether sentences are written for meanings or for vectors
        input: column of a table with meaning or vector; meaning or vector if not given
        text: column of a table with the sentence or sentences
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        mentions: words by which a slot without a name is recognised, "kidsallowed: kid child"
        candidates: sentences written for each meaning, of which one is taken; for a vector just one
        standardise: whether vectors' features get mean 0 and deviation 1; a meaning stays 0 and 1
        lowercase: whether all text is lower-cased, and scored so
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        max_length: training sentences with more symbols are left out
        bleu_tokens: how sacrebleu is to cut sentences into words

    """

    gives: ClassVar[frozenset[Task]] = frozenset({("vector", "tokens")})
    families: ClassVar[tuple[TextFamily, ...] | str | None] = ("bleu", "chrf")
    own_metrics: ClassVar[tuple[str, ...]] = ("slot_error",)
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 600}
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(
            when={"inputs": ("vectors",)},
            unless={"mentions": ([],)},
            because="mentions are words for slots, and vectors have none: leave out mentions, or"
            " choose inputs = 'meanings'",
        ),
    )

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        inputs: Inputs = "meanings",
        input: str = "",  # noqa: A002 - the name of what it names
        text: str = "text",
        train: str = "train",
        val: str = "val",
        test: str = "test",
        mentions: list[str] = [],  # noqa: B006 - a plain value, which nobody changes
        candidates: Annotated[int, Interval(ge=1, le=100)] = 20,
        standardise: bool = True,
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "words",
        vocabulary_size: VocabularySize = 6000,
        max_length: Annotated[int, Ge(1)] = 100,
        bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a",
    ) -> None:
        super().__init__()
        if line := misfit(self.refusals, {"inputs": inputs, "mentions": list(mentions)}):
            raise DataError(line)
        self._root = root
        self._inputs: Inputs = inputs
        self._columns = (input or {"meanings": "meaning", "vectors": "vector"}[inputs], text)
        self._names = {"train": train, "val": val, "test": test}
        self._mentions = dict(map(_mention, mentions))
        self.candidates = candidates if inputs == "meanings" else 1
        self._standardise = standardise
        self._tokens: Tokens = tokens
        self._vocabulary_size = vocabulary_size
        self._max_length = max_length
        self._form = TextForm(lowercase=lowercase, normalise=normalise)
        self.scoring = TextScoring(tokenize=bleu_tokens, lowercase=lowercase)
        self._references: dict[str, list[list[str]]] = {}
        #: How many training sentences were left out, by reason: "empty", "too_long".
        self.left_out: dict[str, int] = {}

    # --- preparing

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and encode all splits; it is quick enough to need no cache.

        With a loaded vocabulary none is learned, and any split may be missing until it is used.
        """
        self._workspace = workspace
        self._splits, self._references, self._absent = {}, {}, {}
        folder, roots = open_root(self._root, workspace)
        files = CaptionFiles(folder, roots, self._inputs, self._columns)
        needed = () if self._learned else ("train", "val")
        found: dict[str, tuple[Path, ...]] = {}
        for split, name in self._names.items():
            try:
                found[split] = files.find(name)
            except DataMissingError as error:
                if split in needed:
                    raise
                self._absent[split] = error
        for split, paths in found.items():
            self._origins[split] = [digest_of(paths), self._inputs, self._form.state()]
            self._take(split, Sentences.of(files.read(paths), self._form), paths[0])

    def _take(self, split: str, sentences: Sentences, path: Path) -> None:
        if split == "train":
            filled = sentences.text.lengths > 0
            if not filled.any():
                raise DataFormatError(f"{path} leaves no sentence to train on: all are empty")
            sentences = sentences.where(filled)
            self._learned = self._learned or self._learn(sentences)
            self.left_out = {"empty": int((~filled).sum())}
        try:
            encoded = CaptionSplit.encode(sentences, self._known)
        except DataFormatError as error:
            raise DataFormatError(f"{path}: {error}") from error
        if split == "train":
            short = encoded.symbols.lengths <= self._max_length + 1  # the end symbol
            self.left_out["too_long"] = int((~short).sum())
            if not short.any():
                raise DataFormatError(
                    f"{path} leaves no sentence to train on: all have more than"
                    f" {self._max_length} symbols ('max_length')"
                )
            encoded = encoded.where(short)
            if any(self.left_out.values()):
                _log.warning("training sentences left out: %s", self.left_out)
        self._splits[split] = encoded

    def _learn(self, sentences: Sentences) -> Learned:
        if self._inputs == "meanings":
            reader = Reader.of_meanings(sentences.meanings, self._form)
        else:
            reader = Reader.of_vectors(sentences.raw, self._form, standardise=self._standardise)
        vocabulary = KINDS[self._tokens].train(sentences.texts, self._vocabulary_size)
        return Learned(reader, vocabulary)

    # --- what the trainer asks for

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return the width of a vector and how many symbols there are."""
        learned = self._known
        return {
            "feature_size": len(learned.reader),
            "target_vocabulary_size": len(learned.vocabulary),
        }

    def sizes(self, split: str) -> Sizes:
        """Return 1 and the lengths of the sentences, the end symbols counted (N, 2)."""
        lengths = self._split(split).symbols.lengths
        return np.stack([np.ones_like(lengths), lengths], axis=1)

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        data = self._split(split)
        vectors = torch.from_numpy(data.vectors(rows))[:, None]
        index = torch.tensor(rows, dtype=torch.int64)
        targets, lengths = data.symbols.padded(rows)
        return Batch(vectors, torch.ones_like(index), targets, lengths, {"index": index})

    def facts(self, split: str) -> dict[str, int]:
        """Return what was left out of training, and rows whose meaning has what it never had."""
        if split == "train":
            return {f"left_out_{reason}": n for reason, n in self.left_out.items() if n}
        unknown = self._known.reader.unknown(self._split(split).sentences.meanings)
        return {"unknown_meanings": unknown} if unknown else {}

    # --- lines in, sentences out

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of these lines, in their order and without targets.

        Raise DataFormatError for a line that is no meaning, or no list of as many numbers.
        """
        vectors = torch.from_numpy(self._known.reader.encode(lines))[:, None]
        index = torch.arange(len(lines))
        return Batch(vectors, torch.ones_like(index), extras={"index": index})

    def line_length(self, line: str) -> int:
        """Return about how long the sentence will be: what is read has one position."""
        return len(line) if self._inputs == "meanings" else self._max_length

    def rerank(self, found: Sequence[W], line: str) -> Sequence[W]:
        """Return the outputs with the fewest slot errors first, of equal ones the likeliest."""
        if self._inputs == "vectors":
            return found
        meaning = self._meaning(line)
        return sorted(found, key=lambda each: self._errors(meaning, each.ids)[0])

    def text_of(self, ids: Sequence[int], line: str) -> str:
        """Return the sentence with the names of this line's meaning in it."""
        written = self.detokenise(ids)
        return written if self._inputs == "vectors" else self._meaning(line).relexicalise(written)

    def own_scores(self, best: Mapping[int, Sequence[int]], split: str) -> Counts:
        """Return the slots of each row's meaning that are wrong, and all of them."""
        meanings = self._split(split).sentences.meanings
        if not meanings:
            return {}
        return {"slot_error": [self._errors(meanings[row], ids) for row, ids in best.items()]}

    def _errors(self, meaning: Meaning, ids: Sequence[int]) -> tuple[int, int]:
        return meaning.errors(self.detokenise(ids), self._mentions)

    def _meaning(self, line: str) -> Meaning:
        return self._known.reader.meaning(line)

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the sentence of these ids up to the end symbol, names not put in."""
        return self._vocabulary.decode(ids)

    def source_symbols(self, line: str) -> list[str]:
        """Return the line itself: an input has one position."""
        return [printable(line)]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of an output, one for each id."""
        return self._vocabulary.symbols(ids)

    def sources(self, split: str) -> Sequence[str]:
        """Return the line that spells the input of every row."""
        return self._split(split).sentences.lines

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the sentences written for the same as each row's, its own first."""
        if split not in self._references:
            self._references[split] = self._split(split).references()
        return self._references[split]

    # --- what the checkpoint keeps

    def _state(self) -> dict[str, Any]:
        return self._known.state()

    def _reading(self) -> dict[str, Any]:
        return {**self._form.state(), "inputs": self._inputs}

    def _take_over(self, state: dict[str, Any]) -> None:
        self._learned = Learned.from_state(state)
        self._form, self._inputs = self._learned.reader.form, self._learned.reader.inputs

    @property
    def _vocabulary(self) -> Vocabulary:
        return self._known.vocabulary


def _mention(line: str) -> tuple[str, frozenset[str]]:
    """Return slot and words of "slot: word word"."""
    slot, colon, words = line.partition(":")
    if not colon or not slot.strip() or not words.split():
        raise DataError(
            f"'mentions' holds {line!r}: write the slot, a colon and its words, such as"
            " 'kidsallowed: kid child'"
        )
    return slot_name(slot), frozenset(words.lower().split())
