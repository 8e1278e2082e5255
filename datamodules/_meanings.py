"""What a sentence is to say: an act with slots, as dialogue systems write it.

`inform(name='red door cafe';food=thai;kidsallowed=no)` is an act with three slots. Values that are
names are taken out of a sentence ("[name] serves [food] food") and put back in after it is written,
so that a model need not know them: Wen et al. 2015, "Stochastic language generation in dialogue
using recurrent neural networks with convolutional sentence reranking", as in the files of
shawnwun/RNNLG.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from datamodules._errors import DataFormatError

#: Values that are no names: they are said in other words, and stay in the meaning.
_CLASSES: Final[Mapping[str, str]] = {
    "yes": "yes",
    "true": "yes",
    "no": "no",
    "false": "no",
    "none": "none",
    "dont_care": "dontcare",
    "dontcare": "dontcare",
}
#: The class of a slot that has no value: it is asked for.
_ASKED: Final = "?"
_MEANING: Final = re.compile(r"\s*(\??[\w-]+)\s*\((.*)\)\s*", re.DOTALL)
_TOKEN: Final = re.compile(r"\[(\w+)\]")
_JOINED: Final = re.compile(r" (?:and|or) ")
#: Values of more parts ("a or b or c") are looked for in their own order only.
_PARTS_AT_MOST: Final = 4


@dataclass(frozen=True)
class Slot:
    """One thing to be said."""

    name: str
    #: A name, to be found in the sentence; empty where there is none.
    value: str = ""
    #: What the value is where it is no name: yes, no, none, dontcare, or ? for none at all.
    kind: str = ""

    @property
    def token(self) -> str:
        """What stands in a sentence in the value's place."""
        return f"[{self.name}]"


@dataclass(frozen=True)
class Meaning:
    """An act and its slots."""

    act: str
    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> "Meaning":
        """Return the meaning that is written so. Raise DataFormatError, which says where."""
        found = _MEANING.fullmatch(text)
        if not found:
            raise DataFormatError(
                f"{where} holds {text[:80]!r} where a meaning must stand, such as"
                " inform(name='red door cafe';food=thai) or goodbye()"
            )
        parts = [each.strip() for each in found[2].split(";")]
        return cls(found[1], tuple(_slot(part, where) for part in parts if part))

    def features(self) -> tuple[str, ...]:
        """Return what there is beside the names: the act, each slot's kind, how often it is named.

        Sentences with the same ones say the same: they are each other's references.
        """
        counts: Counter[str] = Counter()
        said = []
        for slot in self.slots:
            if slot.value:
                counts[slot.name] += 1
            said.append(f"{slot.name}={slot.kind or counts[slot.name]}")
        return (self.act, *sorted(said))

    def delexicalise(self, sentence: str) -> str:
        """Return the sentence with each value's first occurrence replaced by its slot's token."""
        words = sentence.split(" ")
        for slot in sorted(self._named(), key=lambda slot: -len(slot.value)):
            for wording in _wordings(slot.value):
                at = _find(words, wording)
                if at is not None:
                    words[at : at + len(wording)] = [slot.token]
                    break
        return " ".join(words)

    def relexicalise(self, sentence: str) -> str:
        """Return the sentence with the values in place of the tokens, in the meaning's order.

        A slot that is written more often than it has values repeats the last; a token of a slot
        that has none stays.
        """
        values: dict[str, list[str]] = {}
        for slot in self._named():
            values.setdefault(slot.token, []).append(slot.value)
        words = []
        for word in sentence.split(" "):
            left = values.get(word, [word])
            words.append(left.pop(0) if len(left) > 1 else left[0])
        return " ".join(words)

    def errors(self, sentence: str, mentions: Mapping[str, frozenset[str]]) -> tuple[int, int]:
        """Return how many slots a delexicalised sentence has wrong, and how many it should have.

        Wrong is one that is missing and one that is too many. A slot with a value is counted by
        its token. One with a kind is counted where `mentions` has words for it: it is there if any
        of them is. What is asked for has no token.
        """
        words = sentence.lower().split(" ")
        wanted = Counter(slot.token for slot in self._named())
        written = Counter(word for word in words if _TOKEN.fullmatch(word))
        wanted += Counter({s.name for s in self.slots if s.kind and s.name in mentions})
        written += Counter(
            name for name, theirs in mentions.items() if not theirs.isdisjoint(words)
        )
        wrong = (wanted - written).total() + (written - wanted).total()
        return wrong, wanted.total()

    def _named(self) -> Iterator[Slot]:
        return (slot for slot in self.slots if slot.value)


def slot_name(written: str) -> str:
    """Return the name of a slot as tokens and meanings have it: "kids allowed" is kidsallowed."""
    return re.sub(r"[\s_]", "", written).lower()


def _slot(part: str, where: str) -> Slot:
    name, equals, value = (each.strip() for each in part.partition("="))
    name = slot_name(name)
    if not re.fullmatch(r"\w+", name):
        raise DataFormatError(f"{where} holds the slot {part[:80]!r}: its name must be a word")
    value = value.strip("'\"").strip()
    if not equals:
        return Slot(name, kind=_ASKED)
    if not value:
        raise DataFormatError(f"{where} gives the slot {name!r} no value after its =")
    kind = _CLASSES.get(value.lower(), "")
    return Slot(name, kind=kind) if kind else Slot(name, value)


def _wordings(value: str) -> Iterator[list[str]]:
    """Yield the value as words: as it is, and "a or b" in every order, with "and" as well."""
    yield value.split()
    parts = _JOINED.split(value)
    if 1 < len(parts) <= _PARTS_AT_MOST:
        for joint in (" and ", " or "):
            for order in permutations(parts):
                yield joint.join(order).split()


def _find(words: Sequence[str], wording: Sequence[str]) -> int | None:
    """Return where a run of words begins, whatever their case."""
    folded, looked = [w.lower() for w in words], [w.lower() for w in wording]
    starts = range(len(words) - len(looked) + 1)
    return next((at for at in starts if folded[at : at + len(looked)] == looked), None)
