"""Small kinds of data, one for each task: what the topologies' contract is tested with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from datamodules._base import Answer, Feed, LineData, Task, TextData, TextScoring, Workspace
from datamodules._batch import Batch
from datamodules._tags import TagData
from datamodules._values import ValueData
from datamodules._vocab import EOS, PAD, SPECIALS

LETTERS = "abcdef"


class Toy(LineData):
    """A few short words, and something to learn from them."""

    validation_splits = ("val", "unseen")

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed(batch_tokens=40, seed=1)
        chance = np.random.default_rng(5)
        self.words_of = {
            split: [self.word(chance, int(n)) for n in chance.integers(1, 6, 14)]
            for split in ("train", "val", "unseen", "test")
        }

    def word(self, chance: np.random.Generator, length: int) -> str:
        return "".join(chance.choice(list(LETTERS), size=length))

    def prepare(self, workspace: Workspace) -> None:
        """Do nothing: the words are there."""

    def ids(self, word: str) -> list[int]:
        return [*(SPECIALS + LETTERS.index(letter) for letter in word), EOS]

    def sizes(self, split: str) -> np.ndarray:
        return np.array([[len(word) + 1] * 2 for word in self.words_of[split]])

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """Return the padded targets and their lengths."""
        raise NotImplementedError

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        words = [self.words_of[split][row] for row in rows]
        inputs, lengths = self.pad([self.ids(word) for word in words])
        return Batch(inputs, lengths, *self.targets(words), {"index": torch.tensor(rows)})

    @staticmethod
    def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        return (
            torch.tensor([row + [PAD] * (width - len(row)) for row in rows]),
            torch.tensor([len(row) for row in rows]),
        )

    def encode(self, lines: Sequence[str]) -> Batch:
        inputs, lengths = self.pad([self.ids(line) for line in lines])
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def expected(self, split: str, row: int) -> str:
        """Return the answer that is right for a row."""
        raise NotImplementedError


class Backwards(Toy, TextData):
    """Words to be written backwards: the smallest task from tokens to tokens."""

    gives = frozenset({("tokens", "tokens")})
    scoring = TextScoring(tokenize="char")

    @property
    def dims(self) -> dict[str, int | bool]:
        size = SPECIALS + len(LETTERS)
        return {
            "source_vocabulary_size": size,
            "target_vocabulary_size": size,
            "shared_vocabulary": True,
        }

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.ids(word[::-1]) for word in words])

    def detokenise(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i - SPECIALS] if i >= SPECIALS else "?" for i in ids[:-1])

    def source_symbols(self, line: str) -> list[str]:
        return [*line, "</s>"]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        return [*self.detokenise(ids), "</s>"]

    def sources(self, split: str) -> Sequence[str]:
        return self.words_of[split]

    def references(self, split: str) -> Sequence[Sequence[str]]:
        return [[word[::-1]] for word in self.words_of[split]]

    def expected(self, split: str, row: int) -> str:
        return self.words_of[split][row][::-1]


class Marked(Toy):
    """Words with one of the first three letters in them: the smallest task from tokens to label."""

    gives = frozenset({("tokens", "label")})

    def word(self, chance: np.random.Generator, length: int) -> str:
        word = list(chance.choice(list(LETTERS[3:]), size=length))
        word[chance.integers(length)] = LETTERS[chance.integers(3)]
        return "".join(word)

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"vocabulary_size": SPECIALS + len(LETTERS), "num_classes": 3}

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        marks = [LETTERS.index(letter) for word in words for letter in word if letter in "abc"]
        return torch.tensor(marks), torch.ones(len(words), dtype=torch.int64)

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        assert output.shape == (3,)
        torch.testing.assert_close(output.exp().sum().item(), 1.0)
        best = output.argsort(descending=True)[:count].tolist()
        return [Answer(LETTERS[each], output[each].exp().item()) for each in best]

    def expected(self, split: str, row: int) -> str:
        return next(letter for letter in self.words_of[split][row] if letter in "abc")


class Round(Toy):
    """The letters in their order, round and round: the smallest task from tokens to the next."""

    gives = frozenset({("tokens", "next")})

    def word(self, chance: np.random.Generator, length: int) -> str:
        start = int(chance.integers(len(LETTERS)))
        return "".join(LETTERS[(start + at) % len(LETTERS)] for at in range(length))

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"vocabulary_size": SPECIALS + len(LETTERS)}

    def ids(self, word: str) -> list[int]:
        return super().ids(word)[:-1]

    def sizes(self, split: str) -> np.ndarray:
        return super().sizes(split) - 1

    def after(self, letter: str) -> str:
        return LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.ids("".join(map(self.after, word))) for word in words])

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        torch.testing.assert_close(output.exp().sum().item(), 1.0)
        best = output.argsort(descending=True)[:count].tolist()
        return [Answer(LETTERS[each - SPECIALS], output[each].exp().item()) for each in best]

    def expected(self, split: str, row: int) -> str:
        return self.after(self.words_of[split][row][-1])


class Spanned(Toy, TagData):
    """Words whose first three letters are to be found: the smallest task from tokens to tags."""

    gives = frozenset({("tokens", "tags")})
    tag_names = ("O", "B-x", "I-x")
    label_names = ()

    @property
    def dims(self) -> dict[str, int | bool]:
        counts = {"vocabulary_size": SPECIALS + len(LETTERS), "num_tags": 3}
        return counts | {"character_vocabulary_size": 0, "num_labels": 0}

    def tags(self, word: str) -> list[int]:
        found = [letter in "abc" for letter in word]
        return [*(1 + before if it else 0 for before, it in pairwise([False, *found])), 0]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.tags(word) for word in words])

    def true_tags(self, split: str) -> Sequence[Sequence[str]]:
        return [[self.tag_names[i] for i in self.tags(word)] for word in self.words_of[split]]

    def words(self, line: str) -> list[str]:
        return [*line, "</s>"]

    def expected(self, split: str, row: int) -> str:
        return " ".join(self.true_tags(split)[row])


class Spelled(Toy, TextData):
    """Letters to be followed by the rest of the alphabet: the smallest task label to tokens."""

    gives = frozenset({("label", "tokens")})
    scoring = TextScoring(tokenize="char")

    def word(self, chance: np.random.Generator, length: int) -> str:
        return str(chance.choice(list(LETTERS)))

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"source_classes": len(LETTERS), "target_vocabulary_size": SPECIALS + len(LETTERS)}

    def sizes(self, split: str) -> np.ndarray:
        return np.array([[1, len(self.spelled(word)) + 1] for word in self.words_of[split]])

    def spelled(self, word: str) -> str:
        return LETTERS[LETTERS.index(word) :]

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        words = [self.words_of[split][row] for row in rows]
        targets = self.pad([self.ids(self.spelled(word)) for word in words])
        encoded = self.encode(words)
        return Batch(encoded.inputs, encoded.lengths, *targets, {"index": torch.tensor(rows)})

    def encode(self, lines: Sequence[str]) -> Batch:
        inputs = torch.tensor([[LETTERS.index(line)] for line in lines])
        index = torch.arange(len(lines))
        return Batch(inputs, torch.ones_like(index), extras={"index": index})

    def detokenise(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i - SPECIALS] if i >= SPECIALS else "?" for i in ids[:-1])

    def source_symbols(self, line: str) -> list[str]:
        return [line]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        return [*self.detokenise(ids), "</s>"]

    def sources(self, split: str) -> Sequence[str]:
        return self.words_of[split]

    def references(self, split: str) -> Sequence[Sequence[str]]:
        return [[self.spelled(word)] for word in self.words_of[split]]

    def expected(self, split: str, row: int) -> str:
        return self.spelled(self.words_of[split][row])


class Described(Spelled):
    """The same of letters that are given as vectors: the smallest task from vector to tokens."""

    gives = frozenset({("vector", "tokens")})

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"feature_size": 2, "target_vocabulary_size": SPECIALS + len(LETTERS)}

    def encode(self, lines: Sequence[str]) -> Batch:
        angles = super().encode(lines)
        vectors = torch.stack([angles.inputs.sin(), angles.inputs.cos()], dim=-1)  # (B, 1, 2)
        return replace(angles, inputs=vectors)


class Measured(Toy, ValueData):
    """Words and how many of two sets of letters they hold: the smallest task tokens to value."""

    gives = frozenset({("tokens", "value")})
    value_scale = (2.0,)

    @property
    def dims(self) -> dict[str, int | bool]:
        sizes = dict.fromkeys(
            ("vocabulary_size", "source_vocabulary_size"), SPECIALS + len(LETTERS)
        )
        return {**sizes, "value_size": 1, "value_steps": 2}

    def counts(self, word: str) -> list[int]:
        return [sum(letter in letters for letter in word) for letters in ("abc", "ace")]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        values = torch.tensor([[[count / 2] for count in self.counts(word)] for word in words])
        return values, torch.full((len(words),), 2)  # (B, T, V)

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        assert output.shape == (2, 1)
        return [Answer(" ".join(str(round(2 * each)) for each in output[:, 0].tolist()), 0.0)]

    def expected(self, split: str, row: int) -> str:
        return " ".join(map(str, self.counts(self.words_of[split][row])))


class Seen(Toy):
    """Make frames of the symbols of another toy: each has a feature of its own."""

    SIZE = SPECIALS + len(LETTERS)

    @property
    def dims(self) -> dict[str, int | bool]:
        of_symbols = {"vocabulary_size", "source_vocabulary_size", "shared_vocabulary"}
        others = {name: size for name, size in super().dims.items() if name not in of_symbols}
        return {"feature_size": self.SIZE, **others}

    def frames(self, ids: Tensor) -> Tensor:
        """Return ids (B, S) as frames (B, S, F); padding is all zeros."""
        return 1.5 * one_hot(ids, self.SIZE).float() * (ids != PAD)[..., None]

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        batch = super().collate(split, rows)
        return replace(batch, inputs=self.frames(batch.inputs))

    def encode(self, lines: Sequence[str]) -> Batch:
        batch = super().encode(lines)
        return replace(batch, inputs=self.frames(batch.inputs))


class SeenBackwards(Seen, Backwards):
    """The smallest task from frames to tokens."""

    gives = frozenset({("frames", "tokens")})


class SeenMarked(Seen, Marked):
    """The smallest task from frames to label."""

    gives = frozenset({("frames", "label")})


class SeenSpanned(Seen, Spanned):
    """The smallest task from frames to tags."""

    gives = frozenset({("frames", "tags")})


class SeenMeasured(Seen, Measured):
    """The smallest task from frames to value."""

    gives = frozenset({("frames", "value")})


class SeenRound(Seen, Round, ValueData):
    """The smallest task from frames to the next."""

    gives = frozenset({("frames", "next")})
    value_scale = (2.0,) * Seen.SIZE

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        ids, lengths = super().targets(words)
        return self.frames(ids), lengths

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        assert output.shape == (self.SIZE,)
        return [Answer(LETTERS[int(output.argmax()) - SPECIALS], 0.0)]


class Sorted(Seen):
    """Letters of which two things can be true at once: the smallest task from frames to labels."""

    gives = frozenset({("frames", "labels")})
    sets = ("abc", "ace")

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"feature_size": self.SIZE, "label_size": len(self.sets)}

    def truth(self, word: str) -> list[list[float]]:
        return [*([float(each in letters) for letters in self.sets] for each in word), [0.0, 0.0]]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(self.truth(word)) for word in words]
        lengths = torch.tensor(list(map(len, rows)))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def text(self, rows: Sequence[Sequence[float]]) -> str:
        return " ".join("".join(str(round(each)) for each in row) for row in rows)

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        assert output.shape == (len(line) + 1, len(self.sets))
        return [Answer(self.text(output.tolist()), 0.0)]

    def expected(self, split: str, row: int) -> str:
        return self.text(self.truth(self.words_of[split][row]))


class Followed(Sorted, ValueData):
    """Each letter's place and the place of the one before: the smallest task frames to values."""

    gives = frozenset({("frames", "values")})
    value_scale = (5.0, 5.0)

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"feature_size": self.SIZE, "value_size": 2}

    def truth(self, word: str) -> list[list[float]]:
        places = [0, *(LETTERS.index(letter) for letter in word), 0]
        return [[place / 5, before / 5] for before, place in pairwise(places)]

    def text(self, rows: Sequence[Sequence[float]]) -> str:
        return " ".join("".join(str(round(5 * each)) for each in row) for row in rows)


#: A small kind of data for each task; a topology that accepts another task needs one more here.
DATA: dict[Task, type[Toy]] = {
    ("tokens", "tokens"): Backwards,
    ("tokens", "label"): Marked,
    ("tokens", "value"): Measured,
    ("tokens", "tags"): Spanned,
    ("tokens", "next"): Round,
    ("frames", "tokens"): SeenBackwards,
    ("frames", "label"): SeenMarked,
    ("frames", "value"): SeenMeasured,
    ("frames", "tags"): SeenSpanned,
    ("frames", "labels"): Sorted,
    ("frames", "values"): Followed,
    ("frames", "next"): SeenRound,
    ("label", "tokens"): Spelled,
    ("vector", "tokens"): Described,
}
