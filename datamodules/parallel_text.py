"""Lines of one language beside their translations, or any other text that turns into text."""

import logging
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge

from datamodules._base import TextScoring, Workspace
from datamodules._encoded import Encoded, PairSplit, Vocabularies
from datamodules._errors import DataFormatError, DataMissingError
from datamodules._pairs import PairFiles, Pairs, find_pairs
from datamodules._paths import find_folder
from datamodules._text import TextPairs
from datamodules._vocab import KINDS, Normalisation, TextForm, Tokens

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 1
_log = logging.getLogger(__name__)


class ParallelText(TextPairs):
    """Line-aligned files, or tables with a column for each side.

    A split is the two files `root/{split}.{source}` and `root/{split}.{target}`, or else one table
    `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet` with columns of these names; each of them
    gzip or not. Pairs with an empty side and over-long ones are left out of training and counted
    (`left_out`); the other splits are kept whole, so that scores are comparable. A test split may
    be missing until it is asked for.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        source: language suffix or column of the text that goes in
        target: language suffix or column of the text that is to come out
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        lowercase: whether all text is lower-cased, and scored so
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        shared_vocabulary: whether source and target have one vocabulary
        max_length: training pairs with more symbols on a side are left out
        bleu_tokens: how sacrebleu is to cut the target text into words

    """

    # On Multi30k so many symbols of the longer side are some 1,100 of the target, the recipe's.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 1200}

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        source: str,
        target: str,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "subwords",
        vocabulary_size: Annotated[int, Ge(300)] = 6000,
        shared_vocabulary: bool = True,
        max_length: Annotated[int, Ge(1)] = 256,
        bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a",
    ) -> None:
        super().__init__()
        self._root = root
        self._columns = source, target
        self._names = {"train": train, "val": val, "test": test}
        self._tokens: Tokens = tokens
        self._vocabulary_size = vocabulary_size
        self._shared_vocabulary = shared_vocabulary
        self._max_length = max_length
        self.scoring = TextScoring(tokenize=bleu_tokens)
        self._read_as(TextForm(lowercase=lowercase, normalise=normalise))
        self._absent: dict[str, DataMissingError] = {}
        #: How many training pairs were left out, by reason: "empty", "too_long".
        self.left_out: dict[str, int] = {}

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and encode all splits, or take them from the cache.

        With a loaded vocabulary none is learned, and any split may be missing until it is used.
        """
        files = self._find(workspace)
        settings = {
            "version": _VERSION,
            "files": {split: each.digest() for split, each in files.items()},
            "columns": self._columns,
            "max_length": self._max_length,
            "learn": [self._tokens, self._vocabulary_size, self._shared_vocabulary],
        }
        notes = self._keep(workspace, settings, partial(self._encoded, files))
        self.left_out = dict(notes["left_out"])
        if any(self.left_out.values()):
            _log.warning("training pairs left out: %s", _counted(self.left_out))

    def facts(self, split: str) -> dict[str, int]:
        """Return how many training pairs were left out, by reason, where any were."""
        counts = self.left_out if split == "train" else {}
        return {f"left_out_{reason}": count for reason, count in counts.items() if count}

    def _find(self, workspace: Workspace) -> dict[str, PairFiles]:
        folder = find_folder(self._root, workspace.roots)
        needed = ("train", "val") if self._vocabularies is None else ()
        found: dict[str, PairFiles] = {}
        self._absent = {}
        for split, name in self._names.items():
            try:
                found[split] = find_pairs(folder, name, self._columns, workspace.roots)
            except DataMissingError as error:
                if split in needed:
                    raise
                self._absent[split] = error
        return found

    def _encoded(self, files: Mapping[str, PairFiles], loaded: Vocabularies | None) -> Encoded:
        pairs = {split: self._formed(each.read()) for split, each in files.items()}
        left_out = {"empty": 0, "too_long": 0}
        if "train" in pairs:
            pairs["train"], left_out["empty"] = _without_empty(pairs["train"])
        vocabularies = loaded or self._learned(pairs["train"])
        splits = {split: PairSplit.encode(*both, vocabularies) for split, both in pairs.items()}
        if "train" in splits:
            short = splits["train"].sizes.max(axis=1) <= self._max_length + 1  # the end symbol
            splits["train"] = splits["train"].where(short)
            left_out["too_long"] = int((~short).sum())
            if not short.any():
                paths = " and ".join(map(str, files["train"].paths))
                why = _counted(left_out)
                raise DataFormatError(f"{paths} leave no pair to train on (left out: {why})")
        return Encoded(splits, vocabularies, {"left_out": left_out})

    def _formed(self, pairs: Pairs) -> Pairs:
        sources, targets = pairs
        return list(map(self._form, sources)), list(map(self._form, targets))

    def _learned(self, pairs: Pairs) -> Vocabularies:
        learn = partial(KINDS[self._tokens].train, size=self._vocabulary_size)
        if not self._shared_vocabulary:
            return Vocabularies(*map(learn, pairs))
        both = learn(chain(*pairs))
        return Vocabularies(both, both)

    def _split(self, split: str) -> PairSplit:
        if split in self._absent:
            raise self._absent[split]
        return super()._split(split)


def _without_empty(pairs: Pairs) -> tuple[Pairs, int]:
    """Return the pairs both of whose sides hold more than blanks, and how many do not."""
    kept = [pair for pair in zip(*pairs, strict=True) if all(map(str.strip, pair))]
    sources, targets = [source for source, _ in kept], [target for _, target in kept]
    return (sources, targets), len(pairs[0]) - len(kept)


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
