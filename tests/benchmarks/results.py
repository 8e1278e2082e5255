"""`make results`: measure the rows of docs/results/rows.toml, and rewrite the tables.

Every row is trained by a service with a home of its own, below the checkout. A training has a key
made of what its spec says, and so has the evaluation of its model on test: however often this is
called and wherever it was stopped, each runs once. What was measured is kept as
docs/results/ROW.json; a row whose file is of the spec as it stands is done.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Any, Final

import click

from jobs import (
    Client,
    EvaluateSpec,
    JobHandle,
    JobState,
    SetupError,
    SpecError,
    UnrollError,
)
from jobs.errors import did_you_mean
from tests.benchmarks import tables
from tests.benchmarks.rows import PLAIN, Row, Training, digest_of, read_rows

ROOT: Final = Path(__file__).resolve().parents[2]
#: Seconds between two looks at the jobs.
_LOOK: Final = 1.0
#: Seconds that the worker may need until it has said what it can build.
_READY: Final = 120.0
#: Evaluations go before trainings that wait: a row is done the sooner.
_SOON: Final = 10

Say = Callable[[str], None]
#: What baselines.py has: scores by metric, of each baseline by its name.
Baseline = Callable[[Path], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Places:
    """Say where everything lies in a checkout."""

    root: Path

    @property
    def specs(self) -> Path:
        """The folder of spec files."""
        return self.root / "docs" / "specs"

    @property
    def results(self) -> Path:
        """The folder of rows and what was measured of them."""
        return self.root / "docs" / "results"

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.results / "rows.toml"

    def of(self, row: Row) -> Path:
        """Return the file of what was measured of a row."""
        return self.results / f"{row.name}.json"


def measured(places: Places, row: Row) -> Mapping[str, Any] | None:
    """Return what the row's file holds; None where there is none."""
    try:
        found: Mapping[str, Any] = json.loads(places.of(row).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def state_of(places: Places, row: Row) -> str:
    """Return where a row stands: done, changed since it was measured, or open."""
    found = measured(places, row)
    if found is None:
        return "open"
    return "done" if found["digest"] == row.digest(places.specs) else "changed"


def chosen(rows: Mapping[str, Row], names: Sequence[str]) -> list[Row]:
    """Return the rows of these names; all where none is named. Raise SpecError."""
    for name in names:
        if name not in rows:
            known = f" (there are: {', '.join(rows)})"
            raise SpecError(f"no row is called {name!r}{did_you_mean(name, rows) or known}")
    return [rows[name] for name in names] if names else list(rows.values())


@dataclass
class Measuring:
    """A row on its way: its trainings, and as each ends the readings of test."""

    client: Client
    row: Row
    trainings: Sequence[tuple[Training, JobHandle]]
    say: Say
    #: By seed and name of the reading.
    evaluations: dict[tuple[int, str], JobHandle] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, client: Client, row: Row, places: Places, data: Path, say: Say) -> "Measuring":
        """Queue the row's trainings, or find them. Raise SpecError."""
        wanted = row.trainings(places.specs)
        submitted = [(each, _again(client.submit(each.on(data), key=each.key))) for each in wanted]
        return cls(client, row, submitted, say)

    def advance(self) -> bool:
        """Do what can be done now; return whether the row is measured. Raise JobFailed."""
        ended = [self._ended(handle, f"seed {each.spec.seed}") for each, handle in self.trainings]
        for (each, handle), done in zip(self.trainings, ended, strict=True):
            if done:
                self._read_test(each, handle)
        read = [
            self._ended(handle, f"seed {seed}, {name}")
            for (seed, name), handle in self.evaluations.items()
        ]
        return len(read) == len(self.trainings) * len(self.row.readings) and all(read)

    def _read_test(self, training: Training, trained: JobHandle) -> None:
        for name, reading in self.row.readings.items():
            if (training.spec.seed, name) in self.evaluations:
                continue
            spec = EvaluateSpec(
                job=trained.id, search=reading.options, data=reading.data, priority=_SOON
            )
            key = f"{training.key}-{digest_of([dict(reading.search), dict(reading.data)])}"
            handle = _again(self.client.submit(spec, key=key))
            self.evaluations[training.spec.seed, name] = handle

    def _ended(self, handle: JobHandle, what: str) -> bool:
        job = handle.record
        epochs = f" epoch {job.progress.epoch} of {job.progress.epochs}"
        now = (
            f"{job.state}{epochs if job.state is JobState.RUNNING and job.progress.epochs else ''}"
        )
        if self._said.get(what) != now:
            self._said[what] = now
            self.say(f"{self.row.name}, {what}: {now}")
        if job.state.ended:
            handle.result()  # raises where it failed
        return job.state.ended

    def seeds(self) -> dict[str, Any]:
        """Return what came of each seed."""
        return {str(each.spec.seed): self._seed(each, handle) for each, handle in self.trainings}

    def _seed(self, training: Training, handle: JobHandle) -> dict[str, Any]:
        job = handle.record
        seed = training.spec.seed
        return {
            "key": training.key,
            "epochs": job.progress.epochs,
            "seconds": round(job.ran, 1),
            "attempts": job.attempt,
            "training": dict(job.result),
            "evaluations": {
                name: _told_anywhere(self.evaluations[seed, name].result().values)
                for name in self.row.readings
            },
            "curves": curves(handle),
        }


def curves(handle: JobHandle) -> dict[str, list[float]]:
    """Return each metric of the validations, in their order."""
    found: dict[str, list[float]] = {}
    for point in handle.metrics():
        if not point.name.startswith("train/"):
            found.setdefault(point.name, []).append(float(f"{point.value:.5g}"))
    return found


def _again(handle: JobHandle) -> JobHandle:
    """Give a job that failed on an earlier day another chance; it goes on where it was."""
    if handle.state in {JobState.FAILED, JobState.CANCELLED}:
        handle.retry()
    return handle


def write(places: Places, row: Row, seeds: Mapping[str, Any], baselines: Mapping[str, Any]) -> None:
    """Write the row's file; what an earlier recipe had read of test stays in it."""
    first = next(iter(seeds.values()))
    old = measured(places, row)
    content = {
        "row": row.name,
        "digest": row.digest(places.specs),
        "spec": row.trainings(places.specs)[0].spec.to_dict(),
        "topology": row.trainings(places.specs)[0].spec.model.name,
        "parameters": first["training"]["parameters"],
        "mean": _means([each["evaluations"][PLAIN] for each in seeds.values()]),
        "baselines": baselines,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "version": metadata.version("unroll"),
        "earlier": _earlier(old, seeds),
    }
    draft = places.of(row).with_suffix(".new")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(places.of(row))


def _told_anywhere(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what means something on this machine alone: the job's id, where its data lies."""
    return {name: value for name, value in values.items() if name not in ("job", "data")}


def _means(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = [name for name, value in scores[0].items() if "/" in name]
    return {name: mean(each[name] for each in scores) for name in names}


def _earlier(old: Mapping[str, Any] | None, seeds: Mapping[str, Any]) -> list[Any]:
    """Return what other recipes had read of test; a seed more is no other recipe."""
    if old is None:
        return []
    kept: list[Any] = old["earlier"]
    known, now = ({each["key"] for each in some.values()} for some in (old["seeds"], seeds))
    if known <= now:
        return kept
    return [*kept, {"date": old["date"], "digest": old["digest"], "mean": old["mean"]}]


def machine() -> str:
    """Return what a figure of time depends on: processor, cores, torch."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = dict(line.partition(":")[::2] for line in lines)
    known = {name.strip(): value.strip() for name, value in facts.items()}
    model = known.get("model name", "unknown processor")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, torch {metadata.version('torch')}"


def rewrite_tables(places: Places, rows: Mapping[str, Row]) -> None:
    """Write both tables anew. Raise SetupError where a file has no place for one."""
    found = {row.name: measured(places, row) for row in rows.values()}
    there = {name: each for name, each in found.items() if each is not None}
    tables.rewrite(places.root / "README.md", tables.short(rows, there))
    tables.rewrite(places.results / "README.md", tables.full(rows, there))


class Results:
    """Measure rows on a service of their own, as far as they are not done."""

    def __init__(
        self,
        places: Places,
        data: Path,
        *,
        baselines: Mapping[str, Baseline] | None = None,
        say: Say = click.echo,
    ) -> None:
        self._places = places
        self._data = data.absolute()
        self._baselines = baselines or {}
        self._say = say
        self.rows = read_rows(places.rows)
        #: What went wrong, by row.
        self.failures: dict[str, str] = {}

    def run(self, names: Sequence[str], *, home: Path, slots: int) -> None:
        """Measure the rows of these names, or all; `failures` then says what went wrong."""
        rows = chosen(self.rows, names)
        waiting = [row for row in rows if state_of(self._places, row) != "done"]
        for row in rows:
            if row not in waiting:
                self._say(f"{row.name}: done")
        if not waiting:
            return
        os.environ["UNROLL_DATA_ROOTS"] = str(self._data)  # of the worker that is started here
        with Client.embedded(slots=slots, home=home) as client:
            if client.catalog(timeout=_READY) is None:
                raise SetupError(f"the worker did not get ready; see {home / 'worker.log'}")
            self._measure(list(self._begin(client, waiting)))

    def _begin(self, client: Client, rows: Sequence[Row]) -> Iterator[Measuring]:
        for row in rows:
            try:
                yield Measuring.begin(client, row, self._places, self._data, self._say)
            except UnrollError as error:
                self._fail(row, error)

    def _measure(self, under_way: list[Measuring]) -> None:
        while under_way:
            for each in list(under_way):
                try:
                    if not each.advance():
                        continue
                    self._finish(each)
                except UnrollError as error:
                    self._fail(each.row, error)
                under_way.remove(each)
            time.sleep(_LOOK)

    def _finish(self, done: Measuring) -> None:
        row = done.row
        baselines = self._baselines[row.baseline](self._data) if row.baseline else {}
        write(self._places, row, done.seeds(), baselines)
        rewrite_tables(self._places, self.rows)
        self._say(f"{row.name}: measured")

    def _fail(self, row: Row, error: Exception) -> None:
        self.failures[row.name] = str(error)
        self._say(f"{row.name}: {error}")


@click.command()
@click.option("--rows", "names", default="", help="Names of rows; by default all.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--slots", type=click.IntRange(min=1), help="Jobs at a time; by default the cores.")
@click.option("--home", type=click.Path(path_type=Path), default=ROOT / ".results")
@click.option("--list", "only_list", is_flag=True, help="Say where each row stands.")
@click.option("--tables", "only_tables", is_flag=True, help="Only write the tables anew.")
def main(
    names: str, data: Path, slots: int | None, home: Path, *, only_list: bool, only_tables: bool
) -> None:
    """Measure the rows of docs/results/rows.toml and rewrite the tables."""
    places = Places(ROOT)
    try:
        if only_list:
            for row in read_rows(places.rows).values():
                click.echo(f"{row.name:32}{state_of(places, row):10}{row.title}")
            return
        if only_tables:
            rewrite_tables(places, read_rows(places.rows))
            return
        results = Results(places, data, baselines=_baselines())
        results.run(names.split(), home=home, slots=slots or len(os.sched_getaffinity(0)))
    except KeyboardInterrupt:
        raise click.ClickException("stopped; the same command goes on from here") from None
    except UnrollError as error:
        raise click.ClickException(str(error)) from None
    if results.failures:
        raise click.ClickException(f"not measured: {', '.join(results.failures)}")


def _baselines() -> Mapping[str, Baseline]:
    from tests.benchmarks.baselines import BASELINES  # noqa: PLC0415 - imports numpy

    known: Mapping[str, Baseline] = BASELINES
    return known


if __name__ == "__main__":
    main()
