"""Read job records and their parts from what Redis holds, and write the parts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from jobs.job import Checkpoint, Job, JobState, Lease, Progress, Reason
from jobs.schema import known_fields

#: What is kept of a message and of a traceback, in characters.
MAX_MESSAGE: Final = 1_000
MAX_TRACEBACK: Final = 20_000


def text(value: bytes | str | None) -> str:
    """Return the text of an answer of Redis."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def plain(value: Any) -> str:
    """Return compact JSON; NaN and infinities stay readable by Python."""
    return json.dumps(value, separators=(",", ":"))


def head(message: str, bound: int) -> str:
    """Return the text cut at `bound` characters, and what cannot be encoded replaced."""
    whole = message.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= bound else whole[: bound - 4] + " ..."


def tail(message: str, bound: int) -> str:
    """Return the end of the text: the last lines of a traceback are those that say what was."""
    whole = message.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= bound else "... " + whole[-bound + 4 :]


def read_job(flat: Sequence[bytes]) -> Job:
    """Return the record that `record` in lua/common.lua gave, as fields and values in turn."""
    fields = {text(flat[i]): text(flat[i + 1]) for i in range(0, len(flat), 2)}
    state = JobState(fields["state_now"])
    return Job(
        id=fields["id"],
        kind=fields["kind"],
        state=state,
        spec=json.loads(fields["spec"]) if fields["spec"] else {},
        priority=int(fields["priority"]),
        queue=fields["queue"],
        attempt=int(fields.get("attempt", 0)),
        worker=fields.get("worker", ""),
        retries_used=int(fields.get("retries", 0)),
        free_used=int(fields.get("free", 0)),
        submitted=_seconds(fields, "submitted"),
        started=_seconds(fields, "started"),
        said=_seconds(fields, "said"),
        last_ended=_seconds(fields, "last_ended"),
        ran=_seconds(fields, "ran"),
        progress=Progress(**known_fields(Progress, json.loads(fields.get("progress", "{}")))),
        checkpoint=_checkpoint(fields.get("checkpoint")),
        previous=_checkpoint(fields.get("previous")),
        best=_checkpoint(fields.get("best")),
        result=json.loads(fields.get("result", "{}")),
        store=fields.get("store", ""),
        catalog=fields.get("catalog", ""),
        note=fields["note"],
        tags=tuple(json.loads(fields["tags"])),
        wish=fields["wish"],
        **_end(fields, state),
    )


def _end(fields: Mapping[str, str], state: JobState) -> dict[str, Any]:
    if state is JobState.CANCELLED and fields.get("state") != JobState.CANCELLED:
        return {  # no worker held it, so that the wish was the end
            "reason": Reason.CANCELLED,
            "message": "cancelled while it waited",
            "ended": _seconds(fields, "withdrawn"),
        }
    reason = fields.get("reason")
    return {
        "reason": Reason(reason) if reason else None,
        "message": fields.get("message", ""),
        "traceback": fields.get("traceback", ""),
        "ended": _seconds(fields, "ended") if state.ended else 0.0,
    }


def read_lease(job: Job, attempt: int, expires: int) -> Lease:
    """Return the lease that `acquire` gave."""
    return Lease(job=job.id, attempt=attempt, worker=job.worker, expires=expires)


def write_checkpoint(checkpoint: Checkpoint) -> str:
    """Return a checkpoint as JSON."""
    return plain(asdict(checkpoint))


def write_progress(progress: Progress) -> str:
    """Return the progress as JSON."""
    return plain(asdict(progress))


def _checkpoint(value: str | None) -> Checkpoint | None:
    return Checkpoint(**known_fields(Checkpoint, json.loads(value))) if value else None


def _seconds(fields: Mapping[str, str], name: str) -> float:
    return float(fields.get(name) or 0) / 1000
