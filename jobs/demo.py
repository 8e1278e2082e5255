"""`unroll demo`: train, on a service started for it, a model that reads dates; show it working."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from jobs.client import Client
from jobs.errors import SetupError
from jobs.handle import JobHandle
from jobs.spec import Component, SearchOptions, TrainerOptions, TrainSpec
from jobs.verbs.common import print_json
from jobs.watching import watch
from jobs.wording import duration

#: The run that is shown: a tenth of a default model, because a date is short.
SPEC: Final = TrainSpec(
    name="demo",
    model=Component("attention_encoder_decoder", {"hidden_size": 128}),
    data=Component("dates"),
    trainer=TrainerOptions(),
)
#: What the model must reach on dates that it has not seen, for the demo to succeed.
BLEU, EXACT_MATCH = 99.0, 0.98
_EXAMPLES: Final = 10
#: Seconds that the worker may need until it has said what it can build.
_READY: Final = 60.0


@dataclass(frozen=True)
class Example:
    """One held-out date: as it was written, what the model made of it, and what it is."""

    source: str
    prediction: str
    truth: str

    @property
    def right(self) -> bool:
        """Whether the model read the date."""
        return self.prediction == self.truth

    def __str__(self) -> str:
        """Return the example as a line."""
        right = "✓" if self.right else f"✗ it is {self.truth}"
        return f"  {self.source}  ->  {self.prediction}  {right}"


def run(
    attention: Path, *, home: Path | None = None, as_json: bool = False, spec: TrainSpec = SPEC
) -> int:
    """Run the demo; return 0 where the model reaches what it must, else 1."""
    _check_writable(attention)
    click.echo("starting a service of its own: Redis and one worker")
    with Client.embedded(home=home) as client:
        if client.catalog(timeout=_READY) is None:
            raise SetupError(f"the worker did not get ready; see {client.home / 'worker.log'}")
        job = client.submit(spec)
        click.echo(f"training {spec.model.name} to read dates in many languages (job {job.id})")
        ended = watch(job)
        metrics = job.result().metrics
        click.echo("evaluating on dates kept for the end, and reading ten of them")
        held_out = job.evaluate(split="test")
        held_out.result()
        examples = _read_examples(job, held_out, attention)
    seconds = ended.ended - ended.started
    _report(metrics, examples, attention, seconds)
    if as_json:
        names = ("val/bleu", "val/exact_match", "unseen/exact_match")
        summary = {name: metrics[name] for name in names}
        print_json({**summary, "attention": str(attention.absolute()), "seconds": seconds})
    return 0 if reached(metrics) else 1


def reached(metrics: Mapping[str, float]) -> bool:
    """Return whether the model reads held-out dates as well as it must."""
    return metrics["val/bleu"] >= BLEU and metrics["val/exact_match"] >= EXACT_MATCH


def _check_writable(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SetupError(f"cannot write {path}: name another file with --attention")


def _read_examples(job: JobHandle, held_out: JobHandle, picture: Path) -> list[Example]:
    sources, truths = (
        held_out.read_file(name).decode().splitlines()[:_EXAMPLES]
        for name in ("sources.txt", "references.txt")
    )
    examples: list[Example] = []
    for chunk in job.predictions_of(sources, search=SearchOptions(), attention=True):
        chunk.job.result()
        answers = [answer[0].text for answer in chunk.job.predictions()]
        examples = [*map(Example, sources, answers, truths)]
        picture.write_bytes(chunk.job.read_file(f"attention-{_shown(examples):04d}.png"))
    return examples


def _shown(examples: Sequence[Example]) -> int:
    """Return the row whose picture says most: the longest date that every font can write."""

    def telling(row: int) -> tuple[bool, bool, int]:
        source = examples[row].source
        return examples[row].right, max(source) < "\u0370", len(source)  # before Greek: Latin

    return max(range(len(examples)), key=telling)


def _report(
    metrics: Mapping[str, float], examples: Sequence[Example], picture: Path, seconds: float
) -> None:
    click.echo("\ndates that it has not seen:")
    for example in examples:
        click.echo(str(example))
    click.echo(f"\nval/bleu           {metrics['val/bleu']:.2f}  (must reach {BLEU:g})")
    click.echo(f"val/exact_match    {metrics['val/exact_match']:.4f}  (must reach {EXACT_MATCH:g})")
    click.echo(f"unseen/exact_match {metrics['unseen/exact_match']:.4f}  (a language left out)")
    click.echo(f"trained in {duration(seconds)}; what it looked at: {picture}")
    if not reached(metrics):
        click.echo("the model did not reach what it must", err=True)
