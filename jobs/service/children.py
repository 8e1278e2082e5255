"""Child processes that die with this one, however this one dies."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_TETHER: Final = Path(__file__).with_name("tether.py")


class Child:
    """A running command of ours; ended by `death_signal` if this process ends first."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        death_signal: signal.Signals = signal.SIGKILL,
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        log: Path | None = None,
    ) -> None:
        self._command = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
        self._command += [str(int(death_signal)), *command]
        self._environment = environment
        self._stdin = stdin
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        started = threading.Event()
        # The death signal follows the thread that forked, so a thread stays for the child's life.
        self._thread = threading.Thread(target=self._live, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        if self._error is not None:
            raise self._error

    def _live(self, started: threading.Event) -> None:
        try:
            self._process = self._start()
        except OSError as error:
            self._error = error
            return
        finally:
            started.set()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        output = None if self._log is None else self._log.open("wb")
        try:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=self._stdin,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in our terminal is ours to answer, not the child's
            )
        finally:
            if output is not None:
                output.close()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Return the process, running or ended."""
        assert self._process is not None  # noqa: S101 - the constructor has seen to it
        return self._process

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._thread.is_alive()

    def stop(self, timeout: float) -> bool:
        """Ask the process to end, and kill it when `timeout` seconds were not enough.

        Return whether it ended by itself.
        """
        self.process.terminate()
        if self.wait(timeout):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self._thread.join()

    def wait(self, timeout: float) -> bool:
        """Wait for the end; return whether it came within `timeout` seconds."""
        self._thread.join(timeout)
        return not self.running

    def last_words(self) -> str:
        """Return the last line of the log, or an empty string."""
        if self._log is None or not self._log.exists():
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
