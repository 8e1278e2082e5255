"""Verbs that run the service: up, down, worker, workers."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from jobs.client import Client
from jobs.errors import SetupError, WaitTimeout
from jobs.intake import refuse_control_characters
from jobs.service import DRAIN_TIMEOUT, Service, WorkerRefused, require_worker
from jobs.service.embedded import Holder, HomeLock
from jobs.spec import Resources
from jobs.verbs.common import Number, common, print_json, print_table
from jobs.wording import duration
from jobs.workers import MAX_SLOTS, Worker

_LOOK: Final = 0.5
#: Exit status of what is refused.
_REFUSED: Final = 2
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_slots = click.option(
    "--slots", type=click.IntRange(1, MAX_SLOTS), default=1, help="Jobs at the same time."
)
_answer_slots = click.option(
    "--answer-slots",
    type=click.IntRange(0, MAX_SLOTS),
    default=1,
    show_default=True,
    help="Beside these, for predictions and generations alone.",
)


@click.command()
@_slots
@_answer_slots
@common
def up(slots: int, answer_slots: int, home: Path | None, as_json: bool) -> None:
    """Run Redis and a worker in front; Ctrl-C drains.

    Redis is embedded unless UNROLL_REDIS_URL names one. A worker that is drained takes checkpoints
    and hands its jobs back.
    """
    service = Service(
        home or _home(),
        slots=slots,
        answer_slots=answer_slots,
        url=os.environ.get("UNROLL_REDIS_URL"),
    )
    stop = threading.Event()
    with _told_by_signals(stop), _refused_once(), service:
        _say_where(service, slots, as_json)
        while not stop.wait(_LOOK):
            service.mend()
        click.echo("draining: jobs are handed back; a second Ctrl-C does not wait", err=True)


@contextlib.contextmanager
def _refused_once() -> Iterator[None]:
    try:
        yield
    except WorkerRefused:  # it has said why, in this terminal
        raise click.exceptions.Exit(_REFUSED) from None


@contextlib.contextmanager
def _told_by_signals(stop: threading.Event) -> Iterator[None]:
    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        if stop.is_set():
            raise KeyboardInterrupt  # the children die with us
        stop.set()

    before = {each: signal.signal(each, ask) for each in _STOPPING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _say_where(service: Service, slots: int, as_json: bool) -> None:
    # A URL from the environment may hold a password; the embedded server's holds none.
    redis = "UNROLL_REDIS_URL" if os.environ.get("UNROLL_REDIS_URL") else service.url
    if as_json:
        where = {"home": str(service.home), "redis": redis, "slots": slots}
        print_json({**where, "pid": os.getpid(), "worker_pid": service.worker_pid})
    else:
        click.echo(f"home    {service.home}\nredis   {redis}")
        click.echo(f"worker  pid {service.worker_pid}, slots {slots}")
        click.echo("running; Ctrl-C or `unroll down` stops it")
    sys.stdout.flush()


@click.command()
@click.option(
    "--timeout",
    type=Number(min=0),
    default=2 * DRAIN_TIMEOUT,
    help="Seconds to wait for the end.",
)
@common
def down(timeout: float, home: Path | None, as_json: bool) -> None:
    """Stop what `unroll up` runs elsewhere."""
    home = home or _home()
    lock = HomeLock(home)
    holder = lock.holder()
    if holder is not None:
        _tell(holder, home)
        _await_end(lock, holder, timeout)
    if as_json:
        print_json({"home": str(home), "stopped": holder and holder.pid})
    else:
        click.echo(f"stopped the service of {home}" if holder else f"no service runs in {home}")


def _tell(holder: Holder, home: Path) -> None:
    if not holder.is_near:
        raise SetupError(f"the service of {home} runs as {holder}: stop it there")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except PermissionError:
        raise SetupError(f"the service of {home} ({holder}) belongs to another user") from None
    except ProcessLookupError:
        return


def _await_end(lock: HomeLock, holder: Holder, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while lock.holder() == holder:
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"{holder} still drains after {timeout:g} s; it was told to stop")
        time.sleep(0.05)


@click.command()
@click.option("--queues", metavar="Q,..", help="Queues whose jobs it takes; by default `default`.")
@click.option("--labels", metavar="L,..", help="Labels that jobs may ask for.")
@_slots
@_answer_slots
@click.option("--name", metavar="NAME", help="Name of the worker, unique among all.")
@common
def worker(
    queues: str | None,
    labels: str | None,
    name: str | None,
    home: Path | None,
    as_json: bool,
    **slots: int,
) -> None:
    """Run one worker in front; Ctrl-C drains.

    It works for UNROLL_REDIS_URL, else for the embedded service of the home.
    """
    from jobs.connection import redis_url, shown  # noqa: PLC0415 - imports Redis

    require_worker()
    for queue in _names("--queues", queues):
        Resources(queue=queue)  # refuses what no job could name
    refuse_control_characters("--labels", _names("--labels", labels))
    refuse_control_characters("--name", [name or ""])
    home = (home or _home()).absolute()
    url = redis_url(home)
    options = {"queues": queues, "labels": labels, "name": name}
    options |= {option.replace("_", "-"): str(count) for option, count in slots.items()}
    command = [sys.executable, "-P", "-m", "worker", "--home", str(home)]
    command += [word for key, value in options.items() if value for word in (f"--{key}", value)]
    if as_json:
        print_json({"pid": os.getpid(), "home": str(home), "redis": shown(url)})
    sys.stdout.flush()
    # Credentials go by environment: a command line is open to every user of the machine.
    os.environ.update(UNROLL_REDIS_URL=url, UNROLL_HOME=str(home))
    os.execv(command[0], command)  # noqa: S606 - this very program, and no shell


def _names(option: str, text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if text is not None and not names:
        raise click.UsageError(f"{option} takes names separated by commas, e.g. default,nightly")
    return names


@click.command()
@common
def workers(home: Path | None, as_json: bool) -> None:
    """List the workers that live, and how much of each is in use."""
    with Client(home=home) as client:
        living = client.workers()
    if as_json:
        print_json(living)
    elif living:
        headers = [
            "WORKER",
            "HOST",
            "SLOTS",
            "ANSWERS",
            "GPUS",
            "QUEUES",
            "LABELS",
            "VERSION",
            "SEEN",
        ]
        print_table(headers, _rows(living))
    else:
        click.echo("no worker runs; start one with `unroll worker` or `unroll up`")


def _rows(living: Sequence[Worker]) -> list[list[str]]:
    now = time.time()
    return [
        [
            each.id,
            each.host,
            f"{each.slots - each.free_slots}/{each.slots}",
            f"{each.answer_slots - each.free_answer_slots}/{each.answer_slots}",
            f"{each.gpus - each.free_gpus}/{each.gpus}",
            ",".join(each.queues),
            ",".join(each.labels) or "-",
            each.version,
            f"{duration(now - each.seen)} ago",
        ]
        for each in living
    ]


def _home() -> Path:
    from jobs.connection import default_home  # noqa: PLC0415 - imports Redis

    return default_home()
