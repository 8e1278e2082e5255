"""Verbs that look: ls, show, why, watch, metrics, logs, wait, catalog."""

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click

from jobs.catalog import Catalog, Entry
from jobs.client import Client
from jobs.errors import SetupError, SpecError, did_you_mean
from jobs.handle import JobHandle, failure_line
from jobs.job import Job, JobState, MetricPoint
from jobs.schema import Parameter
from jobs.spec import Policy, Resources, Section, TrainerOptions
from jobs.verbs.attempts import clock, print_ends
from jobs.verbs.common import Number, common, job_id, plain, print_json, print_table
from jobs.verbs.results import print_result
from jobs.wording import duration, printable

#: Seconds that a worker may need until it has said what it can build.
_CATALOG_TIMEOUT = 30.0
#: Sections of a spec whose options are the same for all topologies and kinds of data.
_SECTIONS: Final[Mapping[str, type[Section]]] = {
    each.section: each for each in (TrainerOptions, Resources, Policy)
}


@click.command()
@click.option("--state", type=click.Choice([str(each) for each in JobState]))
@common
def ls(state: str | None, home: Path | None, as_json: bool) -> None:
    """List the jobs, the newest first."""
    with Client(home=home) as client:
        found = client.list(JobState(state) if state else None)
    if as_json:
        print_json(found)
    elif found:
        print_table(["ID", "STATE", "WHAT", "NAME", "PROGRESS", "AGE"], [*map(_row, found)])
    else:
        click.echo("no jobs")


def _row(job: Job) -> list[str]:
    age = duration(time.time() - job.submitted)
    return [job.id, job.state, _what(job), job.spec.get("name", "") or "-", _how_far(job), age]


def _what(job: Job) -> str:
    if not job.spec:  # lists leave out large ones, such as thousands of lines to predict
        return job.kind
    if job.kind == "train":
        return f"{job.spec['model']['name']} on {job.spec['data']['name']}"
    if job.kind == "compare":
        return f"compare {job.spec['first']} {job.spec['second']}"
    return f"{job.kind} {job.spec['job']}"


def _how_far(job: Job) -> str:
    if job.state.ended:
        return str(job.reason or job.state)
    done = job.progress
    return f"{100 * done.step // done.steps}% {done.phase}" if done.steps else done.phase or "-"


@click.command()
@job_id
@common
def show(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Print the record of a job."""
    with Client(home=home) as client:
        handle = client.get(id)
        job, ends = handle.record, handle.attempts()
    if as_json:
        print_json({**plain(job), "attempts": ends})
        return
    for name, value in plain(job).items():
        if value not in (None, "", [], {}) and name != "traceback":
            click.echo(f"{name:14}{_shown(name, value)}")
    if ends:
        print_ends(ends)
    if job.traceback:
        click.echo("\n" + "\n".join(map(printable, job.traceback.rstrip().splitlines())))


def _shown(name: str, value: Any) -> str:
    if name in {"submitted", "started", "ended", "said", "last_ended"}:
        return clock(value) if value else "-"
    if isinstance(value, Mapping):
        lines = json.dumps(value, indent=2, ensure_ascii=False).splitlines()
        return "\n".join(["", *(f"  {printable(line)}" for line in lines[1:-1])])
    return printable(str(value))


@click.command()
@job_id
@common
def why(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Say why a job is where it is."""
    with Client(home=home) as client:
        job = client.get(id)
        sentence = job.why()
    print_json({"id": job.id, "why": sentence}) if as_json else click.echo(printable(sentence))


@click.command()
@job_id
@common
def watch(id: str, home: Path | None, as_json: bool) -> int:  # noqa: A002 - click names it
    """Show how a job comes on until it ends.

    The exit status is that of the job: 1 where it failed or was cancelled.
    """
    with Client(home=home) as client:
        return watch_job(client.get(id), as_json)


def watch_job(job: JobHandle, as_json: bool) -> int:
    """Show how a job comes on until it ends; return the exit status."""
    from jobs.watching import watch as show_live  # noqa: PLC0415 - imports rich

    record = show_live(job, as_json=as_json)
    if as_json:
        print_json(record)
    return _end(record, quiet=as_json)


def _end(record: Job, *, quiet: bool) -> int:
    if record.state is not JobState.SUCCEEDED:
        click.echo(printable(failure_line(record)), err=True)
        return 1
    if not quiet:
        click.echo(f"{record.id} succeeded after {duration(record.ended - record.started)}")
        print_result(record.result)
    return 0


@click.command()
@job_id
@click.option("--timeout", type=Number(min=0), help="Seconds; then exit status 4.")
@common
def wait(id: str, timeout: float | None, home: Path | None, as_json: bool) -> int:  # noqa: A002 - click names it
    """Wait until a job has ended.

    The exit status is that of the job: 1 where it failed or was cancelled, 4 where the time is up.
    """
    with Client(home=home) as client:
        record = client.get(id).wait(timeout)
    if as_json:
        print_json(record)
    return _end(record, quiet=as_json)


@click.command()
@job_id
@click.option("--follow", is_flag=True, help="Go on until the job has ended; JSON by lines.")
@click.option("--since", type=click.IntRange(min=0), default=0, help="Cursor to go on behind.")
@common
def metrics(id: str, follow: bool, since: int, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Print the points of a job's metrics."""
    with Client(home=home) as client:
        points = client.get(id).metrics(follow=follow, since=since)
        if as_json and not follow:
            print_json(list(points))
            return
        for point in points:
            print_json(point) if as_json else click.echo(point_line(point))


def point_line(point: MetricPoint) -> str:
    """Return a point as a line of text."""
    name = printable(point.name)
    return f"step {point.step:<8} epoch {point.epoch:<4} {name:24} {point.value:.4f}"


@click.command()
@job_id
@click.option("--follow", is_flag=True, help="Go on until the job has ended; JSON by lines.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@common
def logs(id: str, follow: bool, tail: int | None, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Print what a job wrote."""
    with Client(home=home) as client:
        job = client.get(id)
        written = list(deque(job.numbered_logs(), maxlen=tail))
        if as_json and not follow:
            print_json([line for _, line in written])
            return
        since = written[-1][0] if written else 0
        more = job.numbered_logs(follow=True, since=since) if follow else ()
        for _, line in chain(written, more):
            print_json(line) if as_json else click.echo(printable(line))


@click.command()
@click.argument("name", required=False)
@click.option("--queue", default="default", help="The queue whose workers are asked.")
@common
def catalog(name: str | None, queue: str, home: Path | None, as_json: bool) -> None:
    """Explain topologies, kinds of data, the sections of a spec, and their parameters."""
    if section := _SECTIONS.get(name or ""):
        _explain_section(section, as_json=as_json)
        return
    with Client(home=home) as client:
        patience = _CATALOG_TIMEOUT if client.workers() else 0
        found = client.catalog(queue, timeout=patience)
    if found is None:
        raise SetupError(
            f"no worker of the queue {queue!r} has said what it can build; "
            "start one with `unroll worker`"
        )
    if name is None:
        print_json(found.to_dict()) if as_json else _print_names(found)
        return
    entry = _find(found, name)
    print_json(entry.to_dict()) if as_json else _print_entry(entry)


def _find(found: Catalog, name: str) -> Entry:
    entries = {**found.data, **found.models}
    if name not in entries:
        known = (*entries, *_SECTIONS)
        raise SpecError(f"the catalogue has no {name!r}{did_you_mean(name, known)}")
    return entries[name]


def _explain_section(section: type[Section], *, as_json: bool) -> None:
    """Show a section; it is the same whatever the workers can build."""
    parameters = section.parameters()
    if as_json:
        print_json([each.to_dict() for each in parameters])
        return
    click.echo(f"[{section.section}]: {(section.__doc__ or '').splitlines()[0]}")
    _print_parameters(parameters)


def _print_names(found: Catalog) -> None:
    for title, entries in (("topologies", found.models), ("kinds of data", found.data)):
        click.echo(title)
        for key, each in sorted(entries.items()):
            click.echo(f"  {key:30}{each.summary}")
    click.echo("sections of a spec")
    for key, section in _SECTIONS.items():
        click.echo(f"  {key:30}{(section.__doc__ or '').splitlines()[0]}")


def _print_entry(entry: Entry) -> None:
    click.echo(f"{entry.name}: {entry.summary}")
    for given, wanted in sorted(entry.tasks):
        click.echo(f"task: {given} -> {wanted}")
    if entry.splits:
        click.echo(f"splits: {', '.join(entry.splits)}")
    if entry.text_metrics:
        names = [name for each in entry.text_metrics.values() for name in each]
        chosen = f" (as {entry.text_metrics_by} says)" if entry.text_metrics_by else ""
        click.echo(f"metrics of text: {', '.join(names)}{chosen}")
    _print_parameters(entry.parameters)
    for key, value in sorted(entry.trainer_defaults.items()):
        click.echo(f"trainer.{key} = {_toml(value)} unless the spec says otherwise")


def _print_parameters(parameters: Iterable[Parameter]) -> None:
    rows = [[each.name, each.describe(), _default(each), each.meaning] for each in parameters]
    print_table(["PARAMETER", "TYPE", "DEFAULT", "MEANING"], rows)


def _default(parameter: Parameter) -> str:
    return "must be given" if parameter.required else _toml(parameter.default)


def _toml(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
