"""How the results of jobs are printed."""

from collections.abc import Mapping
from typing import Any

import click

from jobs.wording import printable


def print_result(result: Mapping[str, Any]) -> None:
    """Print metrics with their intervals, and further values, one a line."""
    intervals = result.get("intervals", {})
    for name, value in sorted(result.items()):
        if name == "intervals":
            continue
        shown = f"{value:.4f}" if isinstance(value, float) else printable(_short(value))
        bounds = "  [{:.4f}, {:.4f}]".format(*intervals[name]) if name in intervals else ""
        click.echo(f"{name:24}{shown}{bounds}")


def _short(value: Any) -> str:
    """Return a value as a line: options as words, lists with commas."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
