"""What kinds of data with text on both sides share: everything but where the text comes from."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules._base import Task, TextData, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared, cached, key_of
from datamodules._errors import DataError
from datamodules._rows import Rows, Texts
from datamodules._vocab import TextForm, Vocabulary, from_state

_STATE_FORMAT: Final = 1
#: Lines encoded at once: enough to keep all cores busy, too few to fill the memory.
_PART: Final = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabularies:
    """The vocabulary of each side; where both are one, it is one object."""

    source: Vocabulary
    target: Vocabulary

    @property
    def shared(self) -> bool:
        """Whether both sides use the same ids."""
        return self.source is self.target

    def state(self) -> dict[str, Any]:
        """Return both as plain values, a shared one once."""
        source = self.source.state()
        return {"source": source, "target": None if self.shared else self.target.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Vocabularies":
        """Undo `state`."""
        source = from_state(state["source"])
        return cls(source, source if state["target"] is None else from_state(state["target"]))


@dataclass(frozen=True)
class PairSplit:
    """One split: rows of ids that end with EOS, and the text they were made of."""

    source: Rows
    target: Rows
    source_text: Texts
    target_text: Texts

    @classmethod
    def encode(
        cls, sources: Sequence[str], targets: Sequence[str], vocabularies: Vocabularies
    ) -> "PairSplit":
        """Return the split of these lines."""
        return cls(
            _encoded(vocabularies.source, sources),
            _encoded(vocabularies.target, targets),
            Texts(Rows.of_texts(sources)),
            Texts(Rows.of_texts(targets)),
        )

    #: The names of the four parts.
    PARTS: ClassVar = ("source", "target", "source_text", "target_text")

    def parts(self) -> dict[str, Rows]:
        """Return the four parts as rows, by name."""
        return dict(
            zip(
                self.PARTS,
                (self.source, self.target, self.source_text.rows, self.target_text.rows),
                strict=True,
            )
        )

    @classmethod
    def of_parts(cls, parts: Mapping[str, Rows]) -> "PairSplit":
        """Undo `parts`."""
        source, target, source_text, target_text = (parts[name] for name in cls.PARTS)
        return cls(source, target, Texts(source_text), Texts(target_text))

    def where(self, kept: NDArray[np.bool_]) -> "PairSplit":
        """Return the split with only the rows for which `kept` (N,) is true."""
        return self.of_parts({name: rows.where(kept) for name, rows in self.parts().items()})

    @property
    def sizes(self) -> Sizes:
        """The lengths of both sides (N, 2)."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1)


@dataclass(frozen=True)
class Encoded:
    """All that preparing makes: what the cache holds."""

    splits: Mapping[str, PairSplit]
    vocabularies: Vocabularies
    #: Plain facts for the kind of data itself.
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_prepared(self) -> Prepared:
        """Return arrays named SPLIT.PART.values and SPLIT.PART.offsets, and facts."""
        arrays = {
            f"{split}.{part}.{name}": array
            for split, each in self.splits.items()
            for part, rows in each.parts().items()
            for name, array in (("values", rows.values), ("offsets", rows.offsets))
        }
        return Prepared(
            arrays, {"vocabularies": self.vocabularies.state(), "notes": dict(self.notes)}
        )

    @classmethod
    def from_prepared(cls, prepared: Prepared) -> "Encoded":
        """Undo `to_prepared`."""
        arrays, facts = prepared.arrays, prepared.facts
        splits = {
            split: PairSplit.of_parts(
                {
                    part: Rows(arrays[f"{split}.{part}.values"], arrays[f"{split}.{part}.offsets"])
                    for part in PairSplit.PARTS
                }
            )
            for split in dict.fromkeys(name.split(".")[0] for name in arrays)
        }
        return cls(splits, Vocabularies.from_state(facts["vocabularies"]), facts["notes"])


class TextPairs(TextData):
    """Text in, text out. A subclass calls `_keep` in `prepare`.

    Both sides end with EOS, so that an empty line still has one symbol.
    """

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "tokens")})

    _form: TextForm = TextForm()
    _vocabularies: Vocabularies | None = None
    _workspace: Workspace | None = None

    def __init__(self) -> None:
        super().__init__()
        self._splits: dict[str, PairSplit] = {}

    @property
    def vocabularies(self) -> Vocabularies:
        """The vocabularies, learned by `prepare` or loaded from a checkpoint."""
        if self._vocabularies is None:
            raise DataError("this data has no vocabulary yet: prepare it or load a checkpoint")
        return self._vocabularies

    @property
    def dims(self) -> dict[str, int | bool]:
        """Return the size of both vocabularies and whether they are one."""
        both = self.vocabularies
        return {
            "source_vocabulary_size": len(both.source),
            "target_vocabulary_size": len(both.target),
            "shared_vocabulary": both.shared,
        }

    def sizes(self, split: str) -> Sizes:
        """Return the lengths of source and target, the end symbols counted (N, 2)."""
        return self._split(split).sizes

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""
        pairs = self._split(split)
        inputs, lengths = pairs.source.padded(rows)
        targets, target_lengths = pairs.target.padded(rows)
        index = torch.tensor(rows, dtype=torch.int64)
        return Batch(inputs, lengths, targets, target_lengths, {"index": index})

    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of these lines, in their order and without targets."""
        rows = _encoded(self.vocabularies.source, [self._form(line) for line in lines])
        inputs, lengths = rows.padded(range(len(lines)))
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the target text of these ids up to the end symbol."""
        return self.vocabularies.target.decode(ids)

    def source_symbols(self, line: str) -> list[str]:
        """Return the printable symbols of an input, its end symbol included."""
        batch = self.encode([line])
        return self.vocabularies.source.symbols(batch.inputs[0].tolist())

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of an output, one for each id."""
        return self.vocabularies.target.symbols(ids)

    def sources(self, split: str) -> Sequence[str]:
        """Return the input text of every row."""
        return self._split(split).source_text

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the target text of every row, as its only reference."""
        return [[text] for text in self._split(split).target_text]

    def state_dict(self) -> dict[str, Any]:
        """Return the vocabularies and the form of the text as plain values."""
        return {
            "format": _STATE_FORMAT,
            "form": self._form.state(),
            "vocabularies": self.vocabularies.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over vocabularies and form: how text is read belongs to the model.

        `prepare` then learns none of its own. Where it ran before with others, it runs again.
        """
        if state_dict.get("format") != _STATE_FORMAT:
            raise DataError(
                "this checkpoint holds its vocabulary in a form this version cannot read"
            )
        same = self._vocabularies is not None and self.state_dict() == state_dict
        if same:
            return
        form = TextForm(**state_dict["form"])
        if form != self._form:
            _log.warning("the text is read as the model learned it: %s", form)
        self._read_as(form)
        self._vocabularies = Vocabularies.from_state(state_dict["vocabularies"])
        if self._workspace is not None:
            self.prepare(self._workspace)

    def _keep(
        self,
        workspace: Workspace,
        settings: Mapping[str, Any],
        encode: Callable[[Vocabularies | None], Encoded],
    ) -> Mapping[str, Any]:
        """Take over what `encode` makes, or made before under these settings; return its notes.

        `encode` is given the vocabularies to use where a checkpoint has brought some.
        """
        self._workspace = workspace
        loaded = self._vocabularies
        key = key_of(
            {
                **settings,
                "kind": type(self).__name__,
                "form": self._form.state(),
                "loaded": loaded and loaded.state(),
            }
        )
        made = Encoded.from_prepared(
            cached(workspace.cache / "text", key, lambda: encode(loaded).to_prepared())
        )
        self._splits = dict(made.splits)
        self._vocabularies = loaded or made.vocabularies
        return made.notes

    def _read_as(self, form: TextForm) -> None:
        self._form = form
        self.scoring = replace(self.scoring, lowercase=form.lowercase)

    def _split(self, split: str) -> PairSplit:
        if split not in self._splits:
            known = ", ".join(self._splits) or "none; it was not prepared"
            raise DataError(f"this data has no split {split!r} (it has: {known})")
        return self._splits[split]


def _encoded(vocabulary: Vocabulary, lines: Sequence[str]) -> Rows:
    return Rows.of_ids(
        row
        for start in range(0, len(lines), _PART)
        for row in vocabulary.encode(lines[start : start + _PART])
    )
