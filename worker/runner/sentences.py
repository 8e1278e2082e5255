"""Sentence by sentence, what an evaluation came to: all that a comparison needs of it.

`files/sentences.jsonl` holds a line about the whole, then one for each row of the split:

    {"format": 1, "facts": {...}, "kinds": {"bleu": "bleu", "accuracy": "ratio", ...}}
    {"source": "...", "references": ["..."], "output": "...", "scores": {"bleu": [...], ...},
     "length": 7, "label": "..."}

The last two, each where the data has it, are what slices go by (`jobs/slicing.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.errors import SpecError
from jobs.slicing import PROPERTIES, PROPERTIES_FACT
from lightning_modules._row_scores import RowScores
from worker.folder import write_atomically

_FORMAT: Final = 1
#: Splits of more rows keep none: a file of them would be as large as a model.
MAX_ROWS: Final = 100_000
#: Characters that are kept of a text.
_MAX_TEXT: Final = 1_000


@dataclass(frozen=True)
class Text:
    """One row for people; empty where there is no text to show."""

    source: str = ""
    references: Sequence[str] = ()
    output: str = ""


@dataclass(frozen=True)
class Sentences:
    """All rows of an evaluation."""

    #: What the evaluation carries besides.
    facts: Mapping[str, Any]
    scores: Mapping[str, RowScores]
    texts: Sequence[Text]
    #: Of some of `PROPERTIES`, what every row has.
    properties: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write them; nothing where there are too many."""
        if len(self.texts) <= MAX_ROWS:
            lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in self._lines())
            write_atomically(file, "".join(lines).encode("utf-8", "replace"))

    def _lines(self) -> Iterator[dict[str, Any]]:
        kinds = {name: each.kind for name, each in self.scores.items()}
        yield {"format": _FORMAT, "facts": dict(self.facts), "kinds": kinds}
        for row, text in enumerate(self.texts):
            yield {
                "source": text.source[:_MAX_TEXT],
                "references": [each[:_MAX_TEXT] for each in text.references],
                "output": text.output[:_MAX_TEXT],
                "scores": {name: _numbers(each.values[row]) for name, each in self.scores.items()},
                **{name: values[row] for name, values in self.properties.items()},
            }

    @classmethod
    def read(cls, file: Path) -> "Sentences":
        """Read what `write` wrote. Raise SpecError for what another version wrote."""
        with file.open(encoding="utf-8") as opened:
            head = json.loads(opened.readline())
            if head.get("format") != _FORMAT:
                raise SpecError("an evaluation of another version cannot be compared: repeat it")
            rows = [json.loads(line) for line in opened]
        scores = {
            name: RowScores(kind, np.array([each["scores"][name] for each in rows], np.float64))
            for name, kind in head["kinds"].items()
        }
        names = ("source", "references", "output")
        texts = [Text(**{name: each[name] for name in names}) for each in rows]
        kept = [each for each in PROPERTIES if each in head["facts"].get(PROPERTIES_FACT, ())]
        properties = {name: [each[name] for each in rows] for name in kept}
        return cls(head["facts"], scores, texts, properties)


def _numbers(values: Any) -> list[float]:
    return [int(each) if float(each).is_integer() else each for each in values.tolist()]
