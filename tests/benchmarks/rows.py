"""The rows of the results: what is trained, how often, how it is scored, and what it must reach.

`docs/results/rows.toml` holds a table a row, named like the row; the fields below are its keys.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from jobs import Component, SearchOptions, SpecError, TrainSpec
from jobs.specfile import read_spec

#: What specs call the folder of data; DATA stands in its place.
DATA_NAME: Final = "data"
#: The evaluation that every row has.
PLAIN: Final = "test"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of the test split, and what it must reach."""

    name: str
    #: A format with one field: `{:.1%} accuracy`.
    show: str = "{:.4f}"
    mark: float | None = None
    better: Literal["more", "less"] = "more"
    #: Which of the row's evaluations it is of.
    of: str = PLAIN

    def reached(self, value: float) -> bool:
        """Return whether the value is as good as the mark, where there is one."""
        if self.mark is None:
            return True
        return value >= self.mark if self.better == "more" else value <= self.mark

    @property
    def target(self) -> str:
        """Return the mark in words; empty where there is none."""
        sign = "≥" if self.better == "more" else "≤"
        return "" if self.mark is None else f"{sign} {self.show.format(self.mark)}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the test split is read."""

    #: Options of the search.
    search: Mapping[str, Any] = field(default_factory=dict)
    #: Parameters of the kind of data that are set otherwise than in training.
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> SearchOptions:
        """Return the options of the search, checked."""
        return SearchOptions.from_dict(self.search)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    #: The data and the task, in a few words.
    title: str
    #: A file of docs/specs, and `section.key=value` set otherwise than it says.
    spec: str
    set: Sequence[str] = ()
    seeds: Sequence[int] = (1,)
    metrics: Sequence[Metric]
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    #: The row that this one is shown beside, as what it is held against.
    beside: str = ""
    #: Rows of one comparison stand in a table of their own, under this name.
    comparison: str = ""
    #: A function of baselines.py.
    baseline: str = ""
    #: What others have reached.
    published: str = ""
    note: str = ""

    @classmethod
    def read(cls, name: str, plain: Mapping[str, Any]) -> "Row":
        """Build a row from its table. Raise SpecError."""
        known = {each.name for each in fields(cls)} - {"name"}
        if unknown := plain.keys() - known:
            raise SpecError(f"row {name} takes no {', '.join(sorted(unknown))}")
        try:
            metrics = tuple(Metric(**each) for each in plain["metrics"])
            named = plain.get("evaluations", {})
            evaluations = {each: Evaluation(**said) for each, said in named.items()}
            return cls(**{**plain, "name": name, "metrics": metrics, "evaluations": evaluations})
        except (KeyError, TypeError) as error:
            raise SpecError(f"row {name}: {error}") from None

    @property
    def readings(self) -> Mapping[str, Evaluation]:
        """Return every evaluation by name, the plain one first."""
        return {PLAIN: Evaluation(), **self.evaluations}

    def trainings(self, specs: Path) -> "list[Training]":
        """Return what is to be trained, one for each seed. Raise SpecError."""
        return [Training.read(self, specs / self.spec, seed) for seed in self.seeds]

    def digest(self, specs: Path) -> str:
        """Return a digest of what decides the figures, but for the code. Raise SpecError."""
        readings = {
            name: [dict(each.search), dict(each.data)] for name, each in self.readings.items()
        }
        return digest_of([[each.key for each in self.trainings(specs)], readings])


@dataclass(frozen=True)
class Training:
    """One seed of a row."""

    spec: TrainSpec
    #: Idempotency key: the same content, the same job.
    key: str

    @classmethod
    def read(cls, row: Row, file: Path, seed: int) -> "Training":
        """Read the spec and set the seed. Raise SpecError."""
        spec = read_spec(file, [*row.set, f"seed={seed}"])
        if not isinstance(spec, TrainSpec):
            raise SpecError(f"{file} is no training")
        key = digest_of({**spec.to_dict(), "name": ""})
        return cls(replace(spec, name=f"{row.name} {seed}"), f"results-{key}")

    def on(self, data: Path) -> TrainSpec:
        """Return the spec with its data below this folder."""
        params = dict(self.spec.data.params)
        if isinstance(root := params.get("root"), str):
            params["root"] = str(data / Path(root).relative_to(DATA_NAME))
        return replace(self.spec, data=Component(self.spec.data.name, params))


def digest_of(plain: Any) -> str:
    """Return a short digest of plain values."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(file: Path) -> dict[str, Row]:
    """Return all rows by name, in the order of the file. Raise SpecError."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: {error}") from None
    rows = {name: Row.read(name, table) for name, table in tables.items()}
    for row in rows.values():
        if row.beside and row.beside not in rows:
            raise SpecError(f"row {row.name} stands beside {row.beside!r}, which is no row")
        for metric in row.metrics:
            if metric.of not in row.readings:
                raise SpecError(f"row {row.name} has no evaluation {metric.of!r}")
    return rows
