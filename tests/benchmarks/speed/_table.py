"""Where benchmarks of speed write: the table that people see, and a file of JSON lines."""

import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from tests.benchmarks.speed._measure import Row

#: Where the rows go, one a line; git ignores it.
OUTPUT: Final = Path(__file__).resolve().parents[3] / "bench.jsonl"


@cache
def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}


def line_of(theme: str, row: Row) -> dict[str, Any]:
    """Return a row as it stands in the file."""
    return {"theme": theme, **row.to_dict(), "machine": machine(), "at": time.time()}


def show(table: Table, row: Row) -> None:
    """Add a row to the table."""
    plain = row.to_dict()
    against = "" if row.against is None else f"{row.against:.4g} ({row.against_name})"
    ratio = "" if plain["ratio"] is None else f"{plain['ratio']:.2f}"
    table.add_row(row.name, row.size, f"{row.figure:.4g} {row.unit}", against, ratio, row.goal)
