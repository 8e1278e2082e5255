"""`make results` on a table of its own: every training and every reading of test happens once."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, JobState
from jobs.service.embedded import EmbeddedRedis
from tests.benchmarks.results import Places, Results, state_of
from tests.benchmarks.rows import read_rows
from tests.benchmarks.tables import BEGIN, END

SPEC = """
[model]
name = "many_to_one"
hidden_size = 6

[data]
name = "labelled_text"
root = "data/{folder}"
text = "text"
label = "label"

[trainer]
max_epochs = {epochs}
batch_tokens = 60
precision = "fp32"

[policy]
checkpoint_steps = 20
"""
#: Enough that a training is seen running: the driver looks once a second.
EPOCHS = 60
ROWS = """
[letters]
title = "which letter comes first"
spec = "letters.toml"
seeds = [1, 2]
metrics = [
    { name = "test/accuracy", show = "{:.1%} right", mark = 0.0 },
    { name = "test/loss", show = "{:.3f} nats", mark = 0.0, better = "less" },
]
published = "all right (a person)"

[letters-single_layer]
title = "without their order"
beside = "letters"
spec = "letters.toml"
set = ["model={name='single_layer'}"]
metrics = [{ name = "test/accuracy", show = "{:.1%} right" }]

[torn]
title = "whose data is missing"
spec = "torn.toml"
metrics = [{ name = "test/accuracy" }]
baseline = "guess"
"""


def write_letters(folder: Path) -> None:
    folder.mkdir(parents=True)
    chance = random.Random(4)
    for split, rows in {"train": 60, "val": 12, "test": 12}.items():
        lines = ["".join(chance.choices("abc", k=chance.randint(2, 6))) for _ in range(rows)]
        table = "".join(f"{line}\t{line[0]}\n" for line in lines)
        (folder / f"{split}.tsv").write_text(f"text\tlabel\n{table}")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Return a checkout with a table of three rows, of which one has no data."""
    places = Places(tmp_path)
    for folder in (places.specs, places.results):
        folder.mkdir(parents=True)
    for name, epochs in (("letters", EPOCHS), ("torn", 1)):
        (places.specs / f"{name}.toml").write_text(SPEC.format(folder=name, epochs=epochs))
    places.rows.write_text(ROWS)
    for file in (tmp_path / "README.md", places.results / "README.md"):
        file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_letters(tmp_path / "sets" / "letters")
    return places


class Stopped(Exception):
    """What Ctrl-C is to the test."""


def measure(
    places: Places, names: str = "", stop: Callable[[str], bool] = lambda _: False
) -> tuple[Results, list[str]]:
    """Run the driver as `make results` does; stop where a line asks for it."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if stop(line):
            raise Stopped

    baselines = {"guess": lambda folder: {"guess": {"test/accuracy": 0.25}}}
    results = Results(places, places.root / "sets", baselines=baselines, say=say)
    try:
        results.run(names.split(), home=places.root / "home", slots=2)
    except Stopped:
        said.append("stopped")
    return results, said


def jobs_of(places: Places) -> list[Any]:
    """Return the records of all jobs there ever were."""
    server = EmbeddedRedis(places.root / "home")
    server.start()
    try:
        with Client(server.url) as client:
            return client.list()
    finally:
        server.stop()


@pytest.mark.timeout(900)  # a dozen starts of a runner, each some seconds of imports
def test_each_row_is_measured_once_however_often_it_is_stopped(places: Places) -> None:
    _, said = measure(places, stop=lambda line: ": running epoch" in line)
    assert said[-1] == "stopped"
    assert state_of(places, read_rows(places.rows)["letters"]) == "open"

    results, said = measure(places)
    assert set(results.failures) == {"torn"}
    assert "torn" in results.failures["torn"]
    found = json.loads((places.results / "letters.json").read_text())
    assert set(found["seeds"]) == {"1", "2"}
    assert any(each["attempts"] > 1 for each in found["seeds"].values()), "went on, not anew"
    assert all(len(each["curves"]["val/accuracy"]) == EPOCHS for each in found["seeds"].values())
    scores = [each["evaluations"]["test"]["test/accuracy"] for each in found["seeds"].values()]
    assert found["mean"]["test/accuracy"] == pytest.approx(sum(scores) / 2)
    assert str(places.root) not in (places.results / "letters.json").read_text()
    readme = (places.root / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("| `letters`")]
    assert "single_layer: " in line
    assert "all right (a person)" in line

    # A lost file is written again from its jobs; a row that failed is tried again.
    (places.results / "letters.json").unlink()
    shutil.copytree(places.root / "sets" / "letters", places.root / "sets" / "torn")
    results, said = measure(places)
    assert not results.failures
    assert {"letters: measured", "letters-single_layer: done", "torn: measured"} <= set(said)
    assert json.loads((places.results / "letters.json").read_text())["seeds"] == found["seeds"]
    baselines = json.loads((places.results / "torn.json").read_text())["baselines"]
    assert baselines == {"guess": {"test/accuracy": 0.25}}

    jobs = jobs_of(places)
    assert all(job.state is JobState.SUCCEEDED for job in jobs)
    kinds = [job.kind for job in jobs]
    assert (kinds.count("train"), kinds.count("evaluate")) == (4, 4)
