"""What kinds of data with text on both sides share: everything but where the text comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from datamodules._base import Task, TextData, Workspace
from datamodules._batch import Batch
from datamodules._bucketing import Sizes
from datamodules._cache import Prepared, cached, kept, key_of
from datamodules._encoded import LAYOUT, Encoded, PairSplit, Reader, Vocabularies, read_lines
from datamodules._learned import LearnedData
from datamodules._rows import Texts
from datamodules._vocab import TextForm


class TextPairs(LearnedData[Vocabularies, PairSplit], TextData):
    """Text in, text out. A subclass calls `_keep` in `prepare`.

    Both sides end with EOS, so that an empty line still has one symbol.
    """

    gives: ClassVar[frozenset[Task]] = frozenset({("tokens", "tokens")})

    _form: TextForm = TextForm()

    @property
    def vocabularies(self) -> Vocabularies:
        """The vocabularies, learned by `prepare` or loaded from a checkpoint."""
        return self._known

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
        read = self._reader(self.vocabularies)
        rows = read_lines(read, [self._source(line) for line in lines])
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
        return Texts(self._split(split).source_text)

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the reference texts of every row, that which is learned first."""
        return list(self._split(split).references)

    def _state(self) -> dict[str, Any]:
        return {"form": self._form.state(), "vocabularies": self.vocabularies.state()}

    def _reading(self) -> dict[str, Any]:
        return self._form.state()

    def _take_over(self, state: dict[str, Any]) -> None:
        self._read_as(TextForm(**state["form"]))
        self._learned = Vocabularies.from_state(state["vocabularies"])

    def _source(self, line: str) -> str:
        """Return an input line as `sources` has it; once more makes no difference."""
        return self._form(line)

    def _reader(self, vocabularies: Vocabularies) -> Reader:
        """Return what turns lines, as `sources` has them, into ids."""
        return vocabularies.source.encode

    def _keep(
        self,
        workspace: Workspace,
        settings: Mapping[str, Any],
        encode: Callable[[Vocabularies | None], Encoded],
    ) -> Mapping[str, Any]:
        """Take over what `encode` makes, or made before under these settings; return its notes.

        `encode` is given the vocabularies to use where a checkpoint has brought some. Where they
        were learned from this very data, what was made then is used.
        """
        self._workspace = workspace
        form = {"layout": LAYOUT, "kind": type(self).__name__, "form": self._form.state()}
        prepared = self._prepared(workspace.cache / "text", {**settings, **form}, encode)
        made = Encoded.from_prepared(prepared)
        self._splits = dict(made.splits)
        self._learned = self._learned or made.vocabularies
        return made.notes

    def _prepared(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        encode: Callable[[Vocabularies | None], Encoded],
    ) -> Prepared:
        loaded = self._learned
        if loaded is not None:
            own = kept(folder, key_of({**settings, "loaded": None}))
            if own is not None and own.facts["vocabularies"] == loaded.state():
                return own
        key = key_of({**settings, "loaded": loaded and loaded.state()})
        return cached(folder, key, lambda: encode(loaded).to_prepared())

    def _read_as(self, form: TextForm) -> None:
        self._form = form
        self.scoring = replace(self.scoring, lowercase=form.lowercase)
