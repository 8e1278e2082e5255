"""Trainings that are killed again and again, at any moment, are those that were never killed.

Real guards, ranks forked from a real parent, and SIGKILL. Losses, scores, weights, the state of the
optimiser and of every generator, what early stopping and the choice of the best model remember, and
the hidden state of a stream are compared to the last bit.
"""

import json
import os
import random
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lightning_modules
from jobs.job import Reason
from jobs.spec import spec_from_dict
from tests.doubles.parents import wait_until_ready
from tests.doubles.waiting import guard_of
from tests.integration.test_runner_resume import assert_equal, points_of
from worker import guard
from worker.events import CheckpointEvent, EndEvent, Event, EventReader, MetricEvent
from worker.folder import Attempt, AttemptFolder
from worker.parent import PreloadedParent
from worker.process import Handback, Launcher
from worker.runner.resume import Saved

#: Seconds for an attempt of a few steps, on a busy machine.
PATIENCE = 120.0
#: More would be a training that never comes on.
MOST_ATTEMPTS = 60

TEXTS = {"name": "parallel_text", "root": "corpus", "source": "fw", "target": "bw"}
LETTERS = {"name": "labelled_text", "root": "letters", "layout": "classes", "tokens": "characters"}
#: A kind of data for each topology, and what makes the training draw numbers and keep states.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention_encoder_decoder": (
        {"hidden_size": 12, "embedding_size": 8, "layers": 2, "recurrent_dropout": 0.3},
        {**TEXTS, "tokens": "characters"},
    ),
    "encoder_decoder": (
        {"hidden_size": 12, "embedding_size": 8, "scheduled_sampling": 1.0},
        {**TEXTS, "tokens": "characters"},
    ),
    "language_model": (
        {"hidden_size": 10, "dropout": 0.3},
        {"name": "char_text", "root": "text", "bptt": 8},
    ),
    "many_to_many": (
        {"hidden_size": 8, "dropout": 0.3},
        {"name": "feature_frames", "root": "waves", "target": "tags"},
    ),
    "many_to_one": ({"hidden_size": 12, "symbol_dropout": 0.2, "dropout": 0.3}, LETTERS),
    "one_to_many": (
        {"hidden_size": 12, "dropout": 0.3},
        {**LETTERS, "direction": "label_to_text"},
    ),
    "single_layer": ({}, LETTERS),
}
TRAINER = {
    "max_epochs": 3,
    "batch_tokens": 60,
    "log_every": 2,
    "patience": 3,
    "precision": "fp32",
    "warmup_steps": 4,
}


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    parent = PreloadedParent()
    wait_until_ready(parent, PATIENCE)
    yield Launcher(parent=parent)
    parent.close()


@pytest.fixture(scope="module")
def root(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with something for each kind of data."""
    root, chance = tmp_path_factory.mktemp("root"), random.Random(7)
    shutil.copytree(data_root / "corpus", root / "corpus")
    for name in ("text", "letters", "waves"):
        (root / name).mkdir()
    (root / "text" / "input.txt").write_text("".join(chance.choices("abcd \n", k=900)))
    for name, letters in (("low", "abcd"), ("high", "wxyz")):
        words = ["".join(chance.choices(letters, k=chance.randint(2, 7))) for _ in range(60)]
        (root / "letters" / f"{name}.txt").write_text("".join(f"{word}\n" for word in words))
    for split, count in (("train", 60), ("val", 12), ("test", 12)):
        rows = []
        for row in range(count):
            up = np.array(chance.choices([-1.0, 1.0], k=chance.randint(1, 6)))
            np.save(root / "waves" / f"{split}-{row}.npy", np.stack([up, np.cumsum(up)], axis=1))
            labels = ["up" if each > 0 else "down" for each in up]
            rows.append(json.dumps({"path": f"{split}-{row}.npy", "labels": labels}))
        (root / "waves" / f"{split}.jsonl").write_text("\n".join(rows))
    return root


@dataclass
class Bench:
    """Run attempts of one spec."""

    path: Path
    root: Path
    launcher: Launcher
    spec: dict[str, Any]
    ranks: int

    def lay(self, name: str, checkpoint: Path | None) -> AttemptFolder:
        folder = AttemptFolder(self.path / name)
        attempt = Attempt(
            *("job", 1, (str(self.root),), str(self.path / "cache")),
            world_size=self.ranks,
            checkpoint=str(checkpoint) if checkpoint else None,
        )
        folder.lay(spec_from_dict(self.spec), attempt)
        return folder

    def run(
        self, name: str, checkpoint: Path | None = None, kill: Callable[[Event], bool] | None = None
    ) -> AttemptFolder:
        """Run an attempt to its end, or kill one of its ranks at the first event that says so."""
        folder = self.lay(name, checkpoint)
        running = self.launcher.start(
            folder, folder.read_attempt(), grace=PATIENCE, handback=Handback()
        )
        try:
            reader = EventReader(folder.events_file)
            while kill and running.wait(0.001) is None:
                if sum(map(kill, reader.read())):
                    ranks = guard.descendants(guard_of(running))
                    os.kill(random.choice(ranks or [running.pid]), signal.SIGKILL)
                    break
            assert running.wait(PATIENCE) is not None
        finally:
            running.close(done=True)
        return folder


def events_of(folder: AttemptFolder) -> list[Event]:
    return list(EventReader(folder.events_file).read())


def newest_of(folder: AttemptFolder) -> Path | None:
    told = [each for each in events_of(folder) if isinstance(each, CheckpointEvent)]
    return folder.checkpoints / told[-1].file if told else None


def succeeded(folder: AttemptFolder) -> dict[str, Any] | None:
    *_, last = [None, *events_of(folder)]
    if not isinstance(last, EndEvent) or last.reason is not Reason.SUCCEEDED:
        return None
    return dict(last.result)


def after_steps(count: int) -> Callable[[Event], bool]:
    """Return what says to kill at a point that comes so many points after the first."""
    points = 0

    def reached(event: Event) -> bool:
        nonlocal points
        points += isinstance(event, MetricEvent) and event.name == "train/loss"
        return points >= count

    return reached


def train_through_kills(bench: Bench, chance: random.Random) -> tuple[list[AttemptFolder], int]:
    """Return the attempts of a training that was killed as often as it could be."""
    parts: list[AttemptFolder] = []
    checkpoint, kills = None, 0
    while not parts or succeeded(parts[-1]) is None:
        assert len(parts) < MOST_ATTEMPTS
        kill = after_steps(chance.randint(1, 8))
        parts.append(bench.run(f"part-{len(parts)}", checkpoint, kill))
        kills += succeeded(parts[-1]) is None
        checkpoint = newest_of(parts[-1]) or checkpoint
    return parts, kills


@pytest.mark.parametrize(
    ("name", "ranks"),
    [(name, ranks) for ranks in (1, 2) for name in CASES],
)
def test_a_training_through_kills_is_the_one_that_was_never_killed(
    tmp_path: Path, root: Path, launcher: Launcher, name: str, ranks: int
) -> None:
    model, data = CASES[name]
    spec = {
        "model": {"name": name, **model},
        "data": data,
        "trainer": TRAINER,
        "policy": {"checkpoint_steps": 3},
    }
    bench = Bench(tmp_path, root, launcher, spec, ranks)
    whole = bench.run("whole")
    result = succeeded(whole)
    assert result, whole.log_file.read_text()
    chance = random.Random(zlib.crc32(f"{name} {ranks}".encode()))
    parts, kills = train_through_kills(bench, chance)
    assert kills, "it was over before it could be killed"
    together: dict[tuple[str, int], tuple[float, int]] = {}
    for part in parts:
        for key, point in points_of(part).items():
            assert together.setdefault(key, point) == point, f"{key} was repeated otherwise"
    assert together == points_of(whole)
    assert succeeded(parts[-1]) == result
    last = next(found for part in reversed(parts) if (found := newest_of(part)))
    expected = newest_of(whole)
    assert expected is not None
    assert_equal(Saved.read(last).to_dict(), Saved.read(expected).to_dict())


def test_every_topology_is_killed() -> None:
    folder = Path(next(iter(lightning_modules.__path__)))
    public = {file.stem for file in folder.glob("[a-z]*.py")}
    assert public == CASES.keys()
