"""`make bench`: measure how fast everything is, print one table, and append it to bench.jsonl.

A theme is a public file of this folder with a function `rows`, which yields what it measured.
"""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

import worker.runner  # noqa: F401 - before torch: it sets how malloc and the libraries behave
from tests.benchmarks.speed._measure import Row
from tests.benchmarks.speed._table import OUTPUT, line_of, show

HERE: Final = Path(__file__).resolve().parent


def themes() -> list[str]:
    """Return the names of all themes."""
    return sorted(file.stem for file in HERE.glob("[!_]*.py"))


def measure(names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Measure these themes, row by row."""
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.speed.{name}")
        for row in module.rows():
            yield name, row


@click.command()
@click.argument("names", nargs=-1, metavar="[THEME]...")
def main(names: tuple[str, ...]) -> None:
    """Measure the given themes, else all."""
    if unknown := sorted(set(names) - set(themes())):
        raise click.UsageError(f"no theme {', '.join(unknown)}; there are: {', '.join(themes())}")
    console = Console()
    table = Table("what", "size", "figure", "against", "ratio", "goal")
    with OUTPUT.open("a", encoding="utf-8") as file:
        for theme, row in measure(names or themes()):
            show(table, row)
            file.write(json.dumps(line_of(theme, row), ensure_ascii=False) + "\n")
            file.flush()
            console.print(f"{theme}: {row.name} {row.size}  {row.figure:.4g} {row.unit}")
    console.print(table)


if __name__ == "__main__":
    main()
