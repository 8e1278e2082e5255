"""Become a command that dies with its parent: `python tether.py PARENT SIGNAL COMMAND...`.

Linux sends a process a signal of its choice when the thread that forked it ends, however it ends.
The choice is made here, in the child and before the command takes the process over, because code
between fork and exec of a process with threads may deadlock.
"""

import ctypes
import os
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    """Ask for the signal, see that the parent still lives, become the command."""
    parent, signal, *command = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the signal was asked for
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the caller's own command, and no shell
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
