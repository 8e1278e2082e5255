"""The options of verbs whose model writes text: how it is searched for, or drawn."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from jobs.spec import SearchOptions
from jobs.verbs.common import Number

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final[Mapping[str, tuple[Any, str]]] = {
    "beam": (click.IntRange(1, 100), "Width; 1 is greedy."),
    "length_normalisation": (Number(min=0), "Above 0, longer outputs lose less."),
    "coverage_penalty": (Number(min=0), "What input that was not looked at costs."),
    "min_length": (click.IntRange(min=0), "Symbols of the shortest output."),
    "max_length": (click.IntRange(min=1), "Symbols of the longest output."),
    "no_repeat_ngram": (click.IntRange(min=0), "Let no sequence of so many symbols come twice."),
    "temperature": (Number(min=0, min_open=True), "Of samples; below 1 they vary less."),
    "top_k": (click.IntRange(min=1), "Sample from so many most probable symbols."),
    "top_p": (Number(0, 1, min_open=True), "Sample from so much probability."),
    "seed": (click.IntRange(min=0, max=2**32 - 1), "Of the samples."),
}


def searching(function: F) -> F:
    """Add the options of a search; `search_options` takes them out again."""
    flag = click.option("--sample", is_flag=True, help="Draw symbols instead of searching.")
    function = flag(function)
    for name, (kind, meaning) in reversed(list(_OPTIONS.items())):
        function = click.option(f"--{name.replace('_', '-')}", type=kind, help=meaning)(function)
    return function


def search_options(options: dict[str, Any], *, n_best: int = 1) -> SearchOptions:
    """Take the options of a search out of a verb's, and return them. Raise SpecError.

    A beam is at least as wide as the number of outputs asked for.
    """
    given = {name: options.pop(name) for name in _OPTIONS}
    chosen = {name: value for name, value in given.items() if value is not None}
    if n_best > 1 and not options["sample"]:
        chosen["beam"] = max(n_best, chosen.get("beam", 1))
    return SearchOptions(sample=options.pop("sample"), n_best=n_best, **chosen)
