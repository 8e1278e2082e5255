"""Running text, read as one stream of characters, subwords or words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from annotated_types import Ge, Interval
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torch.nn.utils.rnn import pad_sequence

from datamodules._base import Answer, Plan, StreamData, Task, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared, cached, key_of
from datamodules._encoded import encode_lines
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import check_encoding, digest_of, find_file, lines_of, what_is_there
from datamodules._learned import LearnedData
from datamodules._paths import find_folder, inside, is_file
from datamodules._rows import Rows, Texts, TextSpool
from datamodules._stream import Stream, parallel_plan, reading_plan
from datamodules._vocab import (
    EOS,
    KINDS,
    PAD,
    UNK,
    Normalisation,
    TextForm,
    Tokens,
    Vocabulary,
    VocabularySize,
    from_state,
)

#: Part of the cache's key: to be raised when the same files and settings give other symbols.
_VERSION: Final = 1
#: Windows of splits that are only read: no gradient is kept, so they are at least so long.
_READING_WINDOW: Final = 256
#: Symbols that are looked at at once.
_PART: Final = 1 << 20
_SUFFIXES: Final = (".txt", ".txt.gz")


class CharText(LearnedData[Vocabulary, Stream], StreamData):
    r"""One or more text files, read one after the other as a single stream.

    A line's end is a symbol too. Without files of their own, val and then test are cut off the end
    of the training text: the last `test_fraction` of its characters is test.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        train: files to learn from, in this order; none named, every .txt file of the folder that
            is not val or test, by name
        val: file to choose models by; if not given, it is cut off
        test: file to score the best model on; if not given, it is cut off
        val_fraction: part of the text's characters that is val, if cut off; the piece before test,
            of which training then has nothing: keep it small where a text's subjects change
        test_fraction: part of the text's characters that is test, if cut off; 0 for no test
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        bptt: symbols of a window; the gradient reaches no further back, the hidden state does
        lowercase: whether all text is lower-cased
        normalise: the Unicode normalisation of all text
        encoding: how the files are encoded

    """

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "next")})
    # With windows of 100 symbols, 32 parallel streams.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 3200}

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        train: list[str] = [],  # noqa: B006 - a default in a catalogue; never changed
        val: str | None = None,
        test: str | None = None,
        val_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.05,
        test_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.05,
        tokens: Tokens = "characters",
        vocabulary_size: VocabularySize = 6000,
        bptt: Annotated[int, Ge(1)] = 100,
        lowercase: bool = False,
        normalise: Normalisation = "none",
        encoding: str = "utf-8",
    ) -> None:
        super().__init__()
        self._root = root
        self._names: dict[str, list[str]] = {
            "train": list(train),
            "val": [val] if val else [],
            "test": [test] if test else [],
        }
        self._cut = {"val": 0.0 if val else val_fraction, "test": 0.0 if test else test_fraction}
        if sum(self._cut.values()) >= 1:
            raise DataError("val_fraction and test_fraction leave no text to learn from")
        self._learn: tuple[Tokens, int] = tokens, vocabulary_size
        self._bptt = bptt
        self._form = TextForm(lowercase=lowercase, normalise=normalise)
        self._encoding = check_encoding(encoding)

    # --- reading

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and encode all splits, or take them from the cache.

        With a loaded vocabulary none is learned, and a file may be missing until it is used.
        """
        self._workspace = workspace
        files, loaded = self._find(workspace), self._learned
        digests = {split: digest_of(paths) for split, paths in files.items()}
        settings = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "files": digests,
            "cut": self._cut,
            "learn": self._learn,
            "encoding": self._encoding,
            "form": self._form.state(),
            "loaded": loaded and loaded.state(),
        }
        cut = {split: [digests.get("train"), self._cut] for split in ("val", "test")}
        read = [self._encoding, settings["form"]]
        self._origins = {split: [split, each, *read] for split, each in {**cut, **digests}.items()}
        made = cached(
            workspace.cache / "streams", key_of(settings), partial(self._encoded, files, loaded)
        )
        self._learned = loaded or from_state(made.facts["vocabulary"])
        self._splits = {
            split: Stream(symbols, self._window(split)) for split, symbols in made.arrays.items()
        }

    def _window(self, split: str) -> int:
        return self._bptt if split == "train" else max(self._bptt, _READING_WINDOW)

    def _find(self, workspace: Workspace) -> dict[str, list[Path]]:
        """Return the files of each split that has some of its own."""
        folder = find_folder(self._root, workspace.roots)
        found: dict[str, list[Path]] = {}
        self._absent = {}
        for split, names in self._names.items():
            try:
                if names or split != "train":
                    found[split] = [_named(folder, name, workspace.roots) for name in names]
                else:
                    others = [*self._names["val"], *self._names["test"]]
                    found[split] = _all_texts(folder, others, workspace.roots)
            except DataMissingError as error:
                if split != "test" and self._learned is None:
                    raise
                self._absent[split] = error
        return {split: paths for split, paths in found.items() if paths}

    def _encoded(self, files: Mapping[str, list[Path]], loaded: Vocabulary | None) -> Prepared:
        texts = {split: Rows.of_texts(self._lines(paths)) for split, paths in files.items()}
        if "train" in texts:
            texts |= self._parts(texts["train"], ", ".join(map(str, files["train"])))
        pieces = {split: Texts(rows) for split, rows in texts.items()}
        vocabulary = loaded or self._vocabulary_of(pieces["train"])
        arrays = {split: _symbols(each, vocabulary) for split, each in pieces.items()}
        return Prepared(arrays, {"vocabulary": vocabulary.state()})

    def _lines(self, paths: Iterable[Path]) -> Iterator[str]:
        """Yield the lines of the files, one file after the other, each line with its end."""
        for path in paths:
            empty = True
            for line in lines_of(path, self._encoding):
                empty = empty and not line.strip()
                yield f"{self._form(line)}\n"
            if empty:
                raise DataFormatError(f"{path} holds no text")

    def _parts(self, lines: Rows, where: str) -> dict[str, Rows]:
        """Cut val and test off the end of the training text."""
        end = sum(map(len, Texts(lines)))
        first = round(end * (1 - self._cut["val"] - self._cut["test"]))
        second = round(end * (1 - self._cut["test"]))
        parts = {split: TextSpool() for split in ("train", "val", "test")}
        spools = list(parts.values())
        for number, piece in self._pieces(Texts(lines), (first, second)):
            spools[number].append(piece)
        wanted = {"train": True} | {split: share > 0 for split, share in self._cut.items()}
        rows = {split: part.rows() for split, part in parts.items() if wanted[split]}
        if not all(map(len, rows.values())):
            raise DataFormatError(
                f"{where}: {end} characters are too few to cut into train, val and test:"
                " give more text, or files of their own to val and test"
            )
        return rows

    def _pieces(self, lines: Iterable[str], places: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield lines, cut where a part ends, each with the number of its part."""
        part = begin = 0
        for line in lines:
            rest = line
            while part < len(places) and places[part] < begin + len(rest):
                column = self._column(rest, places[part] - begin)
                if column:
                    yield part, rest[:column]
                part, begin, rest = part + 1, begin + column, rest[column:]
            if rest:
                yield part, rest
            begin += len(rest)

    def _column(self, line: str, wanted: int) -> int:
        """Return where to cut a line: at this character, but never inside a word that is a symbol.

        Less than 0 is inside a word at whose end the line was cut before.
        """
        if self._learn[0] == "characters" or wanted < 0:
            return max(0, wanted)
        after = (line.find(blank, wanted) + 1 for blank in (" ", "\n"))
        return min(end for end in after if end)

    def _vocabulary_of(self, pieces: Iterable[str]) -> Vocabulary:
        tokens, size = self._learn
        return KINDS[tokens].train((piece.removesuffix("\n") for piece in pieces), size)

    # --- what a model needs

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, learned by `prepare` or loaded from a checkpoint."""
        return self._known

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return the number of symbols."""
        return {"vocabulary_size": len(self.vocabulary)}

    def facts(self, split: str) -> dict[str, int]:
        """Return how many symbols a split has, and how many that training did not know."""
        symbols = self._split(split).symbols
        parts = np.array_split(symbols, 1 + len(symbols) // _PART)  # they need not fit into memory
        unknown = sum(int((part == UNK).sum()) for part in parts)
        return {"symbols": len(symbols), "unknown_symbols": unknown}

    def sizes(self, split: str) -> Sizes:
        """Return the length of every window, (N, 1)."""
        return self._split(split).sizes

    @property
    def reads_on(self) -> bool:
        """Whether a batch goes on where the one before it ended."""
        return True

    def plan(self, split: str, epoch: int) -> Plan:
        """Return parallel streams of windows to learn from, else one that is read as it stands."""
        windows = len(self._split(split))
        if split != "train":
            return reading_plan(windows)
        streams = max(1, self.feed.batch_tokens // self._bptt)
        return parallel_plan(windows, streams, self.feed.seed, epoch)

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return these windows, and which ones they follow."""
        return self._split(split).collate(rows)

    # --- text from outside

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return beginnings of text, one a row: EOS, then the symbols of the line or lines."""
        vocabulary = self.vocabulary
        rows = [
            torch.from_numpy(_symbols(self._form(line).split("\n"), vocabulary)).long()
            for line in lines
        ]
        begun = [F.pad(row, (1, 0), value=EOS) for row in rows]
        return Batch(
            inputs=pad_sequence(begun, batch_first=True, padding_value=PAD),
            lengths=torch.tensor([len(row) for row in begun]),
            extras={"index": torch.arange(len(begun))},
        )

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:  # noqa: ARG002 - the same for every line
        """Return the symbols most likely to come next, from log-probabilities (V,)."""
        best = output.topk(min(count, len(output)))
        pairs = zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
        return [Answer(self._text_of([symbol]), probability) for symbol, probability in pairs]

    def continued(self, prompt: Batch, written: Tensor, score: float) -> Answer:
        """Return prompt and continuation, read as one text: a prompt may end within a line."""
        begun = prompt.inputs[0, 1:].tolist()  # what stands before it is the begin alone
        return Answer(self._text_of([*begun, *written.tolist()]), score)

    def _text_of(self, ids: Sequence[int]) -> str:
        lines: list[list[int]] = [[]]
        for symbol in ids:
            if symbol == EOS:
                lines.append([])
            else:
                lines[-1].append(symbol)
        return "\n".join(map(self.vocabulary.decode, lines))

    def _state(self) -> dict[str, Any]:
        return {"form": self._form.state(), "vocabulary": self.vocabulary.state()}

    def _reading(self) -> dict[str, Any]:
        return self._form.state()

    def _take_over(self, state: dict[str, Any]) -> None:
        self._form = TextForm(**state["form"])
        self._learned = from_state(state["vocabulary"])

    def _split(self, split: str) -> Stream:
        if split in self._splits:
            return self._splits[split]
        if missing := self._absent.get(split) or self._absent.get("train"):
            raise missing
        known = ", ".join(self._splits) or "none; it was not prepared"
        mend = "; name a file for it or set test_fraction" if split == "test" else ""
        raise DataError(f"this data has no split {split!r} (it has: {known}){mend}")


def _named(folder: Path, name: str, roots: Sequence[Path]) -> Path:
    if (found := find_file(folder / name, roots)) is None:
        raise DataMissingError(
            f"{folder} has no file {name!r} (it holds: {what_is_there(folder, name[:1])})"
        )
    return found


def _all_texts(folder: Path, but: Sequence[str], roots: Sequence[Path]) -> list[Path]:
    """Return the text files of a folder, by name, but for those of other splits, packed or not."""
    others = {_plain(folder / name) for name in but}
    found = sorted(path for suffix in _SUFFIXES for path in folder.glob(f"[!.]*{suffix}"))
    texts = [each for each in found if _plain(each) not in others and is_file(inside(each, roots))]
    if not texts:
        there = what_is_there(folder, "")
        raise DataMissingError(
            f"{folder} has no .txt file to learn from: name some in train (it holds: {there})"
        )
    return texts


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz"))


def _symbols(pieces: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Return the symbols of lines, EOS for each line end, (n,); the last may be without one."""
    rows = encode_lines(vocabulary, (piece.removesuffix("\n") for piece in pieces))
    symbols: NDArray[np.int32] = rows.values
    return symbols if pieces[-1].endswith("\n") else symbols[:-1]
