"""Verbs that set models against each other: compare, leaderboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from jobs.client import Client
from jobs.comparisons import Comparison
from jobs.leaderboard import Group, Leaderboard
from jobs.spec import SearchOptions
from jobs.verbs.common import common, print_json, print_table
from jobs.verbs.searching import search_options, searching
from jobs.verbs.using import Asking, data_of, say_if_it_takes_long
from jobs.wording import one_line, printable

_METHODS: Final = ("bootstrap", "approximate_randomisation", "mcnemar")
#: Characters of a text that an example shows.
_SHOWN: Final = 100


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.argument("overrides", metavar="[data.key=value ...]", nargs=-1)
@click.option("--metric", default="", help="By default what the models were chosen by.")
@click.option("--method", type=click.Choice(_METHODS), default="bootstrap", show_default=True)
@click.option("--resamples", type=click.IntRange(1, 100_000), help="How often rows are drawn.")
@click.option("--across", type=click.Choice(["decoding"]), help="What may differ.")
@click.option("--slice", metavar="ROWS", default="", help="Only rows: length<10, label=sports.")
@click.option("--examples", default=3, help="Rows to show, those that changed most; 0 for none.")
@click.option("--split", help="By default `test`.")
@searching
@common
def compare(
    first: str,
    second: str,
    overrides: Sequence[str],
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say whether B is better than A on one test set, or chance.

    A and B are evaluations, trainings, or models: NAME, NAME@3, NAME@challenger. What was not
    evaluated alike is evaluated first.
    """
    data, search = data_of(overrides), search_options(options)
    chosen = {name: options[name] for name in ("metric", "method", "slice", "examples")}
    if options["resamples"]:
        chosen["resamples"] = options["resamples"]
    if options["across"]:
        chosen["across"] = (options["across"],)
    with Asking(home) as client:
        found = client.compare(
            first,
            second,
            data or None,
            split=options["split"],
            search=None if search == SearchOptions() else search,
            wait=_wait,
            **chosen,
        )
    print_json(found) if as_json else _print_comparison(found)


def _wait(job: Any) -> None:
    say_if_it_takes_long(job)
    job.wait()


def _print_comparison(found: Comparison) -> None:
    click.echo(printable(found.verdict))
    for name in ("first", "second"):
        click.echo(f"{name:8}{getattr(found, name):.4f}")
    click.echo(f"evaluations {' and '.join(found.evaluations)}, comparison {found.id}")
    for example in found.examples:
        change = f"{example.first_score:.4g} -> {example.second_score:.4g}"
        click.echo(f"\nrow {example.row + 1}  {found.metric} {change}")
        texts = {
            "source": example.source,
            "reference": example.references[0] if example.references else "",
            "first": example.first,
            "second": example.second,
        }
        for name, text in texts.items():
            if text:
                click.echo(f"  {name:10}{one_line(text)[:_SHOWN]}")


@click.command()
@click.argument("dataset")
@click.option("--metric", default="", help="By default what each model was chosen by.")
@common
def leaderboard(dataset: str, metric: str, home: Path | None, as_json: bool) -> None:
    """Rank the evaluations of a dataset, those together that can be compared.

    DATASET is a kind of data, its root or the end of that, or the beginning of a split's digest.
    """
    with Client(home=home) as client:
        found = client.leaderboard(dataset, metric)
    print_json(found) if as_json else _print_board(found)


def _print_board(found: Leaderboard) -> None:
    for number, group in enumerate(found.groups):
        if number:
            click.echo(f"\nnot ranked with those above: {_why_apart(found.groups[0], group)}")
        click.echo(printable(group.title))
        headers = ["", "MODEL", group.metric.upper(), "INTERVAL", "EVALUATION"]
        print_table(headers, _lines(group))
    if found.left_out:
        click.echo()
    for job, why in found.left_out.items():
        click.echo(f"left out: {job}: {printable(why)}")


def _lines(group: Group) -> list[list[str]]:
    return [
        [
            str(place),
            each.model,
            f"{each.value:.4f}",
            f"{each.interval[0]:.4f} to {each.interval[1]:.4f}" if each.interval else "-",
            each.evaluation,
        ]
        for place, each in enumerate(group.standings, start=1)
    ]


def _why_apart(first: Group, other: Group) -> str:
    if first.metric != other.metric:
        return f"another metric ({other.metric})"
    words = {
        "split_digest": "another test set",
        "decoding": "another way of decoding",
        "signature": "another signature",
        "rows": "another number of rows",
    }
    return ", ".join(
        said
        for name, said in words.items()
        if getattr(first.common, name) != getattr(other.common, name)
    )
