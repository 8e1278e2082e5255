"""Hangs that are planted into real trainings are found, told with their stacks, and ended."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.job import JobState, Reason
from jobs.spec import Policy, spec_from_dict
from jobs.store import JobStore
from tests.doubles.parents import wait_until_ready
from tests.doubles.waiting import eventually
from tests.integration.conftest import TINY
from tests.integration.test_supervisor import Stage
from tests.integration.test_worker import Workers, at_step, ended, endless, train, wait, workers
from worker.parent import PreloadedParent
from worker.process import Launcher

__all__ = ["workers"]  # a fixture

#: Topologies and a kind of data that stop at their fifth batch, each in a way of its own.
PLUGINS = {
    "lightning_modules/sleeper.py": """
import time
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder

class Sleeper(AttentionEncoderDecoder):
    '''Sleep in a step.'''

    def training_step(self, batch, batch_idx):
        if batch_idx == 5:
            time.sleep(600)
        return super().training_step(batch, batch_idx)
""",
    "lightning_modules/deadlocked.py": """
import torch
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder

class Deadlocked(AttentionEncoderDecoder):
    '''Let each of two ranks wait for the other.'''

    def training_step(self, batch, batch_idx):
        if batch_idx == 5:
            other = 1 - torch.distributed.get_rank()
            torch.distributed.recv(torch.zeros(1), src=other)
        return super().training_step(batch, batch_idx)
""",
    "lightning_modules/slow.py": """
import time
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder

class Slow(AttentionEncoderDecoder):
    '''Take long for the first step, for each validation and for each checkpoint.'''

    def training_step(self, batch, batch_idx):
        if batch_idx == 0 and self.current_epoch == 0:
            time.sleep(1.5)
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_end(self):
        time.sleep(1.5)
        super().on_validation_epoch_end()

    def state_dict(self, *given, **named):
        time.sleep(1.5)
        return super().state_dict(*given, **named)
""",
    "datamodules/silent.py": """
import threading
from datamodules.parallel_text import ParallelText

class Silent(ParallelText):
    '''Give no sixth batch.'''

    given = 0

    def collate(self, split, rows):
        if split == 'train':
            self.given += 1
        if self.given > 5:
            threading.Event().wait()
        return super().collate(split, rows)
""",
    "datamodules/unread.py": """
import threading
from datamodules.parallel_text import ParallelText

class Unread(ParallelText):
    '''Never come to an end of reading.'''

    def prepare(self, workspace):
        threading.Event().wait()
""",
    "datamodules/slowly_read.py": """
import time
from datamodules.parallel_text import ParallelText

class SlowlyRead(ParallelText):
    '''Take long to prepare.'''

    def prepare(self, workspace):
        time.sleep(1.5)
        super().prepare(workspace)
""",
}
#: A step of the tiny job takes milliseconds; a busy machine may still hold one up.
QUICK = {"hang_seconds": 1.0, "hang_factor": 3.0, "quiet_seconds": 60.0}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Return what forks runners that know the plugins."""
    root = tmp_path_factory.mktemp("plugins")
    for name, text in PLUGINS.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNROLL_PLUGINS", str(root))
        parent = PreloadedParent()
        wait_until_ready(parent, 120)
        yield Launcher(parent=parent)
        parent.close()


@pytest.fixture
def stage(tmp_path: Path, data_root: Path, launcher: Launcher) -> Stage:
    return Stage(tmp_path / "home", data_root, launcher=launcher)


def spec(
    model: str = "attention_encoder_decoder",
    data: str = "parallel_text",
    policy: dict[str, Any] | None = None,
    devices: int = 1,
) -> Any:
    plain = {
        "model": {**TINY["model"], "name": model},
        "data": {**TINY["data"], "name": data},
        "trainer": TINY["trainer"],
        "policy": policy or QUICK,
        "resources": {"devices": devices},
    }
    return spec_from_dict(plain)


def end_of(stage: Stage, given: Any) -> tuple[Reason, dict[str, Any]]:
    """Return how the job of a spec ended."""
    thread = stage.supervise_spec(given)
    thread.join(120)
    assert not thread.is_alive()
    eventually(lambda: not stage.processes())
    (end,) = (told for told in stage.store.told if told[0] != "checkpoint")
    return end


@pytest.mark.parametrize(
    ("given", "function"),
    [
        (spec("sleeper"), "training_step"),
        (spec(data="silent"), "collate"),
    ],
)
def test_a_training_that_takes_no_step_is_ended_with_its_stacks(
    stage: Stage, given: Any, function: str
) -> None:
    reason, said = end_of(stage, given)
    assert reason is Reason.HUNG, said
    assert "no step for 1 s after step 5; a step usually takes" in said["message"]
    assert "What rank 0 was at" in said["traceback"]
    assert f"in {function}" in said["traceback"]
    assert any(f"in {function}" in line for line in stage.store.lines)
    exited = json.loads((stage.folder / "exit.json").read_text())
    assert (exited["cause"], exited["signal"]) == ("hung", "SIGKILL")


def test_of_ranks_that_wait_for_each_other_both_tell_their_stacks(stage: Stage) -> None:
    reason, said = end_of(stage, spec("deadlocked", devices=2))
    assert reason is Reason.HUNG, said
    first, second = said["traceback"].partition("What rank 1 was at")[::2]
    for stacks in (first, second):
        assert "in recv" in stacks
        assert "in training_step" in stacks


def test_a_runner_that_never_comes_to_its_first_step_is_ended_too(stage: Stage) -> None:
    reason, said = end_of(stage, spec(data="unread", policy={**QUICK, "quiet_seconds": 3.0}))
    assert reason is Reason.HUNG, said
    assert "no sign of life for 3 s while preparing" in said["message"]
    assert "in prepare" in said["traceback"]


def test_what_takes_long_by_its_nature_is_no_hang(stage: Stage) -> None:
    policy = {**QUICK, "checkpoint_steps": 9}
    reason, said = end_of(stage, spec("slow", "slowly_read", policy))
    assert reason is Reason.SUCCEEDED, said


def test_a_machine_that_stood_still_is_no_hang(workers: Workers, store: JobStore) -> None:
    worker = workers.start()
    job = store.create(replace(endless(), policy=Policy(hang_seconds=1.0)))
    before = wait(store, job, at_step(3)).progress.step
    everything = [psutil.Process(worker.pid), *workers.runners()]
    for process in everything:
        process.suspend()
    time.sleep(3.0)  # far longer than a hang takes
    for process in everything:
        process.resume()
    wait(store, job, at_step(before + 50))
    assert store.get(job.id).attempt == 1


def test_a_hang_uses_a_retry_and_the_next_attempt_goes_on(
    workers: Workers, store: JobStore
) -> None:
    workers.start()
    policy = Policy(hang_seconds=1.0, retry_seconds=0)
    spec = train(steps=60, step_seconds=0.01, checkpoint_every=10, hang_at=25, fail_attempt=1)
    job = store.create(replace(spec, policy=policy, retries=1))
    record = wait(store, job, lambda record: record.attempt == 2)
    assert record.reason is Reason.HUNG
    record = wait(store, job, ended)
    assert (record.state, record.retries_used) == (JobState.SUCCEEDED, 1)
    assert record.result["started_at"] == 20
    assert [point.step for point in store.metrics(job.id)] == list(range(1, 61))


def test_a_hang_without_a_retry_ends_the_job(workers: Workers, store: JobStore) -> None:
    workers.start()
    spec = replace(train(steps=60, hang_at=5), policy=Policy(hang_seconds=1.0))
    record = wait(store, store.create(spec), ended)
    assert (record.state, record.reason) == (JobState.FAILED, Reason.HUNG)
    assert "no step for 1 s after step 5" in record.message
    assert "in train" in record.traceback
    eventually(lambda: not workers.runners())
