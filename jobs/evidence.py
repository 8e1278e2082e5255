"""What is known of how an attempt ended: for people who ask whose fault it was."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from jobs.job import Reason

#: Ended attempts of a job that are remembered, the newest.
MAX_ENDS: Final = 20
#: What each keeps of its log, in characters: the record has more of the newest.
MAX_LOG: Final = 1_000


@dataclass(frozen=True)
class Evidence:
    """What a worker saw of a runner's end; every field is empty where nobody saw it."""

    #: "exited", "killed", "hung", "abandoned", "deadline" or "unseen"; see `worker.process.Exit`.
    cause: str = ""
    #: Exit status, or the name of the signal that ended it.
    status: int | None = None
    signal: str | None = None
    #: Which of several ranks ended first.
    rank: int = 0
    #: Processes that the kernel killed for memory meanwhile.
    oom_kills: int = 0
    #: The most memory that one rank had at once, and that one had on its GPU, in bytes.
    peak_memory: int = 0
    peak_gpu_memory: int = 0
    #: The end of the log.
    log: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as plain JSON, the log cut."""
        known = asdict(replace(self, log=self.log[-MAX_LOG:]))
        return {
            name: value for name, value in known.items() if value or (name, value) == ("status", 0)
        }


@dataclass(frozen=True)
class AttemptEnd:
    """One ended attempt of a job."""

    attempt: int
    worker: str
    reason: Reason
    message: str
    #: Seconds since 1970 of Redis server time.
    started: float
    ended: float
    evidence: Evidence

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "AttemptEnd":
        """Read what `note_end` in lua/common.lua wrote."""
        known = {each.name for each in fields(Evidence)}
        return cls(
            attempt=int(plain["attempt"]),
            worker=plain["worker"],
            reason=Reason(plain["reason"]),
            message=plain["message"],
            started=plain["started"] / 1000,
            ended=plain["ended"] / 1000,
            evidence=Evidence(**{name: plain[name] for name in known & plain.keys()}),
        )
