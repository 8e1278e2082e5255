"""Verbs that use a trained model: evaluate, predict, demo."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from jobs.client import Client
from jobs.errors import ArtifactError, NotAllowed, SpecError
from jobs.handle import JobHandle
from jobs.spec import SearchOptions
from jobs.specfile import apply_overrides
from jobs.verbs.common import common, job_id, print_json, printable


@click.command()
@job_id
@click.argument("overrides", metavar="[data.key=value ...]", nargs=-1)
@click.option("--split", default="test", help="By default `test`.")
@click.option("--beam", type=click.IntRange(1, 100), default=1, help="Width; 1 is greedy.")
@click.option("--no-wait", is_flag=True, help="Only queue it and print its id.")
@common
def evaluate(
    id: str,  # noqa: A002 - click names it
    overrides: Sequence[str],
    no_wait: bool,
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a job's model: BLEU, chrF, accuracy, loss."""
    data = _data(overrides)
    with Client(home=home) as client:
        evaluation = client.get(id).evaluate(
            data, split=options["split"], search=SearchOptions(beam=options["beam"]), wait=False
        )
        if no_wait:
            print_json({"id": evaluation.id}) if as_json else click.echo(evaluation.id)
            return
        values = evaluation.result().values
    if as_json:
        print_json({"id": evaluation.id, **values})
        return
    for name, value in sorted(values.items()):
        shown = f"{value:.4f}" if isinstance(value, float) else printable(str(value))
        click.echo(f"{name:24}{shown}")


def _data(overrides: Sequence[str]) -> Mapping[str, Any]:
    for each in overrides:
        if not each.strip().startswith("data."):
            raise SpecError(f"evaluate takes data.key=value, not {each!r}; see `unroll clone`")
    return dict(apply_overrides({"data": {}}, overrides)["data"])


@click.command()
@job_id
@click.option("--beam", type=click.IntRange(1, 100), default=1, help="Width; 1 is greedy.")
@click.option(
    "--attention",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write what each line looked at: a picture and its numbers.",
)
@common
def predict(id: str, beam: int, attention: Path | None, home: Path | None, as_json: bool) -> None:  # noqa: A002 - click names it
    """Run a job's model on lines of standard input.

    Each gives a line on standard output, in the same order: text, a label, or tags.
    """
    with Client(home=home) as client:
        job = client.get(id)
        lines = _read_lines()
        if not lines:
            return
        _check_folder(attention)
        search = SearchOptions(beam=beam)
        with job.predicting(lines, search=search, attention=attention is not None) as prediction:
            prediction.result()
            answers = prediction.predictions()
            if attention:
                _fetch_attention(prediction, attention)
    for answer in answers:
        if as_json:
            print_json(answer[0].to_dict())
        else:
            click.echo(" ".join(answer[0].text.splitlines()))


def _read_lines() -> list[str]:
    if sys.stdin.isatty():
        click.echo("reading lines; Ctrl-D ends them", err=True)
    return list(decoded(sys.stdin.buffer.read()))


def decoded(content: bytes) -> Iterator[str]:
    """Yield the lines of UTF-8 text. Raise SpecError naming the line that is none."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            yield line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpecError(f"line {number} of the input is not UTF-8: {error.reason}") from None


def _check_folder(folder: Path | None) -> None:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAllowed(f"cannot write to {folder}: {error.strerror}") from None


def _fetch_attention(prediction: JobHandle, folder: Path) -> None:
    names = [name for name in prediction.files() if name.startswith("attention-")]
    if not names:
        raise ArtifactError("the worker left no attention: see its log")
    for name in names:
        (folder / Path(name).name).write_bytes(prediction.read_file(name))


@click.command()
@click.option(
    "--attention",
    metavar="PNG",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("attention.png"),
    help="Where the picture goes; by default ./attention.png.",
)
@common
def demo(attention: Path, home: Path | None, as_json: bool) -> int:
    """Train a model that reads dates, and show it working.

    It runs on a service that is started for it and stopped afterwards.
    """
    from jobs.demo import run  # noqa: PLC0415 - imports rich

    return run(attention, home=home, as_json=as_json)
