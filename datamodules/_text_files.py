"""Text in, text out, from files: finding the splits, learning symbols, leaving out what is long."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from datamodules._base import Workspace
from datamodules._encoded import Encoded, PairSplit, TextRows, Vocabularies
from datamodules._errors import DataFormatError, DataMissingError
from datamodules._hub import open_root
from datamodules._text import TextPairs
from datamodules._vocab import KINDS, TextForm, Tokens

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 2
_log = logging.getLogger(__name__)


class Files(Protocol):
    """What holds a split."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""

    def digest(self) -> str:
        """Return a digest of what they hold."""


@dataclass(frozen=True)
class Learning:
    """What symbols are learned from the training split, and what is trained on."""

    tokens: Tokens
    vocabulary_size: int
    shared_vocabulary: bool
    #: Training rows with more symbols on a side are left out.
    max_length: int

    def vocabularies(self, sources: Iterable[str], targets: Iterable[str]) -> Vocabularies:
        """Return the vocabularies of these texts."""
        learn = partial(KINDS[self.tokens].train, size=self.vocabulary_size)
        if not self.shared_vocabulary:
            return Vocabularies(learn(sources), learn(targets))
        both = learn(chain(sources, targets))
        return Vocabularies(both, both)


class TextFiles(TextPairs):
    """Text pairs whose splits are files below a root. A subclass says which, and reads them.

    Over-long pairs are left out of training and counted; the other splits are kept whole, so that
    scores are comparable. A test split may be missing until it is asked for.
    """

    # On Multi30k so many symbols of the longer side are some 1,100 of the target, the recipe's.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 1200}

    def __init__(
        self, root: str, names: Mapping[str, str], form: TextForm, learning: Learning
    ) -> None:
        super().__init__()
        self._root = root
        self._names = names
        self._learning = learning
        self._files: Mapping[str, Files] = {}
        self._read_as(form)
        #: How many training pairs were left out, by reason: "empty", "too_long".
        self.left_out: dict[str, int] = {}

    @abstractmethod
    def _find_split(self, folder: Path, name: str, roots: Sequence[Path]) -> Files:
        """Return the files of a split. Raise DataMissingError where there are none."""

    @abstractmethod
    def _texts(self, files: Mapping[str, Any]) -> tuple[dict[str, TextRows], dict[str, int]]:
        """Return the rows of all splits in the form they are kept in, and what was left out."""

    @abstractmethod
    def _settings(self) -> Mapping[str, Any]:
        """Return all parameters but those of the learning that decide what is read."""

    def _needed(self) -> Sequence[str]:
        """Return the splits without which nothing can be trained."""
        return "train", "val"

    def _taught(self, texts: TextRows) -> tuple[Iterable[str], Iterable[str]]:
        """Return the texts of both sides that the symbols are learned from."""
        return texts.sources, chain.from_iterable(texts.references)

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and encode all splits, or take them from the cache.

        With a loaded vocabulary none is learned, and any split may be missing until it is used.
        """
        files = self._files = self._find(workspace)
        learning = self._learning
        settings = {
            "version": _VERSION,
            "files": {split: each.digest() for split, each in files.items()},
            "max_length": learning.max_length,
            "learn": [learning.tokens, learning.vocabulary_size, learning.shared_vocabulary],
            "own": self._settings(),
        }
        read = [self._settings(), self._form.state()]
        self._origins = {split: [each.digest(), *read] for split, each in files.items()}
        notes = self._keep(workspace, settings, partial(self._encoded, files))
        self.left_out = dict(notes["left_out"])
        if any(self.left_out.values()):
            _log.warning("training pairs left out: %s", _counted(self.left_out))

    def facts(self, split: str) -> dict[str, int]:
        """Return how many training pairs were left out, by reason, where any were."""
        counts = self.left_out if split == "train" else {}
        return {f"left_out_{reason}": count for reason, count in counts.items() if count}

    def _find(self, workspace: Workspace) -> dict[str, Files]:
        folder, roots = open_root(self._root, workspace)
        needed = self._needed() if self._learned is None else ()
        found: dict[str, Files] = {}
        self._absent = {}
        for split, name in self._names.items():
            try:
                found[split] = self._find_split(folder, name, roots)
            except DataMissingError as error:
                if split in needed:
                    raise
                self._absent[split] = error
        return found

    def _encoded(self, files: Mapping[str, Files], loaded: Vocabularies | None) -> Encoded:
        texts, left_out = self._texts(files)
        vocabularies = loaded or self._learning.vocabularies(*self._taught(texts["train"]))
        read = self._reader(vocabularies)
        splits = {
            split: PairSplit.encode(each, vocabularies, read) for split, each in texts.items()
        }
        left_out = {**left_out, "too_long": 0}
        if "train" in splits:
            # The end symbol is not counted.
            short = splits["train"].sizes.max(axis=1) <= self._learning.max_length + 1
            splits["train"] = splits["train"].where(short)
            left_out["too_long"] = int((~short).sum())
            if not short.any():
                paths = " and ".join(map(str, files["train"].paths))
                why = _counted(left_out)
                raise DataFormatError(f"{paths} leave no pair to train on (left out: {why})")
        return Encoded(splits, vocabularies, {"left_out": left_out})


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
