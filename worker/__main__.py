"""Run one worker: `python -m worker`. Where Redis is, the environment says, or the home."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.connection import default_home, redis_url
from jobs.errors import ServiceUnreachable, SetupError
from jobs.workers import MAX_SLOTS
from worker.app import WorkerProcess
from worker.settings import Settings, cache_days, data_roots, how_to_start, resolve_plugins, warmth

#: Exit statuses as those of the `unroll` command.
_REFUSED = 2
_UNREACHABLE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    set_up_logging()
    try:
        return WorkerProcess(read_settings(arguments)).run()
    except SetupError as error:
        sys.stderr.write(f"unroll: {error}\n")
        return _REFUSED
    except ServiceUnreachable as error:
        sys.stderr.write(f"unroll: {error}\n")
        return _UNREACHABLE


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Return what the command line and the environment say.

    Raise ServiceUnreachable, or SetupError for a word of the environment that means nothing.
    """
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run one worker.")
    parser.add_argument("--queues", type=_names, default=("default",), help="whose jobs to take")
    parser.add_argument("--labels", type=_names, default=(), help="what jobs may ask for")
    parser.add_argument("--slots", type=_slots, default=1, help="jobs that run side by side")
    parser.add_argument(
        "--answer-slots", type=_answer_slots, default=1, help="beside these, for predictions"
    )
    parser.add_argument("--home", type=Path, help="where everything is kept")
    parser.add_argument("--name", default="", help="unique among all workers")
    given = parser.parse_args(arguments)
    home = (given.home or default_home()).expanduser().absolute()
    resolve_plugins()
    return Settings(
        home=home,
        roots=data_roots(home, Path.cwd()),
        url=redis_url(home),
        name=given.name,
        slots=given.slots,
        answer_slots=given.answer_slots,
        queues=given.queues,
        labels=given.labels,
        start=how_to_start(),
        warmth=warmth(),
        cache_days=cache_days(),
    )


def set_up_logging() -> None:
    """Say what an operator needs: jobs that come and go, outages, and what went wrong."""
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", level=logging.INFO)
    # The routines tell of outages once, not at each try and with no traceback. Celery has warnings
    # logged: at each loss of its connection it asks for an option under which a task can be lost.
    for library in ("celery", "kombu", "amqp", "py.warnings"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not all(map(str.isprintable, names)):
        raise argparse.ArgumentTypeError("names separated by commas, e.g. default,gpu")
    return names


def _slots(text: str, least: int = 1) -> int:
    if not text.isdecimal() or not least <= int(text) <= MAX_SLOTS:
        raise argparse.ArgumentTypeError(f"a number from {least} to {MAX_SLOTS}, not {text!r}")
    return int(text)


def _answer_slots(text: str) -> int:
    return _slots(text, 0)


if __name__ == "__main__":
    sys.exit(main())
