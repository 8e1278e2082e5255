"""Verbs that use a trained model: evaluate, predict, generate, demo."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from jobs.client import Client
from jobs.errors import ArtifactError, NotAllowed, SpecError, UnrollError, WaitTimeout
from jobs.files import GENERATED_FILE, attention_files
from jobs.handle import Hypothesis, JobHandle
from jobs.spec import AnySpec
from jobs.specfile import apply_overrides
from jobs.verbs.common import common, job_id, print_json
from jobs.verbs.results import print_result
from jobs.verbs.searching import search_options, searching
from jobs.wording import printable

#: Seconds that a verb waits for a job before it says what for.
_SILENCE: Final = 5.0


class Asking(Client):
    """A client for the length of a block; a Ctrl-C in it says which of its jobs go on."""

    def __init__(self, home: Path | None) -> None:
        super().__init__(home=home)
        self._submitted: list[JobHandle] = []

    def submit(
        self, spec: AnySpec, key: str | None = None, *, base: Path | None = None
    ) -> JobHandle:
        """Queue a job; see `Client.submit`."""
        job = super().submit(spec, key, base=base)
        self._submitted.append(job)
        return job

    def __exit__(self, kind: object = None, *rest: object) -> None:
        if kind is KeyboardInterrupt:
            with contextlib.suppress(UnrollError):
                self._say_what_goes_on()
        super().__exit__(kind, *rest)

    def _say_what_goes_on(self) -> None:
        if left := [job.id for job in self._submitted if not job.state.ended]:
            ways = " and ".join(f"`unroll cancel {each}`" for each in left)
            click.echo(
                f"interrupted; job {' and job '.join(left)} {'go' if left[1:] else 'goes'} on: "
                f"{ways} {'end them' if left[1:] else 'ends it'}",
                err=True,
            )


@click.command()
@click.argument("id", metavar="ID|MODEL[@VERSION]")
@click.argument("overrides", metavar="[data.key=value ...]", nargs=-1)
@click.option("--split", default="test", help="By default `test`.")
@click.option("--expect-digest", metavar="HEX", default="", help="Refuse another test set.")
@click.option(
    "--resamples",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Of the bootstrap that gives intervals; 0 for none.",
)
@searching
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
    """Score a job's or a named model: BLEU, chrF, accuracy, loss, with 95 % intervals."""
    data, search = data_of(overrides), search_options(options)
    with Asking(home) as client:
        evaluation = client.models.trained(id).evaluate(
            data,
            split=options["split"],
            search=search,
            wait=False,
            expect_digest=options["expect_digest"],
            resamples=options["resamples"],
        )
        if no_wait:
            print_json({"id": evaluation.id}) if as_json else click.echo(evaluation.id)
            return
        say_if_it_takes_long(evaluation)
        values = evaluation.result().values
    if as_json:
        print_json({"id": evaluation.id, **values})
        return
    print_result(values)


def say_if_it_takes_long(job: JobHandle) -> None:
    """Wait for a moment; then say what for."""
    # Who waits behind a long training should neither wonder nor lose the id.
    try:
        job.wait(_SILENCE)
    except WaitTimeout:
        click.echo(printable(f"waiting for job {job.id}: {job.why()}"), err=True)


def data_of(overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return the data's parameters that are overridden. Raise SpecError for other overrides."""
    for each in overrides:
        if not each.strip().startswith("data."):
            raise SpecError(f"evaluate takes data.key=value, not {each!r}; see `unroll clone`")
    return dict(apply_overrides({"data": {}}, overrides)["data"])


@click.command()
@job_id
@searching
@click.option(
    "--n-best",
    type=click.IntRange(1, 100),
    help="Answers to each line, the best first; the beam is at least as wide.",
)
@click.option(
    "--attention",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write what each line looked at: a picture and its numbers.",
)
@common
def predict(
    id: str,  # noqa: A002 - click names it
    attention: Path | None,
    n_best: int | None,
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a model on lines of standard input; ID may be NAME, NAME@3 or NAME@challenger.

    Each gives a line on standard output, in the same order: text, a label, or tags. With --n-best
    each gives so many lines: its number, a score and the text, with tabs between them. Output
    begins before all of a long input is read.
    """
    search = search_options(options, n_best=n_best or 1)
    with Client(home=home) as client:
        job = client.models.trained(id)
        _check_folder(attention)
        chunks = job.predictions_of(_read_lines(), search=search, attention=attention is not None)
        with contextlib.closing(chunks):
            for chunk in chunks:
                if not chunk.first:
                    say_if_it_takes_long(chunk.job)
                chunk.job.result()
                answers = chunk.job.predictions()
                for number, found in enumerate(answers, start=chunk.first + 1):
                    _print_answers(number, found, many=n_best is not None, as_json=as_json)
                sys.stdout.flush()
                if attention:
                    rows = range(chunk.first, chunk.first + len(answers))
                    _fetch_attention(chunk.job, rows, attention)


def _print_answers(number: int, found: Sequence[Hypothesis], *, many: bool, as_json: bool) -> None:
    if as_json:
        plain = [each.to_dict() for each in found]
        print_json(plain if many else plain[0])
        return
    for each in found if many else found[:1]:
        text = printable(" ".join(each.text.splitlines()))
        click.echo(f"{number}\t{each.score:.4f}\t{text}" if many else text)


@click.command()
@job_id
@click.option("--prompt", default="", help="What the text begins with; a path, of frames.")
@click.option("--length", default=500, show_default=True, help="Symbols or frames to write.")
@click.option("--temperature", default=1.0, show_default=True, help="Below 1, fewer surprises.")
@click.option("--top-k", default=0, help="Draw from so many of the likeliest alone; 0 for all.")
@click.option("--top-p", default=1.0, help="Draw from the likeliest with this share together.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same text.")
@click.option(
    "--frames",
    metavar="NPY",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what a model of frames writes to this file, too.",
)
@common
def generate(
    id: str,  # noqa: A002 - click names it
    prompt: str,
    frames: Path | None,
    home: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a job's language model write on from a prompt.

    A model of text prints the prompt and what follows it. One of frames prints a line for each
    new frame, its features with blanks between; its prompt is the path of a file of frames, as a
    line of `predict` is.
    """
    with (
        Client(home=home) as client,
        client.models.trained(id).generating(prompt, **options) as generation,
    ):
        say_if_it_takes_long(generation)
        generation.result()
        ((answer,),) = generation.predictions()
        if frames:
            _fetch_frames(generation, answer, frames)
    if as_json:
        print_json({"prompt": prompt, **answer.to_dict()})
    else:
        click.echo("\n".join(map(printable, answer.text.split("\n"))))


def _fetch_frames(generation: JobHandle, answer: Hypothesis, file: Path) -> None:
    if "frames" not in answer.values:
        raise SpecError("this model writes text and no frames: leave out --frames")
    _write(file, generation.read_file(GENERATED_FILE))


def _read_lines() -> Iterator[str]:
    if sys.stdin.isatty():
        click.echo("reading lines; Ctrl-D ends them", err=True)
    return decoded(sys.stdin.buffer)


def decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of UTF-8 text. Raise SpecError naming the line that is none."""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpecError(f"line {number} of the input is not UTF-8: {error.reason}") from None


def _check_folder(folder: Path | None) -> None:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAllowed(f"cannot write to {folder}: {error.strerror}") from None


def _fetch_attention(prediction: JobHandle, rows: Iterable[int], folder: Path) -> None:
    left = [name for name in prediction.files() if name.startswith("attention-")]
    if not left:
        raise ArtifactError("the worker left no attention: see its log")
    for row in rows:
        for name in attention_files(row):
            if name not in left:
                raise ArtifactError(
                    f"the attention of line {row + 1} is too large to be carried: leave out the "
                    "line, or --attention"
                )
            _write(folder / name, prediction.read_file(name))


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise NotAllowed(f"cannot write to {file}: {error.strerror}") from None


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
