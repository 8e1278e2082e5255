"""Commands that ask for a stop after so many batches."""

from worker.runner.commands import Commands


class StopAfter(Commands):
    """Ask for a stop after so many batches that do not end an epoch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    @property
    def wants_checkpoint(self) -> bool:
        """Count the batch: it is asked once for each."""
        self._left -= 1
        self._stop = self._stop or self._left <= 0
        return super().wants_checkpoint
