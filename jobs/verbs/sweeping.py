"""Verbs about sweeps: sweep SPEC.toml ..., sweep ls, show, cancel."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.client import Client
from jobs.errors import SpecError
from jobs.job import JobState
from jobs.spec import TrainSpec
from jobs.specfile import read_spec
from jobs.verbs.common import Verbs, common, print_json, print_table

if TYPE_CHECKING:
    from jobs.sweeps import Row, Sweep

sweep_id = click.argument("id", metavar="SWEEP")


class Sweeping(Verbs):
    """Verbs about sweeps; what is none of them is a spec file to sweep."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `sweep SPEC.toml ...` for `sweep run SPEC.toml ...`."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args.insert(0, "run")
        return super().parse_args(ctx, args)


@click.group(cls=Sweeping)
def sweep() -> None:
    """Try many values of a few parameters: `sweep SPEC.toml model.hidden_size=128,256`."""


@sweep.command()
@click.argument("spec", metavar="SPEC.toml", type=click.Path(path_type=Path))
@click.argument("axes", metavar="section.key=a,b section.key=low..high ...", nargs=-1)
@click.option("--trials", type=click.IntRange(min=1), help="So many combinations, at random.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of what is drawn; 1.")
@click.option("--metric", default="val/loss", show_default=True, help="What trials are ranked by.")
@click.option("--halving", is_flag=True, help="Stop most trials early; the best go on.")
@click.option("--eta", type=click.IntRange(min=2), default=3, help="One in ETA goes on; 3.")
@common
def run(spec: Path, axes: Sequence[str], home: Path | None, as_json: bool, **how: Any) -> None:
    """Queue a training for each combination of values.

    A list (a,b) tries each value, a range (low..high) is drawn from. All combinations are checked
    before any is queued.
    """
    base = read_spec(spec)
    if not isinstance(base, TrainSpec):
        raise SpecError(f"only trainings are swept, no {base.kind}")
    overridden = any(each.partition("=")[0].strip() == "data.root" for each in axes)
    with Client(home=home) as client:
        begun = client.sweep(base, axes, base=None if overridden else spec.parent, **how)
    if as_json:
        print_json(_summary(begun))
    else:
        trials = "1 trial" if len(begun.trials) == 1 else f"{len(begun.trials)} trials"
        click.echo(f"{begun.id}: {trials}; see `unroll sweep show {begun.id}`")


@sweep.command()
@common
def ls(home: Path | None, as_json: bool) -> None:
    """List the sweeps."""
    with Client(home=home) as client:
        found = client.sweeps.list()
    if as_json:
        print_json([_summary(each) for each in found])
    elif found:
        rows = [[each.id, str(len(each.trials)), each.metric, _stage(each)] for each in found]
        print_table(["SWEEP", "TRIALS", "METRIC", "STAGE"], rows)
    else:
        click.echo("no sweeps; begin one with `unroll sweep SPEC.toml section.key=a,b`")


@sweep.command()
@sweep_id
@click.option("--metric", help="What to rank by, if not by what the sweep was begun with.")
@common
def show(id: str, metric: str | None, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Print the trials of a sweep, the best first."""
    with Client(home=home) as client:
        found = client.sweeps.advance(id)
        found = replace(found, metric=metric or found.metric)
        rows = client.sweeps.rows(found)
    if as_json:
        print_json({**_summary(found), "rows": [*map(_plain, rows)]})
        return
    names = [*found.trials[0]]
    header = ["TRIAL", *names, found.metric, "RUNG", "STATE", "JOB"]
    print_table(header, [_cells(row, names) for row in rows])
    if found.refusal:
        click.echo(f"it ended early: {found.refusal}", err=True)
    if unscored := _reported(rows):
        click.echo(f"no trial reported {found.metric} (they report: {unscored})", err=True)


def _reported(rows: "Sequence[Row]") -> str:
    """Return what trials that have succeeded report, where none of them has the metric."""
    ended = [row.job for row in rows if row.job and row.job.state is JobState.SUCCEEDED]
    if not ended or not all(math.isnan(row.score) for row in rows):
        return ""
    return ", ".join(sorted(name for name in ended[0].result if name.startswith("val/")))


@sweep.command()
@sweep_id
@common
def cancel(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Begin no more of a sweep, and cancel what runs or waits of it."""
    with Client(home=home) as client:
        found = client.sweeps.cancel(id)
    print_json(_summary(found)) if as_json else click.echo(f"{found.id} cancelled")


def _summary(found: "Sweep") -> Mapping[str, Any]:
    return {
        "id": found.id,
        "trials": len(found.trials),
        "metric": found.metric,
        "stops": found.stops,
        "rung": len(found.rungs),
        "closed": found.closed,
        "refusal": found.refusal,
    }


def _stage(found: "Sweep") -> str:
    if found.closed:
        return "over"
    return f"rung {len(found.rungs)} of {len(found.stops)}" if found.stops else "running"


def _plain(row: "Row") -> Mapping[str, Any]:
    job = row.job
    return {
        "trial": row.trial,
        "values": row.values,
        "score": row.score,
        "rung": row.rung,
        "job": job.id if job else None,
        "state": job.state if job else None,
    }


def _cells(row: "Row", names: Sequence[str]) -> list[str]:
    job = row.job
    score = "-" if math.isnan(row.score) else f"{row.score:.4f}"
    values = [str(row.values[name]) for name in names]
    state = (job.state, job.id) if job else ("removed" if row.rung else "-", "-")
    return [str(row.trial), *values, score, str(row.rung), *state]
