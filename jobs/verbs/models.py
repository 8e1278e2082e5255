"""Verbs about named models: models ls, show, register, promote, rollback, release, history."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.client import Client
from jobs.verbs.common import Verbs, common, print_json, print_table
from jobs.wording import printable

if TYPE_CHECKING:
    from jobs.registry import Event, Model

model_name = click.argument("name", metavar="NAME")
reason = click.option("--reason", default="", help="Why; it stands in the history.")


@click.group(cls=Verbs)
def models() -> None:
    """Name models, promote a version, roll back, and see who did what."""


@models.command()
@common
def ls(home: Path | None, as_json: bool) -> None:
    """List the models."""
    with Client(home=home) as client:
        found = client.registry.list()
    if as_json:
        print_json([_summary(each) for each in found])
    elif found:
        print_table(["NAME", "VERSIONS", "CHAMPION", "CHALLENGER"], [*map(_row, found)])
    else:
        click.echo("no models; name one with `unroll models register NAME ID`")


def _summary(model: "Model") -> dict[str, Any]:
    return {
        "name": model.name,
        "champion": model.champion,
        "challenger": model.challenger,
        "versions": len(model.versions),
    }


def _row(model: "Model") -> list[str]:
    marks = [str(each or "-") for each in (model.champion, model.challenger)]
    return [model.name, str(len(model.versions)), *marks]


@models.command()
@model_name
@common
def show(name: str, home: Path | None, as_json: bool) -> None:
    """List the versions of a model."""
    with Client(home=home) as client:
        model = client.models[name].record
    if as_json:
        print_json(model)
        return
    rows = [
        [
            *(str(each.number), _role(model, each.number), each.job, _moment(each.created)),
            *(str(each.parent or "-"), each.by, each.note or "-"),
        ]
        for each in model.versions
    ]
    print_table(["VERSION", "ROLE", "JOB", "REGISTERED", "FROM", "BY", "NOTE"], rows)


def _role(model: "Model", number: int) -> str:
    roles = {model.challenger: "challenger", model.champion: "champion"}
    return roles.get(number, "released" if model.version(number).released else "-")


@models.command()
@model_name
@click.argument("id", metavar="ID")
@click.option("--parent", type=click.IntRange(1), help="Version that it was trained from.")
@click.option("--note", default="", help="What to remember of it.")
@click.option("--promote", is_flag=True, help="Make it the champion at once.")
@reason
@common
def register(name: str, id: str, home: Path | None, as_json: bool, **options: Any) -> None:  # noqa: A002 - click names it
    """Make a training that has succeeded the next version of a model.

    Its record and files are kept from then on. It is the challenger until somebody promotes it.
    """
    with Client(home=home) as client:
        version = client.models.register(
            name, id, parent=options["parent"], note=options["note"]
        ).version
        model = client.models[name]
        if options["promote"]:
            model.promote(version.number, reason=options["reason"])
        found = model.record
    if as_json:
        print_json({**_summary(found), "version": version.number, "job": version.job})
    else:
        click.echo(f"{version.label} is job {version.job} ({_role(found, version.number)})")


@models.command()
@model_name
@click.argument("version", type=click.IntRange(1))
@click.option(
    "--expect",
    type=click.IntRange(0),
    help="Only if this version is the champion; 0 for none.",
)
@reason
@common
def promote(name: str, version: int, home: Path | None, as_json: bool, **options: Any) -> None:
    """Make a version the champion: the one that the model's name stands for."""
    with Client(home=home) as client:
        model = client.models[name]
        expect = options["expect"]
        seen = model.record.champion if expect is None else expect or None
        model.promote(version, expect=seen, reason=options["reason"])
        _say(model.record, _last(model.history(), "promoted"), as_json=as_json)


@models.command()
@model_name
@reason
@common
def rollback(name: str, reason: str, home: Path | None, as_json: bool) -> None:
    """Make the champion before the champion again; once more goes further back."""
    with Client(home=home) as client:
        model = client.models[name]
        model.rollback(reason)
        _say(model.record, _last(model.history(), "rolled_back"), as_json=as_json)


def _last(told: Sequence["Event"], action: str) -> "Event":
    return next(each for each in reversed(told) if each.action == action)


def _say(model: "Model", event: "Event", *, as_json: bool) -> None:
    if as_json:
        print_json({**_summary(model), "before": event.before, "files": event.evidence["files"]})
        return
    before = f", before version {event.before}" if event.before else ""
    click.echo(f"{model.name}: champion is version {event.version}{before}")
    if event.evidence["files"] == "unchecked":
        click.echo("its files were not looked at: they lie in a store of another machine", err=True)


@models.command()
@model_name
@click.argument("version", type=click.IntRange(1))
@reason
@common
def release(name: str, version: int, reason: str, home: Path | None, as_json: bool) -> None:
    """Keep a version's job and files no more; the version stays in the list."""
    with Client(home=home) as client:
        model = client.models[name].release(version, reason)
    if as_json:
        print_json({**_summary(model), "released": version})
    else:
        click.echo(f"{name}@{version} is kept no more")


@models.command()
@model_name
@common
def history(name: str, home: Path | None, as_json: bool) -> None:
    """Show what was done with a model, by whom, and on what evidence."""
    with Client(home=home) as client:
        told = client.models[name].history()
    if as_json:
        print_json(told)
        return
    for event in told:
        click.echo(printable(_line(event)))


def _line(event: "Event") -> str:
    before = f" (before: {event.before})" if event.before else ""
    why = f": {event.reason}" if event.reason else ""
    found = [f"{name}={value}" for name, value in event.evidence.items() if name != "files"]
    evidence = f"  [{', '.join(found)}]" if found else ""
    did = event.action.replace("_", " ")
    return f"{_moment(event.time)}  {event.by}  {did} {event.version}{before}{why}{evidence}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
