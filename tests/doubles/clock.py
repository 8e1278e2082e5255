"""A clock for the store that only moves when it is told to."""


class Clock:
    """Stand in for Redis server time, in milliseconds; set `now`, or `wait`, to move it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += int(seconds * 1000)
