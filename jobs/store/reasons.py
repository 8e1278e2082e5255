"""Say in one sentence why a job is where it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from jobs.errors import did_you_mean
from jobs.job import Job, JobState

#: Worker id -> its queues, and the words of `misfit` in lua/common.lua; empty where it fits.
Misfits = Mapping[str, tuple[Sequence[str], str]]


def explain(
    job: Job, *, parents: Sequence[Job] = (), place: int = -1, misfits: Misfits | None = None
) -> str:
    """Return the sentence; `place` counts from 0, `parents` are those it waits for."""
    if job.state is JobState.BLOCKED:
        waits = [f"{each.id} ({each.state})" for each in parents if each.state != "succeeded"]
        return f"waits for {_and(waits) or 'the jobs it comes after'} to succeed"
    if job.state is JobState.RUNNING:
        wish = {"cancel": "; is being cancelled", "pause": "; is being paused"}.get(job.wish, "")
        return f"running on {job.worker}, attempt {job.attempt}{wish}"
    if job.state is JobState.PAUSED:
        return "set aside by a person"
    if job.state is JobState.QUEUED:
        return _queued(job, place, misfits or {})
    reason = "" if not job.reason or job.reason.value == job.state.value else f" ({job.reason})"
    return f"{job.state}{reason}" + (f": {job.message}" if job.message else "")


def _queued(job: Job, place: int, misfits: Misfits) -> str:
    if not misfits:
        return "queued: no worker is alive; start one with `unroll worker`"
    serving = {name: why for name, (queues, why) in misfits.items() if job.queue in queues}
    if not serving:
        served = sorted({queue for queues, _ in misfits.values() for queue in queues})
        return (
            f"queued: no worker serves queue {job.queue!r}{did_you_mean(job.queue, served)} "
            f"(served: {', '.join(served)})"
        )
    if any(not why for why in serving.values()):
        if place > 0:
            return f"queued behind {place} {'job' if place == 1 else 'jobs'}"
        return "queued: next in turn; a worker takes it in a moment"
    name, why = min(serving.items(), key=lambda item: _rank(item[1]))
    word, _, rest = why.partition(" ")
    return f"queued: {_SENTENCES[word](rest, name)}"


def _rank(why: str) -> int:
    return list(_SENTENCES).index(why.partition(" ")[0])


def _gpus(rest: str, name: str) -> str:
    needed, there = rest.split()
    return f"needs {_count(needed)}; the worker {name} has {there}"


def _free_gpus(rest: str, name: str) -> str:
    needed, free = rest.split()
    return f"needs {_count(needed)}; {free} free on {name}"


def _count(gpus: str) -> str:
    return f"{gpus} GPU" if gpus == "1" else f"{gpus} GPUs"


#: In the order of their nearness: what may pass by itself first.
_SENTENCES: Final[Mapping[str, Callable[[str, str], str]]] = {
    "slots": lambda _rest, name: f"all slots are in use on {name}",
    "free_gpus": _free_gpus,
    "gpus": _gpus,
    "label": lambda rest, _name: f"no worker of its queue carries the label {rest!r}",
    "store": lambda rest, _name: f"its files lie in store {rest}, which no living worker shares",
}


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
