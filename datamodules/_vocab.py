"""From text to ids and back, without losing a character.

Ids 0 to 3 mean the same in every vocabulary; models and decoders import them from here. A
vocabulary never changes the text it reads: what is lower-cased or normalised was so before
(`TextForm`).
"""

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, compress
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Interval
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from datamodules._errors import DataFormatError

#: Behind every sequence, never inside one.
PAD: Final = 0
#: Before the first target symbol.
BOS: Final = 1
#: After the last symbol of every sequence.
EOS: Final = 2
#: Whatever training did not see.
UNK: Final = 3
#: How many ids come before the first symbol of text.
SPECIALS: Final = 4

#: What the special ids look like where a person reads them, by id.
SPECIAL_SYMBOLS: Final = ("<pad>", "<s>", "</s>", "<unk>")
#: What an unknown symbol becomes in text: Unicode's own sign for it.
UNKNOWN_TEXT: Final = "\ufffd"

#: Words whose ids are kept, about, and how long they are at most, in the middle of a line.
_MET: Final = 1 << 16
_WORD: Final = 32

#: Characters that subwords are learned from in one piece, far more than a word has. Each merge goes
#: through all of a piece that it changes: a line of megabytes without a blank would take hours.
_PIECE: Final = 1000
_ENDLESS: Final = re.compile(rf"(?<!\S)\S{{{_PIECE + 1},}}|(?<!\s)\s{{{_PIECE + 1},}}")

Normalisation = Literal["none", "nfc", "nfkc"]
Tokens = Literal["subwords", "words", "characters"]
#: Learning takes memory for as many symbols as are asked for, however few there will be.
VocabularySize = Annotated[int, Interval(ge=300, le=1_000_000)]


@dataclass(frozen=True)
class TextForm:
    """What is done to text before anything else sees it; by default nothing."""

    lowercase: bool = False
    normalise: Normalisation = "none"

    def __call__(self, text: str) -> str:
        """Return the text in this form."""
        if self.normalise == "nfc":
            text = unicodedata.normalize("NFC", text)
        elif self.normalise == "nfkc":
            text = unicodedata.normalize("NFKC", text)
        return text.lower() if self.lowercase else text

    def state(self) -> dict[str, Any]:
        """Return the form as plain values."""
        return asdict(self)


class Vocabulary(ABC):
    """Turn lines into ids and ids into text; made of plain values, so that checkpoints hold it."""

    #: The name of this way to cut text, also in the state.
    tokens: ClassVar[Tokens]

    @classmethod
    @abstractmethod
    def train(cls, lines: Iterable[str], size: int) -> "Vocabulary":
        """Learn from text at most `size` symbols, the special ones counted; characters: all."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of ids, the special ones counted."""

    @abstractmethod
    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the ids of every line, without begin and end."""

    @abstractmethod
    def _text(self, ids: Sequence[int]) -> str:
        """Return the text of ids none of which is PAD, BOS or EOS."""

    @abstractmethod
    def _symbol(self, symbol: int) -> str:
        """Return the text of one id that is not special."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything as plain values; `from_state` undoes it."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the end symbol."""
        kept: list[int] = []
        for symbol in map(int, ids):
            if symbol == EOS:
                break
            if symbol not in (PAD, BOS):
                kept.append(symbol)
        return self._text(kept)

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Return something printable for each id."""
        return [
            SPECIAL_SYMBOLS[symbol] if symbol < SPECIALS else printable(self._symbol(symbol))
            for symbol in map(int, ids)
        ]


class _Ids(dict[str, int]):
    """The id of each entry; of any other, that of what is unknown."""

    def __missing__(self, _entry: str) -> int:
        return UNK


class _Listed(Vocabulary):
    """A vocabulary that is a list of strings."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = list(entries)
        self._ids = _Ids((entry, SPECIALS + place) for place, entry in enumerate(self._entries))

    def __len__(self) -> int:
        return SPECIALS + len(self._entries)

    def _symbol(self, symbol: int) -> str:
        return UNKNOWN_TEXT if symbol == UNK else self._entries[symbol - SPECIALS]

    def state(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "entries": list(self._entries)}


class Characters(_Listed):
    """Every character is a symbol."""

    tokens = "characters"

    @classmethod
    def train(cls, lines: Iterable[str], size: int = 0) -> "Characters":  # noqa: ARG003 - all are kept
        """Take all characters that occur, in the order of their code points."""
        found: set[str] = set()
        for line in lines:
            found.update(line)
        return cls(sorted(found))

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        return [list(map(self._ids.__getitem__, line)) for line in lines]

    def _text(self, ids: Sequence[int]) -> str:
        return "".join(map(self._symbol, ids))


class Words(_Listed):
    """Whatever stands between two blanks is a symbol, the empty word (two blanks in a row) too."""

    tokens = "words"

    @classmethod
    def train(cls, lines: Iterable[str], size: int) -> "Words":
        """Take the most frequent words; the earlier in the alphabet where two are as frequent."""
        counts = Counter(chain.from_iterable(line.split(" ") for line in lines))
        counts.pop("", None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(["", *ranked[: max(0, size - SPECIALS - 1)]])

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        look_up = self._ids.__getitem__
        return [list(map(look_up, line.split(" "))) if line else [] for line in lines]

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(map(self._symbol, ids))


class Subwords(Vocabulary):
    """Byte-pair encoding over the bytes of UTF-8 (Sennrich et al. 2016; Radford et al. 2019).

    Its alphabet is the 256 bytes, so every text can be written and none is unknown. A blank is put
    before each line and taken off again, so that a word is the same symbol at the head of a line as
    inside it.
    """

    tokens = "subwords"
    #: Signs outside the byte alphabet, so that no text can be mistaken for a special symbol.
    _RESERVED: Final = ("⟨pad⟩", "⟨bos⟩", "⟨eos⟩", UNKNOWN_TEXT)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        #: The ids of words that were met, a blank before each.
        self._met: dict[str, list[int]] = {}

    @classmethod
    def train(cls, lines: Iterable[str], size: int) -> "Subwords":
        """Merge the most frequent pairs until there are `size` symbols, or no pair occurs twice.

        Of a word that has no end, pairs are counted as if it were several (`_PIECE`).
        """
        learner = _byte_level(models.BPE())
        learner.train_from_iterator(
            chain.from_iterable(_pieces(f" {line}") for line in lines),
            trainers.BpeTrainer(
                vocab_size=size,
                min_frequency=2,
                show_progress=False,
                special_tokens=list(cls._RESERVED),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            ),
        )
        return cls._without_added_tokens(learner.to_str())

    @classmethod
    def _without_added_tokens(cls, trained: str) -> "Subwords":
        """Drop the rule by which the library would find special symbols in the text itself."""
        plain = json.loads(trained)
        plain["added_tokens"] = []
        return cls(Tokenizer.from_str(json.dumps(plain, ensure_ascii=False)))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        parted = [line.split() for line in lines]
        # Where single blanks stand between words that are short, no symbol reaches over a blank.
        plain = [
            " ".join(words) == line and len(line) <= _WORD * len(words)
            for words, line in zip(parted, lines, strict=True)
        ]
        met = self._know(set(chain.from_iterable(compress(parted, plain))))
        whole = self._ids([line for line, known in zip(lines, plain, strict=True) if not known])
        return [
            list(chain.from_iterable([met[word] for word in words])) if known else next(whole)
            for words, known in zip(parted, plain, strict=True)
        ]

    def _know(self, words: set[str]) -> Mapping[str, list[int]]:
        """Return the ids of these words, found once however often they are met."""
        if len(self._met) > _MET:
            self._met = {}
        new = list(words - self._met.keys())
        self._met.update(zip(new, self._ids(new), strict=True))
        return self._met

    def _ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(
            [f" {text}" if text else "" for text in texts], add_special_tokens=False
        )
        return (each.ids for each in encoded)

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False).removeprefix(" ")

    def _symbol(self, symbol: int) -> str:
        return self._tokenizer.decode([symbol], skip_special_tokens=False)

    def state(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "tokenizer": self._tokenizer.to_str()}


def _pieces(text: str) -> Iterator[str]:
    begin = 0
    for found in _ENDLESS.finditer(text) if len(text) > _PIECE else ():
        for end in range(found.start() + _PIECE, found.end(), _PIECE):
            yield text[begin:end]
            begin = end
    yield text[begin:]


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


KINDS: Final[Mapping[str, type[Vocabulary]]] = {
    kind.tokens: kind for kind in (Subwords, Words, Characters)
}


def from_state(state: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary of which `state` was taken. Raise DataFormatError if it is none."""
    try:
        if state["tokens"] == Subwords.tokens:
            return Subwords(Tokenizer.from_str(state["tokenizer"]))
        return {"words": Words, "characters": Characters}[state["tokens"]](state["entries"])
    except Exception as error:  # the library raises bare Exception for a string it cannot read
        raise DataFormatError(f"this is not the state of a vocabulary: {error}") from error


def printable(text: str) -> str:
    """Return text whose blanks and invisible characters can be seen (␣, or the code point)."""
    return "".join(
        "␣" if character == " " else character if _visible(character) else f"U+{ord(character):04X}"
        for character in text
    )


def _visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Co"
