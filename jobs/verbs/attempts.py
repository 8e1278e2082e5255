"""How the ended attempts of a job are shown."""

import time
from collections.abc import Sequence

import click

from jobs.evidence import AttemptEnd, Evidence
from jobs.verbs.common import print_table
from jobs.wording import duration

_MEGABYTE = 1_000_000


def print_ends(ends: Sequence[AttemptEnd]) -> None:
    """Print a line for each attempt that has ended: when, where, why, and what was seen of it."""
    rows = [
        [
            str(each.attempt),
            each.worker,
            clock(each.ended),
            duration(each.ended - each.started),
            each.reason,
            seen(each.evidence),
            each.message or "-",
        ]
        for each in ends
    ]
    click.echo()
    print_table(["ATTEMPT", "WORKER", "ENDED", "RAN", "REASON", "SEEN", "MESSAGE"], rows)


def seen(evidence: Evidence) -> str:
    """Return in a few words what a worker saw of a runner's end."""
    words = []
    if evidence.signal:
        words.append(evidence.signal)
    elif evidence.status is not None:
        words.append(f"status {evidence.status}")
    if evidence.rank:
        words.append(f"of rank {evidence.rank}")
    if evidence.peak_memory:
        words.append(f"{evidence.peak_memory / _MEGABYTE:.0f} MB")
    if evidence.peak_gpu_memory:
        words.append(f"{evidence.peak_gpu_memory / _MEGABYTE:.0f} MB on its GPU")
    return " ".join(words) or "-"


def clock(seconds: float) -> str:
    """Return a moment, in seconds since 1970, as the clock on the wall shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
