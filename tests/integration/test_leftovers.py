"""Whatever is killed, nothing of a job is left running, and the slot is free again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jobs.artifacts import ArtifactStore
from jobs.job import Job
from jobs.spec import Resources, TrainSpec
from jobs.store import JobStore
from tests.doubles.waiting import PATIENCE, eventually, is_alive
from tests.integration.test_worker import (
    Workers,
    at_step,
    endless,
    train,
    wait,
    wait_for_parent,
    workers,
)
from worker import leftovers
from worker.environment import mark_of
from worker.housekeeping import Housekeeping
from worker.settings import Settings

__all__ = ["workers"]  # a fixture


def processes_of(workers: Workers, job: Job) -> list[psutil.Process]:
    """Return every process of the job, its guard and what has left its group too."""
    found = []
    for process in workers.runners():
        with contextlib.suppress(psutil.Error, OSError):
            if job.id in process.cwd():
                found.append(process)
    return found


class Scene:
    """A running job with all that there is of it."""

    def __init__(self, workers: Workers, worker: "subprocess.Popen[bytes]", job: Job) -> None:
        self.workers = workers
        self.worker = psutil.Process(worker.pid)
        self.job = job
        self.processes = processes_of(workers, job)
        (self.guard,) = (each for each in self.processes if each.name() == "unroll-guard")
        self.ranks = [each for each in self.processes if each.ppid() == self.guard.pid]
        self.parent = next(
            (each for each in self.worker.children() if each.name() == "unroll-parent"), None
        )


KILLS: dict[str, Callable[[Scene], list[psutil.Process]]] = {
    "runner": lambda scene: scene.ranks[:1],
    "last rank": lambda scene: scene.ranks[-1:],
    "guard": lambda scene: [scene.guard],
    "worker": lambda scene: [scene.worker],
    "parent and runner": lambda scene: [scene.parent or scene.guard, scene.ranks[0]],
    "worker and guard": lambda scene: [scene.worker, scene.guard],
}


@pytest.fixture(params=[("interpreter", 1), ("fork", 2)], ids=["interpreter", "fork, two ranks"])
def scene(workers: Workers, store: JobStore, request: pytest.FixtureRequest) -> Scene:
    """Return a job whose runner has children that left its group and its session."""
    start, ranks = request.param
    worker = workers.start("first", start=start)
    if start == "fork":
        wait_for_parent(workers, worker)
    spec = endless(children=2, checkpoint_every=5)
    job = store.create(TrainSpec(**{**vars(spec), "resources": Resources(devices=ranks)}))
    wait(store, job, at_step(6))
    eventually(lambda: len(processes_of(workers, job)) == 1 + ranks + 2 * ranks)
    return Scene(workers, worker, job)


@pytest.mark.parametrize("what", KILLS)
def test_nothing_is_left_of_what_is_killed(
    workers: Workers, store: JobStore, scene: Scene, what: str
) -> None:
    for process in KILLS[what](scene):
        process.kill()
    if "worker" in what:
        workers.start("second")  # as a service manager does; it sweeps what the first one left
    eventually(lambda: not any(is_alive(each.pid) for each in scene.processes))
    again = wait(store, scene.job, lambda record: record.attempt == 2 and record.progress.step > 6)
    store.cancel(again.id)
    wait(store, again, lambda record: record.state.ended)
    assert wait(store, store.create(train()), lambda record: record.state.ended).attempt == 1
    steps = [point.step for point in store.metrics(again.id)]
    assert steps == list(range(1, len(steps) + 1)), "a point was lost or doubled"


def test_nothing_is_left_of_what_is_cancelled(
    workers: Workers, store: JobStore, scene: Scene
) -> None:
    store.cancel(scene.job.id)
    wait(store, scene.job, lambda record: record.state.ended)
    eventually(lambda: not any(is_alive(each.pid) for each in scene.processes))
    assert wait(store, store.create(train()), lambda record: record.state.ended).attempt == 1


SLEEPER = """
import os, pathlib, time
pathlib.Path('/proc/self/comm').write_text(os.environ.get('CALLED', 'stray'))
print('', flush=True)
time.sleep(600)
"""


@pytest.fixture
def stray(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Return a function that starts a process in an attempt's folder with such variables.

    The folder has a second name, by way of a link.
    """
    folder = tmp_path / "attempts" / "job" / "0001"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "attempts")
    started = []

    def start(**environment: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEPER],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # it has become what it is by now
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_only_what_a_dead_worker_has_started_is_swept(
    tmp_path: Path, stray: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    dead, alive = "1-1", mark_of(os.getpid())
    left = stray(UNROLL_WORKER=dead)
    elsewhere = stray(UNROLL_WORKER=dead, UNROLL_ATTEMPT=str(tmp_path / "other/attempts/job/1"))
    people_s, at_work = stray(), stray(UNROLL_WORKER=alive)
    assert leftovers.sweep(tmp_path / "attempts") == 1
    assert left.wait(PATIENCE) == -signal.SIGKILL
    assert leftovers.sweep(tmp_path / "attempts") == 0
    assert [each.poll() for each in (elsewhere, people_s, at_work)] == [None] * 3


@pytest.mark.parametrize("told", [True, False])
def test_a_home_that_is_a_link_is_one_place(
    tmp_path: Path, stray: Callable[..., "subprocess.Popen[bytes]"], told: bool
) -> None:
    folder = tmp_path / "link" / "job" / "0001"
    left = stray(UNROLL_WORKER="1-1", **({"UNROLL_ATTEMPT": str(folder)} if told else {}))
    leftovers.kill_all_of(folder)
    assert left.wait(PATIENCE) == -signal.SIGKILL


def test_an_attempt_whose_guard_lives_is_left_to_it(
    tmp_path: Path, stray: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    guarded = stray(UNROLL_WORKER="1-1")
    guard = stray(UNROLL_WORKER="1-1", CALLED="unroll-guard")
    assert leftovers.sweep(tmp_path / "attempts") == 0
    assert guarded.poll() is guard.poll() is None


def test_a_mark_is_of_one_process_alone(
    stray: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    process = stray()
    mark = mark_of(process.pid)
    assert mark == mark_of(process.pid) != mark_of(os.getpid())
    process.kill()
    eventually(lambda: mark_of(process.pid) == "")


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, store: JobStore
) -> None:
    artifacts = ArtifactStore(tmp_path / "store")
    settings = Settings(home=tmp_path, roots=(), url="unix:///nobody")
    settings.make_folders()
    job = store.create(train()).id
    attempt = settings.attempts / job / "0001"
    key = "a" * 32
    halves = [
        attempt / "checkpoints" / ".step-00000001.ckpt.123",
        attempt / "exit.json.new",
        attempt / "tmpabcd_123" / "metrics.jsonl",
        settings.cache / "text" / f".{key}.abcdefgh" / "ids.npy",
        settings.cache / "hub" / ".abcd_123" / "train.parquet",
        settings.cache / ".catalog-12.json.55",
        artifacts.root / "jobs" / job / "attempt-0001" / ".output.log.0123456789ab",
    ]
    wholes = [
        attempt / "checkpoints" / "step-00000001.ckpt",
        attempt / "files" / "results.new",
        settings.cache / "text" / key / "ids.npy",
        settings.cache / "hub" / ".locks" / "data.lock",
        artifacts.root / "jobs" / job / "attempt-0001" / "files" / "tmpabcdefgh",
    ]
    long_ago = time.time() - 7_200
    for path in (*halves, *wholes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        os.utime(path, (long_ago, long_ago))
        os.utime(path.parent, (long_ago, long_ago))
    living = attempt / "checkpoints" / ".step-00000002.ckpt.124"
    living.write_text("half")
    Housekeeping(store, artifacts, settings).clear()
    assert not [path for path in halves if path.exists()]
    assert [path for path in (living, *wholes) if not path.exists()] == []
    assert artifacts.id == ArtifactStore(tmp_path / "store").id


def test_what_a_crash_left_goes_without_another_start_of_the_worker(
    tmp_path: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, roots=(), url="unix:///nobody")
    settings.make_folders()
    half = settings.cache / "text" / f".{'a' * 32}.abcdefgh"
    half.mkdir(parents=True)
    keeping = Housekeeping(store, ArtifactStore(tmp_path / "store"), settings)
    keeping.clear()
    assert half.exists(), "it may be written to still"
    long_ago = time.time() - 7_200
    os.utime(half, (long_ago, long_ago))
    monkeypatch.setattr("worker.housekeeping._TIDY_SECONDS", 0.0)
    keeping.clear()  # the next look is an hour after the first
    assert half.exists()
    keeping._next_tidying = 0.0
    keeping.clear()
    assert not half.exists()


def test_who_tidies_is_not_held_up_by_who_was_faster(
    tmp_path: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, roots=(), url="unix:///nobody")
    settings.make_folders()
    long_ago = time.time() - 7_200
    halves = [settings.cache / "text" / f".{letter * 32}.abcdefgh" for letter in "ab"]
    for half in halves:
        half.mkdir(parents=True)
        os.utime(half, (long_ago, long_ago))
    rmtree = shutil.rmtree

    def after_another(path: Path) -> None:
        if path == halves[0]:
            raise FileNotFoundError(path)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", after_another)
    Housekeeping(store, ArtifactStore(tmp_path / "store"), settings).clear()
    assert not halves[1].exists()


def test_the_marks_reach_what_a_runner_starts(workers: Workers, store: JobStore) -> None:
    worker = workers.start()
    job = store.create(endless(children=1))
    wait(store, job, at_step(1))
    eventually(lambda: len(processes_of(workers, job)) == 3)
    found = list(leftovers.members(workers.home / "attempts"))
    assert {each.worker for each in found} == {mark_of(worker.pid)}
    assert {each.pid for each in found} == {each.pid for each in processes_of(workers, job)}
    assert json.dumps(sorted(each.is_guard for each in found)) == "[false, false, true]"
