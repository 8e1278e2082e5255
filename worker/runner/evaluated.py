"""What an evaluation carries besides scores: what makes it comparable, and how sure they are."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from datamodules._base import DataModule, TextData
from datamodules._content import split_digest
from datamodules._errors import DataError
from datamodules._tags import TagData
from jobs.comparing import SENTENCES_FILE
from jobs.slicing import PROPERTIES_FACT
from jobs.spec import EvaluateSpec
from lightning_modules._base import Topology
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._ranks import rank
from lightning_modules._row_scores import RowScores
from lightning_modules._tagging import f1_of_rows
from lightning_modules._text import writes_text
from worker.runner.resampling import intervals
from worker.runner.sentences import MAX_ROWS, Sentences, Text

#: Splits of more rows have intervals of their text alone: notes of each row would fill the memory.
NOTED_ROWS: Final = 1_000_000


@dataclass(frozen=True)
class Scored:
    """A model that was scored on a split of its data."""

    model: Topology
    data: DataModule
    split: str

    @property
    def metric(self) -> str:
        """Return the metric that models are chosen by, without its split."""
        monitor = self.data.monitor[0] if self.data.monitor else self.model.monitor
        return monitor.partition("/")[2]

    @property
    def decoding(self) -> dict[str, Any]:
        """Return how text was searched for; nothing where none is written."""
        return asdict(self.model.search) if writes_text(self.model) else {}

    @property
    def signatures(self) -> Mapping[str, str]:
        """Return how each metric was computed, of those that can be computed in several ways."""
        outputs = self.model.outputs.get(self.split) if writes_text(self.model) else None
        return outputs.signatures if outputs else {}


def pinned_digest(data: DataModule, spec: EvaluateSpec) -> str:
    """Return the digest of the split. Raise DataError if it is not the expected one."""
    digest = split_digest(data, spec.split)
    if not digest.startswith(spec.expect_digest):
        raise DataError(
            f"split {spec.split!r} is not the one that was asked for: its digest is "
            f"{digest or 'unknown'} and not {spec.expect_digest}; its files were changed, or are "
            "read otherwise"
        )
    return digest


def checkpoint_digest(file: str | None) -> str:
    """Return the SHA-256 of a checkpoint, in hex."""
    if file is None:
        return ""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def row_of(scored: Scored, spec: EvaluateSpec, digest: str, folder: Path) -> dict[str, Any]:
    """Return what makes an evaluation comparable, with intervals; keep its rows in the folder."""
    scores, said = _row_scores(scored)
    rows = max(map(len, scores.values()), default=0)
    properties = row_properties(scored.data, scored.split, rows)
    facts: dict[str, Any] = {
        "split": spec.split,
        "split_digest": digest,
        "rows": rows,
        "metric": scored.metric,
        "row_metrics": sorted(scores),
        PROPERTIES_FACT: list(properties),
        "decoding": scored.decoding,
        "signatures": dict(scored.signatures),
    }
    if rank() > 0:
        return facts
    found = intervals(scores, spec.resamples, spec.seed, spec.confidence)
    facts["intervals"] = {f"{spec.split}/{name}": list(each) for name, each in found.items()}
    facts["bootstrap"] = {
        "resamples": spec.resamples,
        "seed": spec.seed,
        "confidence": spec.confidence,
    }
    values = {f"{spec.split}/{name}": each.score() for name, each in scores.items()}
    texts = _texts(scored, said, rows)
    said_by = {"job": spec.job, **({"version": spec.version} if spec.version else {})}
    kept = Sentences({**facts, **values, **said_by}, scores, texts, properties)
    kept.write(folder / SENTENCES_FILE)
    return facts


def row_properties(data: DataModule, split: str, rows: int) -> dict[str, Sequence[Any]]:
    """Return what slices can go by, of every row; nothing of so many rows that none are kept."""
    if rows > MAX_ROWS:
        return {}
    found = {"length": data.lengths(split), "label": data.row_labels(split)}
    return {name: each for name, each in found.items() if each and len(each) == rows}


def _row_scores(scored: Scored) -> tuple[dict[str, RowScores], dict[int, list[int]]]:
    """Return the metrics row by row, those that all rows have, and the ids that were said."""
    model, split = scored.model, scored.split
    if not isinstance(model, EvaluatedTopology) or split not in model.row_notes:
        return {}, {}
    notes = model.row_notes[split]
    scores, said = notes.gathered(), notes.all_said()
    if writes_text(model) and split in model.outputs:
        scores |= model.outputs[split].rows
    if said and isinstance(scored.data, TagData) and scored.data.tag_names:
        found, truth = _tags(scored.data, split, said)
        scores["f1"] = f1_of_rows(found, truth, scored.data.tag_names)
    rows = max(map(len, scores.values()), default=0)
    return {name: each for name, each in scores.items() if len(each) == rows}, said


def _tags(
    data: TagData, split: str, said: Mapping[int, Sequence[int]]
) -> tuple[list[list[str]], list[Sequence[str]]]:
    names, truth = data.tag_names, data.true_tags(split)
    return [[names[each] for each in ids] for ids in said.values()], [truth[row] for row in said]


def _texts(scored: Scored, said: Mapping[int, Sequence[int]], rows: int) -> list[Text]:
    """Return every row for people, as far as there is something to read."""
    model, data, split = scored.model, scored.data, scored.split
    if writes_text(model) and split in model.outputs and isinstance(data, TextData):
        outputs = model.outputs[split].hypotheses
        both = zip(data.sources(split), data.references(split), outputs, strict=True)
        return [Text(*each) for each in both]
    if said and isinstance(data, TagData) and data.tag_names:
        found, truth = _tags(data, split, said)
        both_tags = zip(found, truth, strict=True)
        return [Text("", [" ".join(true)], " ".join(one)) for one, true in both_tags]
    labels: Sequence[str] = getattr(data, "labels", ())
    if said and labels and isinstance(data, TextData):
        sources = data.sources(split)
        return [Text(sources[row], (), labels[ids[0]]) for row, ids in said.items()]
    return [Text()] * rows
