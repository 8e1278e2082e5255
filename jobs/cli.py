"""The `unroll` command.

Exit status: 0 fine, 1 the job failed or was cancelled, 2 usage or refused, 3 the service cannot be
reached, 4 a wait timed out; 130 interrupted, 141 nobody reads the output, 70 a fault of ours.
"""

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

import click
from click.shell_completion import shell_complete

from jobs.errors import (
    Forbidden,
    JobFailed,
    ServiceUnreachable,
    UnrollError,
    WaitTimeout,
)
from jobs.verbs.common import OnDemand, Verbs
from jobs.wording import printable

_REFUSED, _FAULT, _INTERRUPTED, _NOBODY_READS = 2, 70, 130, 141
#: The first that an error is decides.
_STATUS: Final = (
    *((JobFailed, 1), (Forbidden, _REFUSED)),
    *((ServiceUnreachable, 3), (WaitTimeout, 4)),
)
_COMPLETE: Final = "_UNROLL_COMPLETE"


#: The verbs in the order of a job's life, by the modules of `jobs.verbs` that hold them.
_VERBS: Final = (
    ("service", ("up", "down", "worker", "workers")),
    ("looking", ("catalog",)),
    ("submitting", ("submit",)),
    ("looking", ("ls", "show", "why", "watch", "metrics", "logs", "wait")),
    ("pausing", ("pause", "resume")),
    ("sweeping", ("sweep",)),
    ("submitting", ("cancel", "retry", "clone", "rm")),
    ("using", ("evaluate",)),
    ("comparing", ("compare", "leaderboard")),
    ("models", ("models",)),
    ("schedules", ("schedule",)),
    ("using", ("predict", "generate")),
    ("exporting", ("export",)),
    ("notifying", ("notify",)),
    ("using", ("demo",)),
)


@click.group(
    cls=Verbs,
    commands=OnDemand({name: module for module, names in _VERBS for name in names}),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="unroll")
def cli() -> None:
    """Train recurrent networks as jobs: describe a run, submit it, watch it, use the model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. No error leaves as a traceback."""
    if instruction := os.environ.get(_COMPLETE):
        return shell_complete(cli, {}, "unroll", _COMPLETE, instruction)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a foreign file name may be no text at all
        sys.stdout.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    sys.exit(128 + number)  # through every `finally`: what was started is stopped


def _run(arguments: Sequence[str]) -> int:
    try:
        with cli.make_context("unroll", list(arguments)) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return _REFUSED
    except click.ClickException as error:
        return _refuse(error)
    except UnrollError as error:
        _complain(str(error))
        return next((status for kind, status in _STATUS if isinstance(error, kind)), _REFUSED)
    except (BrokenPipeError, KeyboardInterrupt, click.Abort):
        raise
    except Exception as error:
        if os.environ.get("UNROLL_DEBUG"):
            raise
        _complain(f"a fault of ours: {type(error).__name__}: {error} (UNROLL_DEBUG=1 shows where)")
        return _FAULT


def _refuse(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "unroll"
    _complain(f"{error.format_message().rstrip('.')}; see `{path} --help`")
    return _REFUSED


def _complain(message: str) -> None:
    click.echo(f"unroll: {printable(' '.join(message.splitlines()))}", err=True)


if __name__ == "__main__":
    sys.exit(main())
