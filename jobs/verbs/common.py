"""What the verbs share: their options, and how they print."""

import dataclasses
import json
import math
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from jobs.errors import did_you_mean
from jobs.wording import escaped, printable

F = TypeVar("F", bound=Callable[..., Any])


def common(function: F) -> F:
    """Add the options that every verb takes."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        help="Home of the service; by default UNROLL_HOME.",
    )(function)


class OnDemand(UserDict[str, click.Command]):
    """Verbs by their names, each imported when it is asked for: naming one costs importing one."""

    def __init__(self, places: Mapping[str, str]) -> None:
        super().__init__()
        #: Name of a verb -> the module of `jobs.verbs` that holds it.
        self._places = dict(places)

    def __getitem__(self, name: str) -> click.Command:
        """Return the verb. Raise KeyError."""
        if name not in self.data and name in self._places:
            self.data[name] = getattr(import_module(f"jobs.verbs.{self._places[name]}"), name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self.data

    def __iter__(self) -> Iterator[str]:
        return iter({**self._places, **self.data})

    def __len__(self) -> int:
        return len({**self._places, **self.data})


class Verbs(click.Group):
    """A group that knows what a misspelt verb may have meant, and keeps the verbs' order."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb. Raise UsageError with the nearest one."""
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            raise click.UsageError(f"no verb {name!r}{did_you_mean(name, self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order of a job's life."""
        return list(self.commands)


class Number(click.FloatRange):
    """A number in a range; what is not one ("nan") is in none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number. Raise click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


#: The argument of verbs about one job.
job_id = click.argument("id", metavar="ID")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: records as objects, what is no number as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {each.name: plain(getattr(value, each.name)) for each in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(map(plain, value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """Print a value as one line of JSON; what would act on a terminal is escaped."""
    click.echo(escaped(json.dumps(plain(value), ensure_ascii=False, allow_nan=False)))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns, as wide as they must be; never cut, so that ids can be copied."""
    from rich.cells import cell_len  # noqa: PLC0415 - only tables need it

    cells = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:  # letters of some scripts take two places, and some marks none
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())
