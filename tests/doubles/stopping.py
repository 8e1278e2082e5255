"""Commands that come after so many batches."""

import os
import signal

from worker.runner.commands import Commands


class AfterBatches(Commands):
    """Do something after so many batches that do not end an epoch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    @property
    def wants_checkpoint(self) -> bool:
        """Count the batch: it is asked once for each."""
        self._left -= 1
        if self._left <= 0:
            self.act()
        return super().wants_checkpoint

    def act(self) -> None:
        """Do it."""
        raise NotImplementedError


class StopAfter(AfterBatches):
    """Ask for a stop."""

    def act(self) -> None:
        self._stop = True


class SignalAfter(AfterBatches):
    """Send this process the signal that means stop."""

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class FailAfter(AfterBatches):
    """Raise an error."""

    def __init__(self, batches: int, error: Exception) -> None:
        super().__init__(batches)
        self._error = error

    def act(self) -> None:
        raise self._error


class DieAfter(AfterBatches):
    """End the process as a crash does."""

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
