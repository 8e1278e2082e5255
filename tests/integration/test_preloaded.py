"""Runners that are forked from torch and Lightning as they lie loaded in the parent."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.doubles.parents import wait_until_ready
from tests.doubles.waiting import eventually
from worker.folder import AttemptFolder
from worker.parent import PreloadedParent
from worker.process import Exit, Handback, Launcher
from worker.settings import Warmth
from worker.warm import WarmModels

#: The time to import torch and Lightning on a busy machine, and to train a little.
PATIENCE = 120.0
#: A parent that has loaded what runners need, but whose runners do what a script says.
SCRIPTED = """
import sys
from pathlib import Path
from worker.runner.preloaded import serve

def main(arguments):
    exec((Path(arguments[0]) / "script").read_text(), {})
    return 0

serve(main)
"""
#: Half a second of products on as many threads as the attempt has, and what came of it.
COMPUTES = """
import json, os, random, time
import numpy as np, torch
from pathlib import Path
from worker.folder import AttemptFolder
from worker.runner.lightning_setup import set_up_torch

drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]
attempt = AttemptFolder(Path.cwd()).read_attempt()
set_up_torch(attempt)
a = torch.rand(512, 512)
until = time.monotonic() + 0.5
while time.monotonic() < until:
    a = torch.tanh(a @ a / 512)
torch.nn.LSTM(8, 8)(torch.rand(4, 3, 8))[0].sum().backward()
print(json.dumps({
    "drawn": drawn,
    "threads": torch.get_num_threads(),
    "running": len(list(Path("/proc/self/task").iterdir())),
    "cuda": torch.cuda.is_initialized(),
    "frozen": __import__("gc").get_freeze_count(),
    "cache": os.environ["LRU_CACHE_CAPACITY"],
    "visible": os.environ["CUDA_VISIBLE_DEVICES"],
}))
"""

#: Each rank tells the sum over all ranks of its number, counted from one.
MEETS = """
import os, sys
from pathlib import Path
import torch

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
meeting = f"file://{Path.cwd()}/meeting"
torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
total = torch.tensor([rank + 1.0])
torch.distributed.all_reduce(total)
Path(f"total{rank}").write_text(str(total.item()))
torch.distributed.destroy_process_group()
"""

Lay = Callable[..., AttemptFolder]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a plugin that leaves a mark where it is loaded."""
    file = tmp_path_factory.mktemp("plugins") / "datamodules" / "mine.py"
    file.parent.mkdir()
    file.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.loaded').touch()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNROLL_PLUGINS", str(file.parents[1]))
        yield file


@pytest.fixture(scope="module")
def parents(plugin: Path) -> Iterator[dict[str, PreloadedParent]]:
    """Return the parent of a worker, and one that runs scripts."""
    started = {
        "worker": PreloadedParent(),
        "scripts": PreloadedParent([sys.executable, "-P", "-c", SCRIPTED]),
    }
    for parent in started.values():
        parent.keep()
    for parent in started.values():
        wait_until_ready(parent, PATIENCE)
    yield started
    for parent in started.values():
        parent.close()


def run(parent: PreloadedParent | Launcher | None, folder: AttemptFolder, **changes: int) -> None:
    attempt = replace(folder.read_attempt(), **changes)  # type: ignore[arg-type]
    folder.write(folder.read_spec(), attempt)
    launcher = parent if isinstance(parent, Launcher) else Launcher(parent=parent)
    running = launcher.start(folder, attempt, grace=600, handback=Handback())
    try:
        end = running.wait(PATIENCE)
        assert end == Exit("exited", 0), folder.log_file.read_text()
    finally:
        running.close(done=True)


def compute(parent: PreloadedParent, folder: AttemptFolder, threads: int) -> dict[str, Any]:
    (folder.path / "script").write_text(COMPUTES)
    run(parent, folder, threads=threads)
    said: dict[str, Any] = json.loads(folder.log_file.read_text().splitlines()[-1])
    return said


def test_a_parent_has_computed_nothing_and_holds_nothing_open(
    parents: dict[str, PreloadedParent],
) -> None:
    process = psutil.Process(parents["worker"].pid)
    assert process.num_threads() == 1
    assert process.num_fds() == 4  # the three of each process, and the socket to its worker


def test_a_fork_computes_on_its_own_threads_and_draws_its_own_numbers(
    parents: dict[str, PreloadedParent], lay: Lay
) -> None:
    one = compute(parents["scripts"], lay("one"), 1)
    two = compute(parents["scripts"], lay("two"), 2)
    assert (one["threads"], two["threads"]) == (1, 2)
    assert two["running"] > one["running"] == 1
    assert len({*one["drawn"], *two["drawn"]}) == 6
    for said in (one, two):
        assert not said["cuda"]
        assert said["frozen"] > 10_000
        assert (said["cache"], said["visible"]) == ("1", "")


def test_ranks_that_are_forked_find_each_other(
    parents: dict[str, PreloadedParent], lay: Lay
) -> None:
    folder = lay("meeting")
    (folder.path / "script").write_text(MEETS)
    run(parents["scripts"], folder, world_size=2)
    assert [(folder.path / f"total{rank}").read_text() for rank in (0, 1)] == ["3.0", "3.0"]


def test_both_ways_to_start_train_the_same_model(
    parents: dict[str, PreloadedParent], lay: Lay
) -> None:
    forked, executed = lay("forked"), lay("executed")
    run(parents["worker"], forked)
    run(None, executed)
    told = [told_by(folder) for folder in (forked, executed)]
    assert told[0] == told[1]
    assert told[0][-1]["reason"] == "succeeded"


def told_by(folder: AttemptFolder) -> list[dict[str, Any]]:
    """Return the events of a run, without the clock."""
    events = map(json.loads, folder.events_file.read_text().splitlines())
    timed = ("train/tokens_per_second", "test/sentences_per_second")
    return [
        {key: value for key, value in event.items() if key not in ("time", "digest")}
        for event in events
        if event.get("name") not in timed and event["event"] != "progress"
    ]


def test_a_plugin_is_loaded_by_the_runner_alone(
    parents: dict[str, PreloadedParent], lay_plain: Lay, plugin: Path
) -> None:
    for word in ("first", "second"):
        plugin.write_text(f"raise ImportError('the {word} state of the plugin')")
        spec = {"model": {"name": "encoder_decoder"}, "data": {"name": "mine"}}
        folder = lay_plain(word, spec)
        run(parents["worker"], folder)
        assert f"the {word} state" in folder.events_file.read_text()
    assert not plugin.with_suffix(".loaded").exists(), "the parent has loaded it"


def test_a_held_model_answers_as_one_that_is_read(
    parents: dict[str, PreloadedParent], lay: Lay
) -> None:
    trained = lay("trained")
    run(parents["worker"], trained)
    checkpoint = next(trained.checkpoints.iterdir())
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    spec = {"kind": "predict", "job": "job-1", "lines": ["abc", "deade"], "search": {"beam": 2}}
    trained_by = json.loads(trained.spec_file.read_text())

    def ask(name: str, content: bytes) -> AttemptFolder:
        folder = lay(name, spec, trained=trained_by, model="m", unchecked=digest)
        attempt = replace(folder.read_attempt(), checkpoint=str(folder.start_checkpoint))
        folder.write(folder.read_spec(), attempt)
        folder.start_checkpoint.write_bytes(content)
        return folder

    warm = WarmModels(parents["worker"], Warmth())
    launcher = Launcher(parent=parents["worker"], warm=warm)
    read = ask("read", checkpoint.read_bytes())
    run(launcher, read)
    with launcher.holding(read):
        pass
    eventually(lambda: warm.has("m"))
    held = ask("held", b"which nobody reads")
    run(launcher, held)
    warm.close()
    answers = [(each.files / "predictions.json").read_bytes() for each in (read, held)]
    assert answers[0] == answers[1]
    damaged = ask("damaged", b"which somebody reads")
    run(launcher, damaged)
    assert told_by(damaged)[-1]["message"] == "start.ckpt is damaged: its digest is another"
