"""Retrain on a corpus that grows, by a schedule and through a worker: `make bench-generations`.

The training set grows by a fifth at a time; the schedule notices it (`on_data`), trains from
scratch, evaluates beside the champion on the frozen test set and on val, compares, and decides.
Printed as Markdown: a row for each generation, and what stands in the model's audit trail.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from jobs import Client, Component, TrainerOptions, TrainSpec
from jobs.schedules import Generation, Stage
from jobs.scheduling import ScheduleHandle

FIFTHS: Final = 5
_SIDES: Final = ("de", "en")
_LOOK: Final = 2.0
_NAME, _MODEL = "growing", "de-en"

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the five generations and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds multi30k/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="unroll-generations-") as folder:
        home = Path(folder)
        corpus = Corpus(given.data / "multi30k", home / "data" / "corpus")
        corpus.grow(1)
        os.environ["UNROLL_DATA_ROOTS"] = str(home / "data")
        with Client.embedded(home=home) as client:
            rows = list(generations(client, corpus, spec_of(given, corpus)))
            print("\n".join([*table(rows), "", *trail(client)]))  # noqa: T201 - what it is for


class Corpus:
    """A parallel corpus of which more and more is there."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self.folder = source, folder
        folder.mkdir(parents=True)
        for split in ("val", "test_2016_flickr"):
            for side in _SIDES:
                name = f"{split}.{side}"
                (folder / name).write_bytes((source / name).read_bytes())

    def grow(self, fifths: int) -> int:
        """Let so many fifths of the training set be there; return how many sentences that is."""
        count = 0
        for side in _SIDES:
            lines = (self._source / f"train.{side}").read_text(encoding="utf-8").splitlines(True)
            count = len(lines) * fifths // FIFTHS
            (self.folder / f"train.{side}").write_text("".join(lines[:count]), encoding="utf-8")
        return count


def spec_of(given: argparse.Namespace, corpus: Corpus) -> TrainSpec:
    """Return the training of each generation."""
    return TrainSpec(
        model=Component("attention_encoder_decoder", {"hidden_size": given.hidden_size}),
        data=Component(
            "parallel_text",
            {
                "root": str(corpus.folder),
                "source": "de",
                "target": "en",
                "test": "test_2016_flickr",
                "lowercase": True,
            },
        ),
        trainer=TrainerOptions(max_epochs=given.epochs),
        seed=given.seed,
    )


def generations(
    client: Client, corpus: Corpus, spec: TrainSpec
) -> Iterator[tuple[int, Generation, dict[str, Any]]]:
    """Yield, for each fifth, the sentences, the generation, and its evaluation's result."""
    schedule = client.schedule(
        _NAME, spec, model=_MODEL, promote_if="bleu", on_data=True, spacing=0, slices=["val"]
    )
    schedule.run_now()  # the first fifth is not new to the schedule, only what comes after it
    for fifths in range(1, FIFTHS + 1):
        count = corpus.grow(fifths)
        with timed(f"generation {fifths} of {count:,} sentences"):
            generation = decided(schedule, fifths)
        evaluation = client.get(generation.evaluations["test"]["challenger"]).record
        yield count, generation, dict(evaluation.result)


def decided(schedule: ScheduleHandle, number: int) -> Generation:
    """Return the nth generation once it is decided."""
    while True:
        history = schedule.history()
        if len(history) >= number and history[number - 1].stage is Stage.DECIDED:
            return history[number - 1]
        time.sleep(_LOOK)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a block took."""
    began = time.monotonic()
    yield
    logger.info("%s: %.0f s", what, time.monotonic() - began)


def table(rows: Sequence[tuple[int, Generation, dict[str, Any]]]) -> list[str]:
    """Return a row for each generation, as Markdown."""
    titles = ("generation", "trained on", "begun by", "BLEU, 95 %", "against the champion, 95 %")
    titles += ("p", "on val", "outcome", "champion")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    champion = None
    for number, (count, generation, result) in enumerate(rows, start=1):
        test, val = generation.evidence["test"], generation.evidence["val"]
        low, high = result["intervals"]["test/bleu"]
        champion = generation.version if generation.outcome == "promoted" else champion
        cells = [
            *(str(number), f"{count:,}", generation.trigger),
            f"{test['challenger']:.2f} [{low:.2f}, {high:.2f}]",
            *(_difference(test), f"{test['p']:.3f}" if "p" in test else "-", _difference(val)),
            *(str(generation.outcome), f"version {champion}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference(found: dict[str, Any]) -> str:
    if "difference" not in found:
        return "-"
    return f"{found['difference']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def trail(client: Client) -> list[str]:
    """Return what was done with the model, as Markdown."""
    return [
        *("| version | what | by | why |", "|---|---|---|---|"),
        *(
            f"| {event.version} | {event.action} | {event.by} | {event.reason} |"
            for event in client.models[_MODEL].history()
        ),
    ]


if __name__ == "__main__":
    main()
