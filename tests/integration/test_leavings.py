"""What an attempt leaves for other programs to read."""

import json
import math
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore
from jobs.files import PREDICTIONS_FILE, attention_files
from jobs.spec import MAX_CARRIED_BYTES, Component, PredictSpec, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker
from worker.events import MetricEvent
from worker.folder import AttemptFolder
from worker.leavings import Leavings


def refuse(constant: str) -> None:
    pytest.fail(f"{constant} is no JSON")


def test_the_history_is_strict_json_whatever_the_values(store: JobStore, tmp_path: Path) -> None:
    job = store.create(TrainSpec(model=Component("m"), data=Component("d"))).id
    found = store.acquire(Worker(id="w"), 60)
    assert found is not None
    values = [0.5, math.nan, math.inf, -math.inf, 1e308]
    points = [MetricEvent("train/loss", value, step, 1, 0.0) for step, value in enumerate(values)]
    store.report(found[1], points=points)
    assert [repr(point.value) for point in store.metrics(job)] == [*map(repr, values)], "kept whole"
    artifacts, folder = ArtifactStore(tmp_path / "store"), AttemptFolder(tmp_path / "attempt")
    folder.make()
    Leavings(store, artifacts, *found, folder).keep()
    lines = artifacts.path(f"jobs/{job}/metrics.jsonl").read_text().splitlines()
    read = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [each["value"] for each in read] == [0.5, None, None, None, 1e308]
    assert [each["step"] for each in read] == list(range(5))


def test_pictures_that_fill_the_room_leave_that_of_the_answers(
    store: JobStore, tmp_path: Path
) -> None:
    job = store.create(PredictSpec(job="trained", lines=["a"] * 3)).id
    found = store.acquire(Worker(id="w"), 60)
    assert found is not None
    folder = AttemptFolder(tmp_path / "attempt")
    folder.make()
    for row in range(3):
        for name in attention_files(row):
            (folder.files / name).write_bytes(bytes(MAX_CARRIED_BYTES // 4))
    (folder.files / PREDICTIONS_FILE).write_bytes(b"answers")
    Leavings(store, ArtifactStore(tmp_path / "store"), *found, folder).keep()
    assert store.read_file(job, PREDICTIONS_FILE) == b"answers"
    assert len(store.files(job)) == 4
