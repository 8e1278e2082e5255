"""Verbs that make, move and end jobs: submit, clone, retry, cancel, rm."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from jobs.client import Client
from jobs.errors import SpecError
from jobs.handle import JobHandle
from jobs.spec import AnySpec, TrainSpec, spec_from_dict
from jobs.specfile import apply_overrides, read_spec
from jobs.verbs.common import common, job_id, print_json
from jobs.verbs.looking import watch_job


@click.command()
@click.argument("arguments", metavar="SPEC.toml [section.key=value ...]", nargs=-1)
@click.option("--key", help="Submit once: a second submit with this key gives the same job.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first.")
@click.option("--resume-from", metavar="ID", help="Go on from this job's newest checkpoint.")
@click.option("--watch", is_flag=True, help="Stay and watch.")
@common
def submit(
    arguments: Sequence[str], watch: bool, home: Path | None, as_json: bool, **options: Any
) -> int:
    """Queue the job of a spec file.

    A relative `root` in the file is relative to the file; one on the command line, to the working
    folder. With --resume-from, the spec of that job is taken where no file is given.
    """
    with Client(home=home) as client:
        spec = _read(client, arguments, options["resume_from"])
        if options["priority"] is not None:
            spec = replace(spec, priority=options["priority"])
        job = client.submit(spec, options["key"], base=_base(arguments))
        if not (watch and as_json):  # there the lines of the watch say it all
            _say(job, as_json)
        return watch_job(job, as_json) if watch else 0


def _read(client: Client, arguments: Sequence[str], resume_from: str | None) -> AnySpec:
    if not arguments and not resume_from:
        raise SpecError("submit needs a spec file: unroll submit SPEC.toml")
    if not resume_from:
        return read_spec(Path(arguments[0]), arguments[1:])
    source = client.get(resume_from)
    if _is_file(arguments):
        spec = read_spec(Path(arguments[0]), arguments[1:])
    else:
        spec = spec_from_dict(apply_overrides(source.record.spec, arguments))
    if not isinstance(spec, TrainSpec):
        raise SpecError(f"only a training can go on from another job, no {spec.kind}")
    return replace(spec, resume_from=source.id)


def _is_file(arguments: Sequence[str]) -> bool:
    return bool(arguments) and ("=" not in arguments[0] or Path(arguments[0]).is_file())


def _base(arguments: Sequence[str]) -> Path | None:
    overridden = any(each.partition("=")[0].strip() == "data.root" for each in arguments)
    return Path(arguments[0]).parent if _is_file(arguments) and not overridden else None


def _say(job: JobHandle, as_json: bool) -> None:
    record = job.record
    if as_json:
        print_json({"id": job.id, "state": record.state, "note": record.note})
    else:
        click.echo(job.id)  # alone, so that a script can take it
        if record.note:
            click.echo(f"{record.note}: no worker has said what it can build", err=True)


@click.command()
@job_id
@click.argument("overrides", metavar="[section.key=value ...]", nargs=-1)
@common
def clone(id: str, overrides: Sequence[str], home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Queue the spec of a job again, as a new job."""
    with Client(home=home) as client:
        _say(client.get(id).clone(*overrides), as_json)


@click.command()
@job_id
@common
def retry(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Queue a failed or cancelled job again.

    It goes on from its newest checkpoint, if there is one. A job that waits before a retry is
    tried now.
    """
    with Client(home=home) as client:
        job = client.get(id)
        job.retry()
        _say(job, as_json)


@click.command()
@job_id
@common
def cancel(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """End a job without a result."""
    with Client(home=home) as client:
        job = client.get(id)
        job.cancel()
        record = job.record
    if as_json:
        print_json({"id": record.id, "state": record.state})
    else:
        click.echo(f"{record.id} {record.state if record.state.ended else 'is being cancelled'}")


@click.command()
@job_id
@common
def rm(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Forget an ended job and its files."""
    with Client(home=home) as client:
        job = client.get(id)
        job.remove()
    print_json({"id": job.id, "removed": True}) if as_json else click.echo(f"{job.id} removed")
