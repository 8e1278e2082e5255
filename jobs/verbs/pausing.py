"""Verbs that set a job aside for a while: pause, resume."""

from pathlib import Path

import click

from jobs.client import Client
from jobs.job import JobState
from jobs.verbs.common import common, job_id, print_json


@click.command()
@job_id
@common
def pause(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Set a queued or running job aside; a running one takes a checkpoint first."""
    with Client(home=home) as client:
        job = client.get(id)
        job.pause()
        _say(job.id, job.state, as_json=as_json, otherwise="is being paused")


@click.command()
@job_id
@common
def resume(id: str, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Put a paused job back to its place in the queue.

    It goes on from its newest checkpoint, if there is one.
    """
    with Client(home=home) as client:
        job = client.get(id)
        job.resume()
        _say(job.id, job.state, as_json=as_json, otherwise="goes on")


def _say(job: str, state: JobState, *, as_json: bool, otherwise: str) -> None:
    if as_json:
        print_json({"id": job, "state": state})
    else:
        click.echo(f"{job} {otherwise if state is JobState.RUNNING else state}")
