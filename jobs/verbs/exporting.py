"""The verb that takes a model out of the service: export."""

from pathlib import Path

import click

from jobs.client import Client
from jobs.exporting import refuse_what_is_taken
from jobs.verbs.common import common, job_id, print_json
from jobs.verbs.using import say_if_it_takes_long
from jobs.wording import printable


@click.command()
@job_id
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@common
def export(id: str, folder: Path, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Write a model into a new folder that loads without this service.

    ID may be NAME, NAME@3 or NAME@challenger. DIR then holds weights, vocabulary, settings, a card,
    and ten lines that load them.
    """
    refuse_what_is_taken(folder)
    with Client(home=home) as client:
        written = client.export(id, folder, wait=say_if_it_takes_long)
    print_json({"folder": str(written)}) if as_json else click.echo(printable(str(written)))
