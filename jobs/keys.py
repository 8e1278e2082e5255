"""Every Redis key: its type, its lifetime, and the role that writes it. Nothing else spells a key.

A key is `unroll:NAMESPACE:GROUP:NAME`, and `:JOB`, `:QUEUE`, `:MODEL` and the like behind it where
there is one for each. The groups are what Redis ACLs (Redis 7 and later) can tell apart:

    ask    written by submitters (and by workers, which take requests off the queue)
    run    written by workers only: a submitter cannot forge a result
    bell   Celery's queues and bindings

    submitter   %RW~unroll:NS:ask:*  %R~unroll:NS:run:*  %RW~unroll:NS:bell:*
    worker      %RW~unroll:NS:*
    looker      %R~unroll:NS:*

"Queued" is thus a request without a job state of its round; `standing` in lua/common.lua says how
the two are read together.
"""

import re
from dataclasses import dataclass
from typing import Final

from jobs.errors import SetupError

ASK: Final = "ask"
RUN: Final = "run"
BELL: Final = "bell"


@dataclass(frozen=True)
class Key:
    """Describe one key, or a family of keys with a part behind the colon."""

    name: str
    group: str
    type: str
    #: "job", "queue", "model", ... where there is one key for each, else empty.
    per: str
    #: What it holds and how long it lives.
    meaning: str


KEYS: Final = (
    Key("request", ASK, "hash", "job", "what was asked for, and wishes; until the job is removed"),
    Key("requests", ASK, "zset", "", "all job ids by time of submission"),
    Key("pending", ASK, "zset", "queue", "jobs that a worker may take, by rank"),
    Key("delayed", ASK, "zset", "", "jobs that wait before a retry, by the time when it is due"),
    Key("queues", ASK, "set", "", "queues with jobs pending"),
    Key("waiting", ASK, "hash", "", "blocked job -> JSON list of those it waits for"),
    Key("dedupe", ASK, "hash", "", "idempotency key -> job id; until the job is removed"),
    Key("sequence", ASK, "string", "", "number of submissions: the age in a rank"),
    Key("clearing", ASK, "zset", "", "ended jobs by the time at which they may be cleared"),
    Key("rung", ASK, "string", "queue", "a bell was rung; expires in a moment"),
    Key("models", ASK, "zset", "", "names of models by the time of their first version"),
    Key("model", ASK, "hash", "model", "champion, challenger, champions before; versions by job"),
    Key("versions", ASK, "list", "model", "its versions as JSON, the first first; never shortened"),
    Key("trail", ASK, "list", "model", "what was done with its versions; never shortened"),
    Key("registered", ASK, "hash", "", "job -> the versions that keep it: it is never cleared"),
    Key("schedules", ASK, "hash", "", "name -> what is retrained when; until it is removed"),
    Key("due", ASK, "zset", "", "schedules by their next due time; none of those that are paused"),
    Key("asked", ASK, "zset", "", "schedules of which a generation was asked for, by the time"),
    Key("paused", ASK, "set", "", "schedules that a person has paused"),
    Key("sweeps", ASK, "hash", "", "sweep id -> its trials and their jobs, as JSON"),
    Key("sweeping", ASK, "zset", "", "sweeps by the time to forget them; +inf while they go on"),
    Key("hooks", ASK, "hash", "", "hook id -> address, what it is told of, secret, as JSON"),
    Key("outbox", ASK, "stream", "", "what happened and nobody was told of yet; the newest"),
    Key("job", RUN, "hash", "job", "what became of the request; until the job is removed"),
    Key("leases", RUN, "zset", "", "running jobs by the time at which their leases run out"),
    Key("holds", RUN, "hash", "", "job that waits for GPUs -> worker that keeps its own free"),
    Key("takes", RUN, "hash", "", "worker id -> nonce, job and attempt of what it took last"),
    Key("cleared", RUN, "stream", "", "jobs that were cleared of late: their files may go"),
    Key("series", RUN, "hash", "job", "counts of points and log lines, highest step of a metric"),
    Key("points", RUN, "stream", "job", "the newest points; an entry's id is its last cursor"),
    Key("chunks", RUN, "stream", "job", "older points, compressed; ids likewise"),
    Key("log", RUN, "stream", "job", "the newest log lines; ids likewise"),
    Key("files", RUN, "hash", "job", "small files by name"),
    Key("ends", RUN, "list", "job", "how its newest attempts ended, as JSON; the last twenty"),
    Key("workers", RUN, "hash", "", "worker id -> time of its last word and what it said"),
    Key("alive", RUN, "zset", "", "workers by the time at which they count as gone"),
    Key("offers", RUN, "hash", "", "worker id -> its queues and the digest of its catalogue"),
    Key("catalogs", RUN, "hash", "", "digest -> catalogue; until its last worker is gone"),
    Key("generation", RUN, "hash", "generation", "what became of a due time of a schedule"),
    Key("generations", RUN, "zset", "schedule", "the newest generations, by due time"),
    Key("open", RUN, "zset", "", "generations that are not decided yet, by due time"),
    Key("memory", RUN, "hash", "schedule", "last firing, digests of the data and the test set"),
    Key("scheduled", RUN, "set", "", "schedules with generations; until they are forgotten"),
    Key("deliveries", RUN, "hash", "hook", "delivery -> event, tries, as JSON; until it is over"),
    Key("retries", RUN, "zset", "hook", "deliveries by the time of their next try"),
    Key("notified", RUN, "set", "", "hooks that there is something of; until they are forgotten"),
    Key("told", RUN, "hash", "", "hook id -> what became of the newest try, as JSON"),
    Key("undelivered", RUN, "list", "", "deliveries that were given up, as JSON; the last hundred"),
    Key("swept", RUN, "string", "", "when the sweep last ran"),
)

_BY_NAME: Final = {key.name: key for key in KEYS}
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Keys:
    """Spell the keys of one namespace. Raise SetupError for a name that cannot be one."""

    namespace: str = "default"

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise SetupError(
                f"{self.namespace!r} cannot be a namespace: at most 64 letters, digits, '_.-'"
            )

    def __call__(self, name: str, each: str = "") -> str:
        """Return a key; of a family that of `each`, or the part before it."""
        key = _BY_NAME[name]
        spelled = f"unroll:{self.namespace}:{key.group}:{name}"
        return f"{spelled}:{each}" if key.per else spelled

    @property
    def celery(self) -> str:
        """Return what stands before every key of Celery."""
        return f"unroll:{self.namespace}:{BELL}:"
