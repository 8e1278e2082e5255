"""Say in one sentence why a job is where it is."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from jobs.errors import did_you_mean
from jobs.job import ENDED, FREE_RETRIES, MAX_FREE_RETRIES, Job, JobState, Progress, Reason
from jobs.wording import clock, duration, one_line

#: Worker id -> its queues, and the words of `misfit` in lua/common.lua; empty where it fits.
Misfits = Mapping[str, tuple[Sequence[str], str]]


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What stands around a record; times are seconds since 1970 of Redis server time."""

    now: float
    #: Jobs before it in its queue; -1 where it is not in there.
    place: int = -1
    #: When its retry is due; 0 where it waits for none.
    due: float = 0.0
    #: When its lease runs out; 0 where nobody holds one.
    lease: float = 0.0
    #: Digest of the newest catalogue of its queue; empty where there is none.
    catalog: str = ""
    #: The states of those of the jobs that it waits for which are still known, by their ids.
    parents: Mapping[str, str] = field(default_factory=dict)
    misfits: Misfits = field(default_factory=dict)


def explain(job: Job, around: Circumstances) -> str:
    """Return the sentence, on one line."""
    return one_line(_SENTENCE.get(job.state, _ended)(job, around))


def _blocked(job: Job, around: Circumstances) -> str:
    def waiting_for(name: str, over: Collection[str]) -> str:
        states = {each: around.parents.get(each, "removed") for each in job.spec.get(name, ())}
        return _and([f"{each} ({state})" for each, state in states.items() if state not in over])

    success = waiting_for("after", {"succeeded"})
    end = waiting_for("after_ended", {*map(str, ENDED), "removed"})
    waits = [f"{success} to succeed"] * bool(success) + [f"{end} to end"] * bool(end)
    return f"waits for {_and(waits) or 'the jobs that it comes after'}"


def _running(job: Job, around: Circumstances) -> str:
    since = f"since {clock(job.started, around.now)} ({duration(around.now - job.started)})"
    words = [f"running on {job.worker} {since}, attempt {job.attempt}{_phase(job.progress)}"]
    words.append(f"last word {duration(around.now - max(job.said, job.started))} ago")
    if 0 < around.lease < around.now:
        words.append(f"its lease ran out at {clock(around.lease, around.now)}")
    if job.wish:
        words.append({"cancel": "is being cancelled", "pause": "is being paused"}[job.wish])
    return "; ".join(words)


def _phase(done: Progress) -> str:
    words = [done.phase] if done.phase else []
    words += [f"step {done.step:,} of {done.steps:,}"] if done.steps else []
    words += [f"epoch {done.epoch} of {done.epochs}"] if done.epochs else []
    return f": {', '.join(words)}" if words else ""


def _paused(job: Job, _around: Circumstances) -> str:
    return f"paused by a person; `unroll resume {job.id}` puts it back to its place in the queue"


def _queued(job: Job, around: Circumstances) -> str:
    if around.due > around.now:
        said = _retry(job, around.due - around.now)
    else:
        said = f"queued{_wait(job, around)}"
    if _has_ended(job):
        said += f"; attempt {job.attempt} ended as {job.reason}{_evidence(job, around)}"
    return said


def _has_ended(job: Job) -> bool:
    # A job that was handed back in good order has nothing to explain.
    return bool(job.attempt and job.reason and job.reason is not Reason.PREEMPTED)


def _retry(job: Job, seconds: float) -> str:
    free = job.reason in FREE_RETRIES
    count, bound = job.retries_used, job.spec.get("retries", 0)
    if free:  # these do not count, but are not endless
        count, bound = job.free_used, MAX_FREE_RETRIES - 1
    return f"queued: retry {count} of {bound} in {max(1, round(seconds))} s"


def _wait(job: Job, around: Circumstances) -> str:
    if not around.misfits:
        return ": no worker is alive; start one with `unroll worker`"
    serving = {name: why for name, (on, why) in around.misfits.items() if job.queue in on}
    if not serving:
        served = sorted({queue for queues, _ in around.misfits.values() for queue in queues})
        return (
            f": no worker serves queue {job.queue!r}{did_you_mean(job.queue, served)} "
            f"(served: {', '.join(served)})"
        )
    if any(not why for why in serving.values()):
        if around.place > 0:
            return f" {_behind(around.place)}"
        return ": next in turn; a worker takes it in a moment"
    name, why = min(serving.items(), key=lambda item: _rank(item[1]))
    word, _, rest = why.partition(" ")
    queue = f"; {_behind(around.place)}" if word in _TAKEN and around.place > 0 else ""
    return f": {_MISFITS[word](rest, name)}{queue}"


def _behind(place: int) -> str:
    return f"behind {place} {'job' if place == 1 else 'jobs'}"


def _rank(why: str) -> int:
    return list(_MISFITS).index(why.partition(" ")[0])


def _gpus(rest: str, name: str) -> str:
    needed, there = rest.split()
    return f"needs {_count(needed)}, the worker {name} has {there}"


def _free_gpus(rest: str, name: str) -> str:
    needed, free = rest.split()
    return f"needs {_count(needed)}, {free} {'is' if free == '1' else 'are'} free on {name}"


def _count(gpus: str) -> str:
    return f"{gpus} GPU" if gpus == "1" else f"{gpus} GPUs"


def _version(rest: str, name: str) -> str:
    wanted, there = rest.split()
    return f"submitted by version {wanted}, and the worker {name} is of {there}: upgrade a worker"


#: In the order of their nearness: what may pass by itself first.
_MISFITS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "slots": lambda _rest, name: f"all slots are in use on {name}",
    "free_gpus": _free_gpus,
    "trouble": lambda rest, name: f"the worker {name} takes no jobs: {rest}",
    "gpus": _gpus,
    "label": lambda rest, _name: f"no worker of its queue carries the label {rest!r}",
    "store": lambda rest, _name: f"its files lie in store {rest}, which no living worker shares",
    "version": _version,
}


#: Misfits that pass when a job ends; then it matters how many others wait for that, too.
_TAKEN: Final = frozenset({"slots", "free_gpus"})


def _ended(job: Job, around: Circumstances) -> str:
    what = "traceback" if job.traceback.startswith("Traceback") else "end of its log"
    trace = f"; `unroll show {job.id}` has the {what}" if job.traceback else ""
    if job.state is not JobState.FAILED or job.reason is None:
        return f"{job.state}{f': {job.message}' if job.message else ''}"
    tries = f" after {job.attempt} attempts" if job.attempt > 1 else ""
    return f"failed{tries} ({job.reason}){_evidence(job, around)}{_other_code(job, around)}{trace}"


def _other_code(job: Job, around: Circumstances) -> str:
    # What the newest code can build was checked at submission; an older worker may know less.
    told = job.catalog and around.catalog and job.reason is Reason.USER_ERROR
    if not told or job.catalog == around.catalog:
        return ""
    return (
        f"; {job.worker} ran other code (catalogue {job.catalog[:8]}) than the newest worker of "
        f"its queue ({around.catalog[:8]})"
    )


def _evidence(job: Job, around: Circumstances) -> str:
    said = f": {job.message}" if job.message else ""
    if job.reason is Reason.LOST and job.last_ended:  # the message ends with whose lease ran out
        said += f" at {clock(job.last_ended, around.now)}"
    return said


_SENTENCE: Final[Mapping[JobState, Callable[[Job, Circumstances], str]]] = {
    JobState.BLOCKED: _blocked,
    JobState.QUEUED: _queued,
    JobState.RUNNING: _running,
    JobState.PAUSED: _paused,
}


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
