"""The queue's section of the design written down once more, as simply as it can be.

It knows no Redis, no scripts and no keys: what `tests/integration/test_store_machine.py` holds the
store to.
"""

from dataclasses import dataclass, field

ENDED = ("succeeded", "failed", "cancelled")
FREE = ("preempted", "infrastructure", "lost")
COUNTED = ("out_of_memory", "hung")
#: Milliseconds: the bound of all waits before a retry that counts.
LONGEST_WAIT = 8_000


@dataclass
class ModelJob:
    """What the design says of one job."""

    id: str
    priority: int
    age: int
    retries: int
    #: Milliseconds before the first retry that counts.
    backoff: int
    gpus: int | None
    labels: tuple[str, ...]
    after: str | None
    state: str = "queued"
    reason: str | None = None
    wish: str = ""
    attempt: int = 0
    worker: str = ""
    used: int = 0
    free: int = 0
    #: When its wait before a retry is over; None while it does not wait for that.
    due: int | None = None
    expires: int = 0
    taken: int = 0
    step: int = -1
    highest: int = -1
    points: list[int] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)

    def move(self, state: str, reason: str | None = None) -> None:
        self.moves.append((self.state, state))
        self.state, self.wish, self.due = state, "", None
        if reason:
            self.reason = reason

    def end_attempt(self, reason: str, now: int) -> None:
        if self.wish == "cancel" and reason != "succeeded":
            reason = "cancelled"
        if reason in ("succeeded", "cancelled"):
            self.move(reason, reason)
        elif reason == "preempted" and self.wish == "pause":
            self.move("paused", reason)
        else:
            self.move(self.after_failure(reason), reason)
            wait = self.wait_before_retry(reason)
            if self.state == "queued" and wait:
                self.due = now + wait

    def wait_before_retry(self, reason: str) -> int:
        if reason in FREE:
            return [0, 1_000, 2_000, 4_000][self.free - 1] if self.free < 5 else 0
        return min(self.backoff * 2 ** max(0, self.used - 1), LONGEST_WAIT)

    def promote(self, until: float) -> None:
        if self.due is not None and self.due <= until:
            self.due = None

    def after_failure(self, reason: str) -> str:
        again = "paused" if self.wish == "pause" else "queued"
        if reason in FREE:
            self.free += 1
            return again if self.free < 5 else "failed"
        if reason in COUNTED:
            self.free = 0
            if self.used < self.retries:
                self.used += 1
                return again
        return "failed"

    def allows(self, wish: str) -> bool:
        """Return whether a person may wish so, and it changes something."""
        return {
            "cancel": self.state not in ENDED,
            "pause": self.state in ("queued", "running"),
            "resume": self.state == "paused" or self.wish == "pause",
            "retry": self.state in ("failed", "cancelled") or self.due is not None,
            "remove": self.state in ENDED,
        }[wish]

    @property
    def shown_reason(self) -> str | None:
        """A cancelled request shows that; asked for again, it shows what its last attempt said."""
        return "cancelled" if self.state == "cancelled" else self.reason

    def needs(self, gpus: int) -> int:
        return min(1, gpus) if self.gpus is None else self.gpus
