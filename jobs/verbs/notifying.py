"""Verbs about webhooks: notify add, ls, rm, test."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.client import Client
from jobs.verbs.common import Verbs, common, print_json, print_table

if TYPE_CHECKING:
    from jobs.notify import Hook

hook_id = click.argument("id", metavar="HOOK")


@click.group(cls=Verbs)
def notify() -> None:
    """Tell an address when jobs end and models are promoted, by signed webhooks."""


@notify.command()
@click.argument("url")
@click.option("--on", required=True, help="What of, with commas: failed,promoted.")
@click.option("--secret", default="", help="whsec_...; by default one is made.")
@common
def add(url: str, on: str, secret: str, home: Path | None, as_json: bool) -> None:
    """Tell URL; its secret is shown this once."""
    with Client(home=home) as client:
        made = client.hooks.add(
            url, [each.strip() for each in on.split(",") if each.strip()], secret
        )
    if as_json:
        print_json({**_plain(made), "secret": made.secret})
    else:
        click.echo(f"{made.id}  secret {made.secret}")


@notify.command()
@common
def ls(home: Path | None, as_json: bool) -> None:
    """List who is told, and whether the newest word arrived."""
    with Client(home=home) as client:
        found, lost = client.hooks.list(), client.hooks.undelivered()
    if as_json:
        print_json({"hooks": [*map(_plain, found)], "undelivered": lost})
        return
    if not found:
        click.echo("nobody is told; add somebody with `unroll notify add URL --on failed`")
        return
    rows = [[each.id, ",".join(each.on), _last(each), each.url] for each in found]
    print_table(["HOOK", "ON", "LAST", "URL"], rows)
    if lost:
        click.echo(f"{len(lost)} given up; the last: {lost[-1]['error']}")


@notify.command()
@hook_id
@common
def rm(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Tell an address no more."""
    with Client(home=home) as client:
        client.hooks.remove(id)
    print_json({"id": id, "removed": True}) if as_json else click.echo(f"{id} removed")


@notify.command()
@hook_id
@common
def test(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Send an address an event of the type `test`."""
    with Client(home=home) as client:
        client.hooks.test(id)
    if as_json:
        print_json({"id": id, "sent": True})
    else:
        click.echo("a worker sends it in a moment; `unroll notify ls` says whether it arrived")


def _plain(hook: "Hook") -> dict[str, Any]:
    told = {"told": hook.told, "error": hook.error}
    return {"id": hook.id, "url": hook.url, "on": list(hook.on), **told}


def _last(hook: "Hook") -> str:
    if not hook.told:
        return "-"
    when = time.strftime("%m-%d %H:%M:%S", time.localtime(hook.told))
    return f"{when} {hook.error or 'arrived'}"
