"""`make bench-precision`: whether bfloat16 costs BLEU. Multi30k in both precisions, over two seeds.

The spec of the results' row is trained with fewer epochs of the same schedule, one thread, by a
service with a home of its own. Each training has a key made of its spec, and so has its evaluation:
however often this is called and wherever it was stopped, each runs once. Compared are the outputs
for the validation split, greedily searched; test is not looked at, since a choice of precision is
a choice like any other.

Shapes: n sentences, R resamples, P the parts of BLEU (matches and n-grams of each order, lengths).
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import click
import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from jobs import Client, EvaluateSpec, JobHandle, SetupError, UnrollError
from tests.benchmarks.results import ROOT, Places
from tests.benchmarks.rows import Row as Rows
from tests.benchmarks.speed._measure import Row
from tests.benchmarks.speed._table import OUTPUT, line_of
from worker.runner.precision import Choice

PRECISIONS: Final = tuple(each for each in get_args(Choice) if each != "auto")
_SEEDS: Final = (1, 2)
_RESAMPLES: Final = 1000
#: Share of the resamples that lie in the interval.
_LEVEL: Final = 0.95
#: Evaluations go before trainings that wait.
_SOON: Final = 10
#: Seconds that the worker may need until it has said what it can build.
_READY: Final = 120.0

Lines = Sequence[str]
Array = NDArray[np.float64]


def parts(outputs: Lines, references: Lines) -> Array:
    """Return what BLEU adds up over sentences, (n, P)."""
    bleu = BLEU(effective_order=True)  # else it warns; the parts are the same
    scores = [
        bleu.sentence_score(output, [reference])
        for output, reference in zip(outputs, references, strict=True)
    ]
    rows = [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in scores]
    return np.array(rows, dtype=np.float64)


def score(summed: Array) -> float:
    """Return BLEU of the sums of parts, (P,)."""
    *grams, outputs, references = summed.astype(int).tolist()
    half = len(grams) // 2
    correct, total = grams[:half], grams[half:]
    return float(BLEU.compute_bleu(correct, total, outputs, references).score)


def interval(ours: Sequence[Array], theirs: Sequence[Array]) -> tuple[float, float, float]:
    """Return the mean difference of BLEU over pairs of systems, and the ends of its interval.

    The bootstrap is paired: every resample takes the same sentences of all systems (Koehn 2004,
    "Statistical significance tests for machine translation evaluation").
    """

    def difference(rows: Array | slice) -> float:
        pairs = zip(ours, theirs, strict=True)
        return float(np.mean([score(a[rows].sum(0)) - score(b[rows].sum(0)) for a, b in pairs]))

    sentences = len(ours[0])
    drawn = np.random.default_rng(0).integers(sentences, size=(_RESAMPLES, sentences))
    low, high = np.quantile(
        [difference(rows) for rows in drawn], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    )
    return difference(slice(None)), float(low), float(high)


def p_value(ours: Lines, theirs: Lines, references: Lines) -> float:
    """Return how likely so large a difference is between equal systems, by sacrebleu's test."""
    systems = [("theirs", theirs), ("ours", ours)]
    test = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", n_samples=_RESAMPLES)
    return float(test()[1]["BLEU"][1].p_value)


def compare(
    outputs: Mapping[tuple[str, int], Lines], references: Lines, seeds: Sequence[int] = _SEEDS
) -> Iterator[Row]:
    """Yield a row for each seed, and one for their mean; outputs are by precision and seed."""
    counted = {each: parts(lines, references) for each, lines in outputs.items()}
    for some in (*((seed,) for seed in seeds), tuple(seeds)):
        narrow, wide = ([counted[name, seed] for seed in some] for name in PRECISIONS)
        change, low, high = interval(narrow, wide)
        joined = ([line for seed in some for line in outputs[name, seed]] for name in PRECISIONS)
        chance = p_value(*joined, [*references] * len(some))
        scores = (float(np.mean([score(each.sum(0)) for each in all_])) for all_ in (narrow, wide))
        yield Row(
            name=f"validation BLEU, bf16 - fp32 = {change:+.2f} [{low:+.2f}, {high:+.2f}], "
            f"p = {chance:.2f}",
            size=f"seed {', '.join(map(str, some))}",
            figure=next(scores),
            unit="BLEU",
            against=next(scores),
            against_name="fp32",
            goal="0 within the interval, or bf16 better",
        )


class Trainings:
    """Train and evaluate in both precisions, as far as it is not done."""

    def __init__(self, client: Client, data: Path, epochs: int) -> None:
        self._client, self._data, self._epochs = client, data, epochs

    def outputs(self) -> tuple[dict[tuple[str, int], Lines], Lines]:
        """Return the outputs by precision and seed, and the references. Raise UnrollError."""
        jobs = {(name, seed): self._train(name, seed) for seed in _SEEDS for name in PRECISIONS}
        read = {each: self._evaluated(*each, job) for each, job in jobs.items()}
        found = {each: _lines(job, "hypotheses.txt") for each, job in read.items()}
        return found, _lines(next(iter(read.values())), "references.txt")

    def _train(self, precision: str, seed: int) -> tuple[str, JobHandle]:
        row = Rows(
            name=f"precision {precision}",
            title="",
            spec="multi30k-attention.toml",
            set=(
                f"trainer.precision={precision}",
                f"trainer.max_epochs={self._epochs}",
                "resources.threads=1",
            ),
            seeds=(seed,),
            metrics=(),
        )
        (training,) = row.trainings(Places(ROOT).specs)
        return training.key, self._client.submit(training.on(self._data), key=training.key)

    def _evaluated(self, precision: str, seed: int, trained: tuple[str, JobHandle]) -> JobHandle:
        key, job = trained
        result = job.result()  # waits; raises where it failed
        click.echo(f"{precision}, seed {seed}: {result.values['val/bleu']:.2f} validation BLEU")
        spec = EvaluateSpec(job=job.id, split="val", priority=_SOON)
        evaluation = self._client.submit(spec, key=f"{key}-val")
        evaluation.result()
        return evaluation


def _lines(job: JobHandle, name: str) -> Lines:
    return job.read_file(name).decode().splitlines()


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / ".results" / "precision")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
def main(data: Path, out: Path, epochs: int) -> None:
    """Train in both precisions, and compare what came of it."""
    data = data.absolute()
    os.environ["UNROLL_DATA_ROOTS"] = str(data)  # of the worker that is started here
    try:
        with (
            Client.embedded(slots=1, home=out) as client,
            OUTPUT.open("a", encoding="utf-8") as file,
        ):
            if client.catalog(timeout=_READY) is None:
                raise SetupError(f"the worker did not get ready; see {out / 'worker.log'}")
            for row in compare(*Trainings(client, data, epochs).outputs()):
                file.write(json.dumps(line_of("precision", row)) + "\n")
                click.echo(f"{row.size}: {row.figure:.2f}, fp32 {row.against:.2f}; {row.name}")
    except KeyboardInterrupt:
        raise click.ClickException("stopped; the same command goes on from here") from None
    except UnrollError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
