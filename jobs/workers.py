"""What a worker says about itself."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Final

from jobs.schema import known_fields

#: Most jobs that one worker runs side by side.
MAX_SLOTS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Describe a worker: what it has, what of it is free, whose jobs it takes."""

    id: str
    host: str = ""
    pid: int = 0
    #: Jobs that run side by side.
    slots: int = 1
    free_slots: int = 1
    #: Slots beside these for jobs that answer, so that they wait behind no training.
    answer_slots: int = 0
    free_answer_slots: int = 0
    gpus: int = 0
    free_gpus: int = 0
    queues: tuple[str, ...] = ("default",)
    labels: tuple[str, ...] = ()
    #: Why it takes no jobs, in one line; empty where it does.
    trouble: str = ""
    #: Version of this package on the worker.
    version: str = ""
    #: Id of its artifact store.
    store: str = ""
    #: Digest of its catalogue; empty while it is not known.
    catalog: str = ""
    #: Seconds since 1970 of Redis server time at its last word; 0 where it has not been heard.
    seen: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `seen` is the listener's and left out."""
        plain = dataclasses.asdict(self)
        del plain["seen"]
        return {**plain, "queues": list(self.queues), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], seen: float = 0.0) -> "Worker":
        """Build a worker from what `to_dict` gave; fields of later versions are passed over."""
        given = known_fields(cls, plain)
        lists = {name: tuple(given.get(name, ())) for name in ("queues", "labels")}
        return cls(**{**given, **lists, "seen": seen})


@cache
def own_version() -> str:
    """Return the version of this package; empty where it was not installed."""
    try:
        return metadata.version("unroll")
    except metadata.PackageNotFoundError:
        return ""
