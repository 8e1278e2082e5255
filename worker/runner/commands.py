"""What a supervisor, a signal or a person at the keyboard may ask of a run while it runs.

Commands come as JSON lines over an inherited socket whose descriptor is in `UNROLL_COMMANDS_FD`:

    {"command": "checkpoint"}  ->  {"reply": "checkpoint", "file": "step-00000042.ckpt" or null}
    {"command": "stop"}        ->  {"reply": "stop"}

SIGTERM and Ctrl-C mean stop. While a model is trained, a wish waits for the end of the current
batch; at any other time there is nothing to save, and a stop takes effect at once.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Final

from worker.guard import COMMANDS_VARIABLE
from worker.runner.reasons import Preempted

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Commands:
    """Hold what was asked for until the run gets to it."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._patient = False
        self._checkpoints_wanted = 0
        self._stop = False

    @classmethod
    def inherited(cls) -> "Commands":
        """Return the commands of this process: those of its supervisor, and of signals."""
        number = os.environ.pop(COMMANDS_VARIABLE, "")
        return cls(socket.socket(fileno=int(number)) if number else None)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take commands for the length of a block."""
        previous = [signal.getsignal(number) for number in _STOP_SIGNALS]
        try:
            self.take_signals()
            if self._channel is not None:
                listen = partial(self._listen, self._channel)
                threading.Thread(target=listen, name="commands", daemon=True).start()
            yield
        finally:
            for number, handler in zip(_STOP_SIGNALS, previous, strict=True):
                signal.signal(number, handler)

    def wait_for_batches(self) -> None:
        """Let wishes wait, from now on, for who looks at `wants_checkpoint` and `wants_stop`."""
        self._patient = True
        self.take_signals()
        self.check()

    def settle(self) -> None:
        """Let nothing interrupt what is still to be written; no further checkpoint is taken."""
        self._patient = True
        self.took_checkpoint(None)

    def take_signals(self) -> None:
        """Handle the signals that mean stop; libraries put handlers of their own in between."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    @property
    def wants_stop(self) -> bool:
        """Whether the run is to stop."""
        return self._stop

    @property
    def wants_checkpoint(self) -> bool:
        """Whether somebody waits for a checkpoint."""
        return self._checkpoints_wanted > 0

    def check(self) -> None:
        """Raise Preempted if the run is to stop."""
        if self._stop:
            raise Preempted

    def took_checkpoint(self, file: str | None) -> None:
        """Answer everyone who waits for a checkpoint."""
        with self._lock:
            waiting, self._checkpoints_wanted = self._checkpoints_wanted, 0
        for _ in range(waiting):
            self._reply({"reply": "checkpoint", "file": file})

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop:
            return
        self._stop = True
        if not self._patient:
            self.check()

    def _listen(self, channel: socket.socket) -> None:
        with channel.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            command = json.loads(line)["command"]
        except (ValueError, KeyError, TypeError):
            command = None
        if command == "checkpoint":
            with self._lock:
                self._checkpoints_wanted += 1
            if not self._patient:
                self.took_checkpoint(None)
        elif command == "stop":
            self._reply({"reply": "stop"})
            self._interrupt()
        else:
            self._reply({"reply": "refused", "message": f"no command: {line.strip()[:200]}"})

    def _interrupt(self) -> None:
        """Let the main thread run the handler, also where it waits for something else."""
        if (number := threading.main_thread().ident) is not None:
            signal.pthread_kill(number, signal.SIGTERM)

    def _reply(self, reply: dict[str, Any]) -> None:
        if self._channel is None:
            return
        try:
            self._channel.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            self._channel = None  # nobody listens any more; the folder holds the same facts
