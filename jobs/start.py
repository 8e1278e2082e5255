"""Begin the `unroll` command; nothing is imported here that takes time."""

import os
import signal
from types import FrameType
from typing import Final

_INTERRUPTED: Final = 130


def main() -> int:
    """Run the command line; return the exit status.

    A Ctrl-C before it is there ends the process without a word.
    """
    # Raised inside an import, KeyboardInterrupt would print where, or be taken for something else.
    before = signal.signal(signal.SIGINT, _leave)
    from jobs import cli  # noqa: PLC0415 - what takes time

    try:
        signal.signal(signal.SIGINT, before)
        return cli.main()
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    os._exit(_INTERRUPTED)
