"""The fault table: the reasons that records give, against the causes that were planted.

`make fault-table`, or `python -m tests.benchmarks.chaos.fault_table`. The last line is JSON; the
exit status is 1 where less than 95 % of the reasons are right.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from jobs.client import Client
from jobs.job import Reason
from tests.benchmarks.chaos import aof
from tests.benchmarks.chaos.causes import CAUSES, Scene
from tests.benchmarks.chaos.cluster import Options, await_parents, running
from tests.benchmarks.chaos.confinement import confinement
from tests.benchmarks.chaos.history import History, histories

GOAL: Final = 0.95
_TERMINATED: Final = 143
#: Bytes for all hosts together, once they are confined: their parents have a third of it.
_MEMORY: Final = 3 << 30

#: By the cause that was planted, how often each reason was given.
Given = Mapping[Reason, Counter[str]]


def main() -> int:
    """Plant the causes that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="fault_table", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each cause")
    parser.add_argument("--causes", nargs="+", type=Reason, default=list(CAUSES))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    with tempfile.TemporaryDirectory(prefix="unroll-causes-") as folder:
        found = plant(Path(folder).resolve(), given.causes, given.runs)
    return show(found)


def plant(folder: Path, causes: list[Reason], runs: int) -> Given:
    """Plant each cause so many times; return the reasons that were given for it."""
    with (
        confinement(_MEMORY) as confined,
        running(Options(folder)) as cluster,
        Client(cluster.redis.url) as client,
    ):
        await_parents(cluster)
        scene = Scene(cluster, client, folder / "text" / "bad", confined)
        planted: dict[Reason, list[str]] = {}
        for cause in causes:
            planted[cause] = [CAUSES[cause](scene, number).id for number in range(runs)]
            sys.stderr.write(f"{cause}: planted\n")
        cluster.drain()
        cluster.redis.stop()
        written = histories(aof.read(cluster.redis_folder))
    return {
        cause: Counter(first_reason(written.get(job, History())) for job in jobs)
        for cause, jobs in planted.items()
    }


def first_reason(history: History) -> str:
    """Return why the first attempt of a job ended: that is what the cause was planted in."""
    return history.reasons[0][1] if history.reasons else "none"


def show(found: Given) -> int:
    """Print the table and the figures; return the exit status."""
    table = Table("cause planted", "right", "other reasons", title="the fault table")
    for cause, given in found.items():
        wrong = ", ".join(f"{count} {reason}" for reason, count in given.items() if reason != cause)
        table.add_row(str(cause), f"{given[cause]} of {given.total()}", wrong)
    console = Console(width=100)
    console.print(table)
    right = sum(given[cause] for cause, given in found.items())
    share = right / sum(given.total() for given in found.values())
    figures = {"right": share, **{str(cause): dict(given) for cause, given in found.items()}}
    console.file.write(f"{json.dumps(figures)}\n")
    return int(share < GOAL)


if __name__ == "__main__":
    sys.exit(main())
