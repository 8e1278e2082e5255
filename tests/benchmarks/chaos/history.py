"""What happened to each job, as the append-only file has it: attempts, ends, and who wrote."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from jobs.job import ENDED
from tests.benchmarks.chaos.aof import Write
from tests.benchmarks.chaos.probe import FORGED

_KEY: Final = re.compile(r"unroll:[^:]+:run:(job|points|chunks|log|files):(\w+)")
_ATTEMPT: Final = re.compile(r"/attempt-(\d+)/")


@dataclass
class History:
    """One job, as its writes were made."""

    #: Number of the newest attempt so far, and whether it may write.
    attempt: int = 0
    runs: bool = False
    #: How often it came to an end.
    ends: int = 0
    #: Attempt and reason of each end of an attempt.
    reasons: list[tuple[int, str]] = field(default_factory=list)
    #: Points and checkpoints of an attempt that another had followed, or that had ended.
    overlapping: int = 0
    #: Writes of the probe that are in the file.
    forged: int = 0
    #: Artifacts that have counted; an older one may count again where a newer turned out damaged.
    _published: set[str] = field(default_factory=set)

    def note_state(self, fields: dict[str, str]) -> None:
        """Take in a write to the job's state."""
        state = fields.get("state")
        if state == "running":
            self.attempt, self.runs = int(fields["attempt"]), True
        elif state is not None:
            self.runs = False
            self.ends += state in ENDED
            if "reason" in fields:
                self.reasons.append((self.attempt, fields["reason"]))
        for name in ("checkpoint", "best"):
            if name in fields:
                self._note_checkpoint(json.loads(fields[name])["artifact"])

    def _note_checkpoint(self, artifact: str) -> None:
        writer = _ATTEMPT.search(artifact)
        if writer and artifact not in self._published:
            self._note_writer(int(writer[1]))
        self._published.add(artifact)

    def note_points(self, text: str) -> None:
        """Take in points."""
        for line in text.split("\n"):
            self._note_writer(json.loads(line)[4])

    def _note_writer(self, attempt: int) -> None:
        self.overlapping += attempt != self.attempt or not self.runs


def histories(writes: Iterable[Write]) -> dict[str, History]:
    """Return what happened to every job, by its id."""
    found: dict[str, History] = {}
    for write in writes:
        if (key := _KEY.fullmatch(write.key)) is None:
            continue
        history = found.setdefault(key[2], History())
        history.forged += any(FORGED.encode() in each for each in write.arguments)
        if key[1] == "job" and write.command == "HSET":
            history.note_state(write.fields)
        elif key[1] == "points" and write.command == "XADD":
            history.note_points(write.fields["text"])
    return found
