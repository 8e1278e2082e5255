"""The looker's side of the store: it reads and never writes."""

import contextlib
import json
import time
from functools import lru_cache
from typing import Any, Final

from jobs.catalog import Catalog
from jobs.connection import DISK_FULL
from jobs.errors import ArtifactError, ServiceUnreachable, UnknownJob, did_you_mean
from jobs.evidence import AttemptEnd
from jobs.job import Job, JobState, MetricPoint
from jobs.store.base import StoreBase
from jobs.store.feed import Entry, batches, decode_lines, decode_points
from jobs.store.reasons import Circumstances, explain
from jobs.store.records import plain, read_job, text
from jobs.workers import Worker

#: Records read in one call.
_PAGE: Final = 100
#: In a list, a spec of more bytes is left empty.
_LISTED_SPEC: Final = 65_536
#: Seconds of one blocking read; below the socket's timeout.
_BLOCK: Final = 2.0

# The class has a method called `list`, so that inside it these types need names of their own.
Ids = list[str]
Jobs = list[Job]
Points = list[MetricPoint]
Lines = list[tuple[int, str]]
Workers = list[Worker]
Entries = list[Entry]
Ends = list[AttemptEnd]
Raw = list[bytes]


@lru_cache(maxsize=8)
def _read_catalog(content: bytes) -> Catalog:
    """Read a catalogue once: every submission looks at it, and it seldom changes."""
    return Catalog.from_dict(json.loads(content))


class Looker(StoreBase):
    """Read records and what hangs on them."""

    def get(self, job: str) -> Job:
        """Return the record of a job. Raise UnknownJob."""
        if found := self._read([job], 1 << 40):
            return found[0]
        raise self._unknown(job)

    def list(self, state: JobState | None = None, limit: int = 1000) -> Jobs:
        """Return jobs, the newest first; a spec of more than 64 kB is left empty."""
        found: Jobs = []
        for page in batches(self._candidates(state, limit), _PAGE):
            found += self._read([*page], _LISTED_SPEC, state or "")
            if len(found) >= limit:
                break
        return found[:limit]

    def ends(self, job: str) -> Ends:
        """Return how the newest attempts of a job ended, the newest last."""
        with self._reaching():
            found = self._client.lrange(self.keys("ends", job), 0, -1)
        return [AttemptEnd.from_dict(json.loads(each)) for each in found]

    def records(self, jobs: Ids) -> Jobs:
        """Return the records of those jobs that are there; a spec of more than 64 kB is empty."""
        return [job for page in batches(jobs, _PAGE) for job in self._read([*page], _LISTED_SPEC)]

    def known(self, jobs: Ids) -> set[str]:
        """Return those of the ids that a job has."""
        return {job.id for job in self._read(jobs, 0)}

    def resolve(self, prefix: str) -> str:
        """Return the one id that begins so. Raise UnknownJob."""
        if prefix.isascii() and prefix and self.known([prefix]):
            return prefix
        begin = [each for each in self._ids(0, -1) if prefix and each.startswith(prefix)]
        if len(begin) == 1:
            return begin[0]
        if begin:
            raise UnknownJob(f"{len(begin)} jobs have an id that begins with {prefix!r}")
        raise self._unknown(prefix)

    def why(self, job: str) -> str:
        """Return one sentence on why the job is where it is. Raise UnknownJob."""
        record = self.get(job)
        now, place, due, lease, catalog, workers = self._run("why", id=job)
        after = [*record.spec.get("after", ()), *record.spec.get("after_ended", ())]
        parents = self._read(after, 0) if after else []
        sentence = explain(
            record,
            Circumstances(
                now=now / 1000,
                place=place,
                due=float(due or 0) / 1000,
                lease=float(lease or 0) / 1000,
                catalog=text(catalog),
                parents={each.id: str(each.state) for each in parents},
                misfits={text(name): (json.loads(on), text(why)) for name, on, why in workers},
            ),
        )
        # Nothing moves then, and no worker can say so: its words would have to be written.
        stuck = not record.state.ended and self._cannot_write()
        return f"{sentence}; {DISK_FULL}" if stuck else sentence

    def _cannot_write(self) -> bool:
        with contextlib.suppress(ServiceUnreachable), self._reaching():  # who may not ask
            return bool(self._client.info("persistence").get("aof_last_write_status") == "err")
        return False

    def metrics(self, job: str, since: int = 0, block: float = 0) -> Points:
        """Return the points behind cursor `since`; if none, wait for some up to `block` seconds."""
        return decode_points(self._behind(("chunks", "points"), job, since, block), since)

    def logs(self, job: str, since: int = 0, block: float = 0) -> Lines:
        """Return (cursor, line) behind cursor `since`; if none, wait up to `block` seconds.

        Only the newest lines are kept here; all of them lie in the artifact store.
        """
        return decode_lines(self._behind(("log",), job, since, block), since)

    def files(self, job: str) -> dict[str, int]:
        """Return the sizes in bytes of the small files that travel through Redis."""
        key = self.keys("files", job)
        with self._reaching():
            names = self._client.hkeys(key)
            pipe = self._client.pipeline(transaction=False)
            for name in names:
                pipe.hstrlen(key, name)
            return {text(name): size for name, size in zip(names, pipe.execute(), strict=True)}

    def read_file(self, job: str, name: str) -> bytes:
        """Return the content of a small file. Raise ArtifactError if there is none."""
        with self._reaching():
            content: bytes | None = self._client.hget(self.keys("files", job), name)
        if content is None:
            raise ArtifactError(
                f"job {job} has no file {name!r}{did_you_mean(name, self.files(job))}"
            )
        return content

    def workers(self) -> Workers:
        """Return the workers that are alive."""
        found = []
        for said in self._run("workers"):
            seen, _, worker = text(said).partition(" ")
            found.append(Worker.from_dict(json.loads(worker), seen=int(seen) / 1000))
        return sorted(found, key=lambda worker: worker.id)

    def cleared(self, since: str = "-") -> tuple[Ids, str]:
        """Return jobs that were removed, or whose keep time is over, and where to go on from.

        What lies in files of theirs may go, wherever it lies.
        """
        behind = since if since == "-" else f"({since}"
        with self._reaching():
            found = self._client.xrange(self.keys("cleared"), min=behind, count=_PAGE)
        return [text(each[b"job"]) for _, each in found], text(found[-1][0]) if found else since

    def catalog(self, queue: str = "default") -> Catalog | None:
        """Return what the workers of a queue can build; None while none has said so."""
        found = self._run("catalog", queue=queue)
        return _read_catalog(found) if found else None

    def _read(self, ids: Ids, bound: int, state: str = "") -> Jobs:
        found = self._run("read", ids=plain(ids), bound=bound, state=state)
        return [read_job(flat) for flat in found]

    def _candidates(self, state: JobState | None, limit: int) -> Ids:
        """Return the ids of all jobs that may stand so, the newest first.

        All at once: pages by place would show a job twice where another came meanwhile. Those that
        run, wait for a worker or for others are few among many that have ended, and have an index.
        """
        with self._reaching():
            if state is JobState.RUNNING:
                ids = self._client.zrange(self.keys("leases"), 0, -1)
            elif state is JobState.BLOCKED:
                ids = self._client.hkeys(self.keys("waiting"))
            elif state is JobState.QUEUED:
                ids = self._queued()
            else:
                return self._ids(0, limit - 1 if state is None else -1)
            ages = self._client.zmscore(self.keys("requests"), ids) if ids else []
        # One that was removed meanwhile has no age any more, and is not read either.
        newest_first = sorted(zip((age or 0 for age in ages), ids, strict=True), reverse=True)
        return [text(each) for _, each in newest_first]

    def _queued(self) -> Raw:
        queues = [text(each) for each in self._client.smembers(self.keys("queues"))]
        pipe = self._client.pipeline(transaction=True)  # no job moves between the two
        pipe.zrange(self.keys("delayed"), 0, -1)
        for queue in queues:
            pipe.zrange(self.keys("pending", queue), 0, -1)
        return [each for ids in pipe.execute() for each in ids]

    def _ids(self, first: int, last: int) -> Ids:
        with self._reaching():
            return [
                text(each) for each in self._client.zrevrange(self.keys("requests"), first, last)
            ]

    def _unknown(self, job: str) -> UnknownJob:
        return UnknownJob(f"no job has the id {job!r}{did_you_mean(job, self._ids(0, _PAGE))}")

    def _behind(self, streams: tuple[str, ...], job: str, since: int, block: float) -> Entries:
        deadline = time.monotonic() + block
        keys = [self.keys(stream, job) for stream in streams]
        while not (found := self._entries(keys, since)):
            wait = min(_BLOCK, deadline - time.monotonic())
            if wait <= 0:
                break
            with self._reaching():
                self._client.xread({keys[-1]: f"{since}-0"}, block=max(1, int(wait * 1000)))
        return found

    def _entries(self, keys: Ids, since: int) -> Entries:
        with self._reaching():
            pipe: Any = self._client.pipeline(transaction=True)  # no entry moves between the two
            for key in keys:
                pipe.xrange(key, min=f"{since}-1")
            return [entry for entries in pipe.execute() for entry in entries]
