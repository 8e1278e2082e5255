"""Verbs about schedules: schedule add, ls, show, pause, resume, run-now, rm, history."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from jobs.client import Client
from jobs.errors import SpecError
from jobs.schedules import Generation, Missed, Overlap, Schedule
from jobs.spec import TrainSpec
from jobs.specfile import read_spec
from jobs.timetable import time_zone
from jobs.verbs.common import Number, Verbs, common, print_json, print_table
from jobs.wording import duration, printable

if TYPE_CHECKING:
    from jobs.store.scheduling import Standing

schedule_name = click.argument("name", metavar="NAME")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def span(given: str) -> int:
    """Return the seconds of a length of time: `90s`, `30m`, `6h`, `1d`, `2w`."""
    number, unit = given[:-1], given[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise click.BadParameter(f"{given!r} is no length of time; write 90s, 30m, 6h, 1d or 2w")
    return int(number) * _UNITS[unit]


@click.group(cls=Verbs)
def schedule() -> None:
    """Retrain a model by a timetable or on new data, and promote it if it is better."""


@schedule.command()
@schedule_name
@click.option("--spec", "file", type=click.Path(path_type=Path), required=True, help="A training.")
@click.option("--model", required=True, help="Name of the model whose versions they become.")
@click.option("--promote-if", metavar="METRIC", required=True, help="What the gate looks at: bleu.")
@click.option("--cron", help="Five fields of cron: '0 3 * * *' is three at night.")
@click.option("--every", type=span, help="An interval instead: 6h, 1d.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone: Europe/Berlin.")
@click.option("--start", metavar="TIME", help="Nothing is due before: 2027-01-31T03:00, in --tz.")
@click.option("--end", metavar="TIME", help="Nothing is due from then on.")
@click.option("--on-data", is_flag=True, help="Also when the files below data.root have changed.")
@click.option("--spacing", type=span, help="New data waits so long after a firing; 1h.")
@click.option("--missed", type=click.Choice(get_args(Missed)), help="By default once.")
@click.option("--catch-up", type=span, help="How far back missed times count; by default 7d.")
@click.option("--grace", type=span, help="How late a time may be and not be missed; 5m.")
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="By default skip.")
@click.option("--warm", is_flag=True, help="Begin with the champion's weights.")
@click.option("--split", help="The frozen test set; by default test.")
@click.option("--slice", "slices", multiple=True, metavar="SET", help="A set without a large loss.")
@click.option("--margin", type=Number(min=0), help="Least gain; by default above 0.")
@click.option("--confidence", type=Number(0.5, 1, max_open=True), help="By default 0.95.")
@click.option("--max-drop", type=Number(min=0), help="Largest loss on a slice; 1 of 100.")
@click.option("--floor", type=float, help="Least score, also of the first model.")
@click.argument("overrides", metavar="[section.key=value ...]", nargs=-1)
@common
def add(
    name: str,
    file: Path,
    overrides: Sequence[str],
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add a schedule.

    At each due time the training of SPEC.toml is queued; what it leaves becomes a version of the
    model, is evaluated beside the champion, and takes its place only if the gate holds. A relative
    `root` in the file is relative to the file.
    """
    spec = read_spec(file, overrides)
    if not isinstance(spec, TrainSpec):
        raise SpecError(f"a schedule trains: {file} is no training ({spec.kind})")
    for each in ("start", "end"):
        options[each] = _moment(options[each], options["tz"], each)
    given = {key: value for key, value in options.items() if not _is_unset(value)}
    overridden = any(each.partition("=")[0].strip() == "data.root" for each in overrides)
    with Client(home=home) as client:
        added = client.schedule(name, spec, base=None if overridden else file.parent, **given)
        standing = added.standing
    if as_json:
        print_json(_summary(standing))
    else:
        click.echo(f"{name}: {_next(standing)}")


def _is_unset(value: Any) -> bool:
    # A zero was said: `--max-drop 0` allows no loss at all.
    return value is None or value is False or value == ()


def _moment(given: str | None, zone: str, option: str) -> int | None:
    if given is None:
        return None
    try:
        read = datetime.fromisoformat(given)
    except ValueError:
        raise SpecError(
            f"--{option} {given!r} is no time; write 2027-01-31 or 2027-01-31T03:00"
        ) from None
    local = read if read.tzinfo else read.replace(tzinfo=time_zone(zone))
    try:
        return round(local.astimezone(UTC).timestamp() * 1000)
    except OverflowError:
        raise SpecError(f"--{option} {given!r} lies outside the years 1 to 9999") from None


@schedule.command()
@common
def ls(home: Path | None, as_json: bool) -> None:
    """List the schedules."""
    with Client(home=home) as client:
        found = client.schedules.list()
    if as_json:
        print_json([_summary(each) for each in found])
    elif found:
        rows = [
            [each.schedule.name, each.schedule.model, _times(each.schedule), _next(each)]
            for each in found
        ]
        print_table(["NAME", "MODEL", "WHEN", "NEXT"], rows)
    else:
        click.echo("no schedules; add one with `unroll schedule add`")


def _summary(standing: "Standing") -> dict[str, Any]:
    return {
        **standing.schedule.to_dict(),
        "next": standing.due,
        "asked": standing.asked,
        "paused": standing.paused,
        "fired": standing.fired or None,
    }


def _times(schedule: Schedule) -> str:
    table = schedule.timetable
    times = [f"{table.cron} ({table.zone})"] if table.cron else []
    times += [f"every {duration(table.every)}"] if table.every is not None else []
    return ", ".join([*times, *(["on new data"] if schedule.on_data else [])])


def _next(standing: "Standing") -> str:
    if standing.paused:
        return "paused"
    if standing.asked is not None:
        return "now, as asked for"
    if standing.due is None:
        return "waits for new data" if standing.schedule.on_data else "never again"
    return f"next at {standing.schedule.timetable.shown(standing.due)}"


@schedule.command()
@schedule_name
@common
def show(name: str, home: Path | None, as_json: bool) -> None:
    """Show what a schedule does, and its next due times."""
    with Client(home=home) as client:
        standing = client.schedules[name].standing
        newest = client.schedules[name].history(1)
    if as_json:
        print_json({**_summary(standing), "newest": newest[-1] if newest else None})
        return
    plan, spec, gate = standing.schedule, standing.schedule.train_spec, standing.schedule.gate
    bounds = {"margin": gate.margin, "confidence": gate.confidence, "max_drop": gate.drop}
    lines = {
        "when": _times(plan),
        "next": _next(standing).removeprefix("next "),
        "model": plan.model,
        "training": f"{spec.model.name} on {spec.data.name}{', warm' if plan.warm else ''}",
        "gate": f"{gate.metric}, " + ", ".join(f"{key} {each:g}" for key, each in bounds.items()),
        "floor": "-" if gate.floor is None else f"{gate.floor:g}",
        "sets": ", ".join([f"{plan.split} (frozen)", *plan.slices]),
        "policies": f"missed={plan.missed}, overlap={plan.overlap}",
        "added": f"{plan.timetable.shown(plan.created)} by {plan.by}",
        "newest": _line(newest[-1]) if newest else "-",
    }
    for key, value in lines.items():
        click.echo(f"{key:10}{printable(value)}")


@schedule.command()
@schedule_name
@common
def pause(name: str, home: Path | None, as_json: bool) -> None:
    """Let nothing be due until it is resumed; what is under way goes on."""
    with Client(home=home) as client:
        client.schedules[name].pause()
        _say(client.schedules[name].standing, as_json=as_json)


@schedule.command()
@schedule_name
@common
def resume(name: str, home: Path | None, as_json: bool) -> None:
    """Go on from the next due time; those since the pause were not missed."""
    with Client(home=home) as client:
        client.schedules[name].resume()
        _say(client.schedules[name].standing, as_json=as_json)


@schedule.command("run-now")
@schedule_name
@common
def run_now(name: str, home: Path | None, as_json: bool) -> None:
    """Ask for a generation now, whatever the timetable says; also of a paused schedule."""
    with Client(home=home) as client:
        schedule = client.schedules[name]
        already = schedule.standing.asked is not None
        moment = schedule.run_now()
    said = "was asked for already; a worker has not heard of it yet" if already else "asked for"
    print_json({"name": name, "asked": moment}) if as_json else click.echo(f"{name}: {said}")


@schedule.command()
@schedule_name
@common
def rm(name: str, home: Path | None, as_json: bool) -> None:
    """Remove a schedule and its history; what is under way is cancelled. Models stay."""
    with Client(home=home) as client:
        client.schedules[name].remove()
    print_json({"name": name, "removed": True}) if as_json else click.echo(f"{name} removed")


@schedule.command()
@schedule_name
@click.option("--last", type=click.IntRange(min=1), default=1000, help="Only so many.")
@common
def history(name: str, last: int, home: Path | None, as_json: bool) -> None:
    """Show what became of each due time, and why."""
    with Client(home=home) as client:
        found = client.schedules[name].history(last)
        asked = client.schedules[name].standing.asked is not None
    if as_json:
        print_json(found)
        return
    for generation in found:
        click.echo(printable(_line(generation)))
    if not found:
        click.echo(f"{name} was {'asked for' if asked else 'not fired yet'}")


def _line(generation: Generation) -> str:
    stands = str(generation.outcome or generation.stage)
    version = f"  version {generation.version}" if generation.version is not None else ""
    job = f"  job {generation.train}" if generation.train else ""
    why = f": {generation.reason}" if generation.reason else ""
    when = generation.plan.timetable.shown(generation.due)
    more = f" and {generation.missed} before" if generation.missed else ""
    return f"{when}{more} ({generation.trigger})  {stands}{version}{job}{why}"


def _say(standing: "Standing", *, as_json: bool) -> None:
    if as_json:
        print_json(_summary(standing))
    else:
        click.echo(f"{standing.schedule.name}: {_next(standing)}")
