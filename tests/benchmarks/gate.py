"""How often the gate lets in what it should not, and what it should: `make bench-gate`.

Models are made of what real ones said to a real test set (`tests/doubles/outputs.py`); each trial
draws the test set anew and goes through the comparison and the gate as a schedule does.

    --make DIR   write the file of real outputs anew: DIR holds 1-hypotheses.txt, 2-hypotheses.txt
                 and references.txt, as two evaluations leave them
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from jobs.gate import Finding, Gate
from jobs.slicing import THIRDS, row_slice
from lightning_modules._row_scores import RowScores
from tests.doubles.outputs import FILE, Outputs, Rng
from worker.runner.resampling import paired_bootstrap

TRIALS: Final = 200
_SEED: Final = 20_260_110
Pair = tuple[RowScores, RowScores]


@dataclass(frozen=True)
class Kind:
    """One kind of trial: how champion and challenger are made."""

    name: str
    make: Callable[[Outputs, Rng], Pair]


def _alike(outputs: Outputs, rng: Rng) -> Pair:
    return outputs.pair(rng)


def _worse(outputs: Outputs, rng: Rng) -> Pair:
    champion, challenger = outputs.pair(rng)
    wanted = challenger.score() - champion.score() + 1.0
    return champion, outputs.worse(rng, challenger, wanted) if wanted > 0 else challenger


def _better(share: float) -> Callable[[Outputs, Rng], Pair]:
    return lambda outputs, rng: (outputs.pair(rng)[0], outputs.better(rng, share))


def _worse_on_long(outputs: Outputs, rng: Rng) -> Pair:
    champion, good = outputs.pair(rng)[0], outputs.better(rng, 1.0)
    rows = _by_length(good)["length=long"]
    values = good.values.copy()
    wrong = rng.choice(rows, size=len(rows) // 5, replace=False)
    values[wrong] = outputs.shuffled().values[wrong]
    return champion, RowScores("bleu", values)


ALIKE: Final = Kind("no true difference (A/A)", _alike)
WORSE: Final = Kind("a BLEU worse", _worse)
WORSE_ON_LONG: Final = Kind("better, but wrong on a fifth of the long ones", _worse_on_long)
KINDS: Final = (
    ALIKE,
    WORSE,
    *(Kind(f"better on {share:.0%} of the sentences", _better(share)) for share in (0.1, 0.2, 0.4)),
    WORSE_ON_LONG,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--make", type=Path, help="folder of two seeds' outputs and the references")
    given = parser.parse_args(arguments)
    if given.make:
        write_outputs(given.make)
    gate = Gate(metric="bleu", confidence=given.confidence)
    heads = ("challenger", "mean difference", "promoted", "rate", "with `--slice length`")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")  # noqa: T201
    for kind in KINDS:
        print(row(kind, gate, given.trials), flush=True)  # noqa: T201 - what it is for


def row(kind: Kind, gate: Gate, trials: int) -> str:
    """Return what became of the trials of a kind, as a row of a table."""
    found = run(kind, gate, trials)
    promoted = sum(promote for _, promote in found)
    mean = sum(difference for difference, _ in found) / trials
    sliced = sum(promote for _, promote in run(kind, gate, trials, thirds=True))
    rate = f"{promoted} of {trials} | {promoted / trials:.1%}"
    return f"| {kind.name} | {mean:+.2f} BLEU | {rate} | {sliced} of {trials} |"


def run(
    kind: Kind, gate: Gate, trials: int, *, resamples: int = 1000, thirds: bool = False
) -> list[tuple[float, bool]]:
    """Return of each trial the difference that was found, and whether the challenger was let in.

    With `thirds`, no third of the sentences by length may lose more than the gate allows.
    """
    outputs, rng, found = Outputs(), np.random.default_rng(_SEED), []
    for _ in range(trials):
        # The set first, then who says what: else a difference on all sentences were a true one.
        champion, challenger = kind.make(outputs.on_another_set(rng), rng)
        finding = compared(champion, challenger, gate, resamples)
        slices = _thirds(champion, challenger, gate) if thirds else {}
        found.append((finding.difference, gate.judge(finding, slices).promote))
    return found


def _thirds(champion: RowScores, challenger: RowScores, gate: Gate) -> dict[str, Finding]:
    """Return what is found on short, middle and long references; no interval is looked at."""
    return {
        name: compared(champion.of_rows(rows), challenger.of_rows(rows), gate, 1)
        for name, rows in _by_length(champion).items()
    }


def _by_length(scores: RowScores) -> dict[str, list[int]]:
    lengths = scores.values[:, 1].astype(int).tolist()  # sacrebleu's second count of a row
    names = [f"length={each}" for each in THIRDS]
    return {name: row_slice(name).rows(lengths) for name in names}


def compared(champion: RowScores, challenger: RowScores, gate: Gate, resamples: int) -> Finding:
    """Return what a comparison finds, as `worker.runner.compare` reports it."""
    found = paired_bootstrap(champion, challenger, resamples, 12345, gate.confidence)
    return Finding(
        champion=champion.score(),
        challenger=challenger.score(),
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        significant=found.is_significant(gate.confidence),
    )


def write_outputs(folder: Path) -> None:
    """Write what sacrebleu counts of two seeds' outputs, and of one's to the wrong sentences."""
    names = ("1-hypotheses", "2-hypotheses", "references")
    first, second, references = (
        (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in names
    )
    shuffled = [first[row] for row in np.random.default_rng(_SEED).permutation(len(first))]
    bleu = BLEU(lowercase=True, force=True)
    counted = [
        bleu._extract_corpus_statistics(each, [references]) for each in (first, second, shuffled)
    ]
    np.save(FILE, np.array(counted, dtype=np.uint8))


if __name__ == "__main__":
    main()
