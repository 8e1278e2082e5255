"""`make bench`: measure how fast everything is, print one table, and append it to bench.jsonl.

A theme is a public file of this folder with a function `rows`, which yields what it measured.
"""

import importlib
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

import worker.runner  # noqa: F401 - before torch: it sets how malloc and the libraries behave
from tests.benchmarks.speed._measure import Row

HERE: Final = Path(__file__).resolve().parent
#: Where the rows go, one a line; git ignores it.
OUTPUT: Final = HERE.parents[2] / "bench.jsonl"


def themes() -> list[str]:
    """Return the names of all themes."""
    return sorted(file.stem for file in HERE.glob("[!_]*.py"))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}


def measure(names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Measure these themes, row by row."""
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.speed.{name}")
        for row in module.rows():
            yield name, row


def show(table: Table, row: Row) -> None:
    """Add a row to the table that people see."""
    plain = row.to_dict()
    against = "" if row.against is None else f"{row.against:.4g} ({row.against_name})"
    ratio = "" if plain["ratio"] is None else f"{plain['ratio']:.2f}"
    table.add_row(row.name, row.size, f"{row.figure:.4g} {row.unit}", against, ratio, row.goal)


@click.command()
@click.argument("names", nargs=-1, metavar="[THEME]...")
def main(names: tuple[str, ...]) -> None:
    """Measure the given themes, else all."""
    if unknown := sorted(set(names) - set(themes())):
        raise click.UsageError(f"no theme {', '.join(unknown)}; there are: {', '.join(themes())}")
    console = Console()
    table = Table("what", "size", "figure", "against", "ratio", "goal")
    about = machine()
    with OUTPUT.open("a", encoding="utf-8") as file:
        for theme, row in measure(names or themes()):
            show(table, row)
            line = {"theme": theme, **row.to_dict(), "machine": about, "at": time.time()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            console.print(f"{theme}: {row.name} {row.size}  {row.figure:.4g} {row.unit}")
    console.print(table)


if __name__ == "__main__":
    main()
