"""What the preloaded parent does once everything is loaded: fork guards and further parents.

Its standard input is a socket of whole messages (SOCK_SEQPACKET) to its worker:

    to the worker      {"ready": true}       once, when all is loaded
    from the worker    fork                  with three descriptors: standard input and output of
                                             the guard, and the runner's socket of commands
                       load                  with a descriptor of a socket such as this one, and
                                             those of open files
    to the worker      {"pid": 123}          with a descriptor of that process, or
                       {"refused": "why"}
    end of file        the worker is gone, and so is this process; the guards see to the rest

A guard forks the ranks of its runner itself. They go on in the interpreter that they find, with all
that it has loaded, and run the parent's `main` as if it had been started with their command.

Told to load, it forks a parent that loads a model from these files, says on its own socket that it
is ready, or refused, and forks guards from then on. Their ranks find the model in their memory.

None of this knows torch: what is loaded, the program says that calls `serve`.
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from worker import guard

FORK: Final = b"fork"
LOAD: Final = b"load"
#: Longest message either way.
MESSAGE_BYTES: Final = 1024
_DESCRIPTORS: Final = 3
_REFUSAL_LENGTH: Final = 200

Main = Callable[[Sequence[str]], int]
#: Load what these open files hold into the memory of this process; raise where that cannot be.
Load = Callable[[Sequence[int]], None]


def serve(main: Main, load: Load | None = None) -> None:
    """Fork guards whose ranks run `main` on their attempt folder, until the worker is gone.

    With `load`, fork further parents that have called it.
    """
    guard.name_process("unroll-parent")
    requests = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as null:  # noqa: PTH123 - a device, not a path of anyone's
        os.dup2(null.fileno(), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries guards: none stays a zombie
    for number in guard.DEAF_TO:
        signal.signal(number, signal.SIG_IGN)  # the worker says when to end
    _serve(requests, main, load)


def _serve(requests: socket.socket, main: Main, load: Load | None) -> None:
    # The collector writes into each object it looks at, and in a child each page that is written
    # to is copied: what is loaded here is not looked at again.
    gc.collect()
    gc.freeze()
    _say(requests, {"ready": True})
    while True:
        try:
            said, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, _DESCRIPTORS)
        except ConnectionError:  # the worker let go before it had read the last answer
            return
        if not said:
            return
        become = partial(_become_guard, requests, descriptors, main)
        if said == LOAD and load is not None:
            become = partial(_become_parent, requests, descriptors, main, load, os.getpid())
        try:
            _answer(requests, become)
        finally:
            for each in descriptors:
                os.close(each)


def _answer(requests: socket.socket, become: Callable[[], NoReturn]) -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:  # a lock that another thread holds would be held in the child for ever
        _say(requests, {"refused": f"the preloaded parent has {threads} threads"})
        return
    try:
        pid = os.fork()
    except OSError as error:
        _say(requests, {"refused": f"the preloaded parent cannot fork: {error.strerror}"})
        return
    if pid == 0:
        become()
    process = os.pidfd_open(pid)
    _say(requests, {"pid": pid}, process)
    os.close(process)


def _say(requests: socket.socket, message: Mapping[str, Any], *descriptors: int) -> None:
    socket.send_fds(requests, [json.dumps(message).encode()], descriptors)


def _become_guard(requests: socket.socket, descriptors: Sequence[int], main: Main) -> NoReturn:
    status = 1
    try:
        requests.detach()  # closed with all others below
        for given, wanted in zip(descriptors, (0, 1, guard.COMMANDS_FD), strict=True):
            os.dup2(given, wanted)
        os.closerange(guard.COMMANDS_FD + 1, os.sysconf("SC_OPEN_MAX"))
        status = guard.main(guard.COMMANDS_FD, partial(_become_rank, main))
    except BaseException:  # a forked child must never return into its parent
        traceback.print_exc()
    finally:
        os._exit(status)


def _become_parent(
    requests: socket.socket, descriptors: Sequence[int], main: Main, load: Load, parent: int
) -> NoReturn:
    status = 1
    try:
        guard.bind_to(parent)
        requests.close()
        guard.name_process("unroll-model")
        own, *files = descriptors
        with socket.socket(fileno=own) as listening:
            try:
                load(files)
            except Exception as error:
                _say(listening, {"refused": f"{type(error).__name__}: {error}"[:_REFUSAL_LENGTH]})
            else:
                for each in files:
                    os.close(each)
                _serve(listening, main, None)
        status = 0
    except BaseException:  # as above
        traceback.print_exc()
    finally:
        os._exit(status)


def _become_rank(main: Main, command: list[str], environment: Mapping[str, str]) -> NoReturn:
    # As an interpreter sets them up when it starts.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    guard.name_process("unroll-runner")
    os.environ.update(environment)
    sys.argv = command
    status = 1
    try:
        status = main(command[-1:])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
