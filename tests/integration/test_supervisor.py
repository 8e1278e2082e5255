"""One supervisor with a real guard and runner, and a store that does what a test says."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError, ServiceFull, ServiceUnreachable, StaleToken
from jobs.job import Checkpoint, Job, JobState, Lease, Reason
from jobs.spec import Component, Policy, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker
from tests.doubles.waiting import eventually
from worker.devices import Share
from worker.events import MetricEvent
from worker.folder import AttemptFolder
from worker.leavings import Leavings
from worker.process import Handback, Launcher
from worker.relay import Relay
from worker.settings import Clocks, Settings
from worker.supervisor import Assignment, Supervisor, Tools

RUNNER = Path(__file__).parents[1] / "doubles" / "runner.py"
CLOCKS = Clocks(renew=0.05, tick=0.02, drain=2.0, grace=20.0, linger=0.5)
LEASE = Lease("job", 1, "worker", 0)


class Script:
    """A store that keeps what it is told, and answers as the test has set it."""

    def __init__(self) -> None:
        self.wish = ""
        self.stale = False
        self.away = False
        self.told: list[Any] = []
        self.points: list[int] = []
        self.files: dict[str, bytes] = {}
        self.lines: list[str] = []

    def _answer(self) -> None:
        if self.away:
            raise ServiceUnreachable("away")
        if self.stale:
            raise StaleToken("stale")

    def renew(self, lease: Lease, ttl: float) -> str:
        self._answer()
        return self.wish

    def report(
        self,
        lease: Lease,
        *,
        points: Any = (),
        progress: Any = None,
        lines: Sequence[str] = (),
        nonce: str = "",
    ) -> None:
        self._answer()
        self.points += [point.step for point in points]
        self.lines += lines

    def publish(self, lease: Lease, checkpoint: Checkpoint, *, best: bool) -> None:
        self._answer()
        self.told.append(("checkpoint", checkpoint.step))

    def put_file(self, lease: Lease, name: str, content: bytes) -> None:
        self._answer()
        self.files[name] = content

    def metrics(self, job: str) -> list[Any]:
        self._answer()
        return []

    def finish(self, lease: Lease, reason: Reason, **said: Any) -> JobState:
        self._answer()
        self.told.append((reason, said))
        return JobState.FAILED

    def release(self, lease: Lease, **said: Any) -> None:
        self._answer()
        self.told.append("released")


class Stage:
    def __init__(self, home: Path, *roots: Path, launcher: Launcher | None = None) -> None:
        self.store = Script()
        self.settings = Settings(home=home, roots=roots, url="unix:///nobody", clocks=CLOCKS)
        self.settings.make_folders()
        self.draining = threading.Event()
        self.launcher = launcher or Launcher([sys.executable, "-P", str(RUNNER)])

    @property
    def folder(self) -> Path:
        return self.settings.attempts / "job" / "0001"

    def supervise(self, **params: Any) -> threading.Thread:
        """Supervise a job of the double in a thread."""
        spec = TrainSpec(model=Component("double", params), data=Component("none"))
        return self.supervise_spec(spec)

    def supervise_spec(self, spec: TrainSpec) -> threading.Thread:
        """Supervise any job in a thread."""
        tools = Tools(
            cast(JobStore, self.store),
            ArtifactStore(self.settings.home / "store"),
            self.launcher,
            self.settings,
            self.draining,
        )
        job = Job("job", "train", JobState.RUNNING, spec.to_dict(), attempt=1)
        share = Share(processes=spec.resources.devices)
        supervisor = Supervisor(tools, Assignment(job, LEASE, share))
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        return thread

    def run(self, **params: Any) -> None:
        over(self.supervise(**params))

    def start(self, **params: Any) -> threading.Thread:
        """Supervise a job that does not end by itself, and wait until it trains."""
        thread = self.supervise(steps=100_000, step_seconds=0.01, **params)
        eventually(lambda: self.store.points)
        return thread

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.settings.home):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


def over(thread: threading.Thread) -> None:
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_everything_is_said_before_the_end(stage: Stage) -> None:
    stage.run(steps=4, checkpoint_every=2, file="kept", say="a line")
    assert stage.store.told[:2] == [("checkpoint", 2), ("checkpoint", 4)]
    ((reason, said),) = stage.store.told[2:]
    assert (reason, said["result"]["val/loss"]) == (Reason.SUCCEEDED, 0.5)
    assert stage.store.points == [1, 2, 3, 4]
    assert stage.store.files == {"result.txt": b"kept"}
    assert "a line" in stage.store.lines
    eventually(lambda: not stage.processes())


def test_no_job_s_message_acts_on_the_terminal_of_who_reads_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stage.run(fail="error", fail_at=1, message="boom \x1b[31mred")
    assert "boom [31mred" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_paused_job_goes_back_with_its_work(stage: Stage) -> None:
    thread = stage.start()
    stage.store.wish = "pause"
    over(thread)
    (kind, step), released = stage.store.told
    assert (kind, released) == ("checkpoint", "released")
    assert step == stage.store.points[-1]


def test_a_pause_waits_for_the_checkpoint_for_longer_than_a_drain_does(stage: Stage) -> None:
    stage.settings = replace(stage.settings, clocks=replace(CLOCKS, drain=0.1))
    thread = stage.supervise(steps=100, step_seconds=1.0)  # as with a long validation
    eventually(lambda: stage.store.points)
    stage.store.wish = "pause"
    over(thread)
    (kind, step), released = stage.store.told
    assert (kind, released) == ("checkpoint", "released")
    assert step == stage.store.points[-1]


def test_a_runner_that_hangs_is_found_while_it_is_paused(stage: Stage) -> None:
    model = Component("double", {"steps": 100, "step_seconds": 0.01, "hang_at": 20})
    policy = Policy(hang_seconds=1.0)
    thread = stage.supervise_spec(TrainSpec(model=model, data=Component("none"), policy=policy))
    eventually(lambda: 20 in stage.store.points)
    stage.store.wish = "pause"
    over(thread)
    assert [reason for reason, _ in stage.store.told] == [Reason.HUNG]


def test_a_worker_that_drains_waits_no_longer_for_what_is_paused(stage: Stage) -> None:
    thread = stage.start(deaf=True)
    stage.store.wish = "pause"
    stage.draining.set()
    over(thread)
    assert stage.store.told == ["released"]


def test_a_cancel_is_heard_while_a_job_drains(stage: Stage) -> None:
    thread = stage.start(deaf=True)
    stage.draining.set()
    stage.store.wish = "cancel"
    over(thread)
    assert [reason for reason, _ in stage.store.told] == [Reason.CANCELLED]


def test_a_lost_lease_stops_the_runner_and_writes_nothing(stage: Stage) -> None:
    thread = stage.start()
    stage.store.stale = True
    over(thread)
    assert not stage.store.told
    eventually(lambda: not stage.processes())


def test_an_outage_at_the_end_is_waited_out(stage: Stage) -> None:
    thread = stage.start(fail="exit", fail_at=40)
    stage.store.away = True
    eventually((stage.folder / "exit.json").exists)
    stage.store.away = False
    over(thread)
    assert stage.store.points == list(range(1, 41))
    assert [reason for reason, _ in stage.store.told] == [Reason.INFRASTRUCTURE]


def test_who_drains_without_an_answer_leaves_the_lease_to_the_guard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("/bin/sh", "-c", f"touch {stage.settings.home}/back")
    monkeypatch.setattr("worker.supervisor.by_guard", lambda *_: Handback(command))
    thread = stage.start()
    stage.store.away = True
    stage.draining.set()
    over(thread)
    assert not stage.store.told
    eventually((stage.settings.home / "back").exists)
    eventually(lambda: not stage.processes())


def test_a_draining_worker_starts_nothing(stage: Stage) -> None:
    stage.draining.set()
    stage.run()
    assert stage.store.told == ["released"]
    assert not stage.folder.exists()


def test_what_cannot_be_laid_is_told(stage: Stage) -> None:
    stage.folder.mkdir(parents=True)
    stage.run()
    ((reason, said),) = stage.store.told
    assert reason is Reason.INFRASTRUCTURE
    assert said["message"].startswith("nothing was started")


def test_a_mistake_of_ours_ends_the_attempt_with_its_traceback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Relay) -> bool:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(Relay, "pump", fail)
    stage.run(steps=100_000, step_seconds=0.01)
    ((reason, said),) = stage.store.told
    assert reason is Reason.INFRASTRUCTURE
    assert "a mistake of ours" in said["traceback"]
    eventually(lambda: not stage.processes())


def test_a_mistake_of_ours_that_cannot_be_told_leaves_the_lease_to_the_guard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Relay) -> bool:
        raise KeyError("a mistake of ours")

    command = ("/bin/sh", "-c", f"touch {stage.settings.home}/back")
    monkeypatch.setattr("worker.supervisor.by_guard", lambda *_: Handback(command))
    thread = stage.start()
    stage.store.away = True
    stage.draining.set()
    monkeypatch.setattr(Relay, "pump", fail)
    over(thread)
    assert not stage.store.told
    eventually((stage.settings.home / "back").exists)


@pytest.fixture
def full_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.artifacts.link_or_copy", no_space)


@pytest.mark.usefixtures("full_store")
def test_a_full_artifact_store_at_the_end_is_told(stage: Stage) -> None:
    stage.run()
    ((reason, said),) = stage.store.told
    assert reason is Reason.INFRASTRUCTURE
    assert "No space left" in said["message"]


def test_a_success_whose_best_model_could_not_be_kept_is_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ArtifactStore.put

    def no_space(store: ArtifactStore, key: str, path: Path, **options: bool) -> str:
        if "/checkpoints/" in key:
            raise ArtifactError("No space left on device")
        return put(store, key, path, **options)

    monkeypatch.setattr(ArtifactStore, "put", no_space)
    stage.run(steps=2, checkpoint_every=2)
    ((reason, said),) = stage.store.told
    assert reason is Reason.INFRASTRUCTURE
    assert "No space left" in said["message"]


def test_a_success_that_a_full_service_has_no_room_for_can_be_cancelled(stage: Stage) -> None:
    def full(*_: Any) -> None:
        stage.store.wish = "cancel"
        raise ServiceFull("the service's memory is full")

    stage.store.put_file = full  # type: ignore[method-assign]
    stage.run(file="an answer")
    ((reason, said),) = stage.store.told
    assert (reason, said["result"]) == (Reason.CANCELLED, {})


def test_a_success_whose_best_model_was_damaged_meanwhile_is_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = stage.store.publish

    def damage(lease: Lease, checkpoint: Checkpoint, *, best: bool) -> None:
        publish(lease, checkpoint, best=best)
        path = ArtifactStore(stage.settings.home / "store").path(checkpoint.artifact)
        path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(stage.store, "publish", damage)
    stage.run(steps=2, checkpoint_every=2)
    (_, (reason, said)) = stage.store.told
    assert reason is Reason.INFRASTRUCTURE
    assert "is torn: its digest is another" in said["message"]


@pytest.mark.usefixtures("full_store")
def test_a_full_artifact_store_does_not_hide_why_a_job_failed(stage: Stage) -> None:
    stage.run(fail="error", fail_at=1)
    ((reason, said),) = stage.store.told
    assert (reason, said["message"]) == (Reason.USER_ERROR, "no such thing")


def test_a_model_that_is_gone_from_its_store_is_not_looked_for_again(stage: Stage) -> None:
    lost = Checkpoint("jobs/old/checkpoints/7.ckpt", "0" * 64, 7, 0)
    spec = TrainSpec(model=Component("double"), data=Component("none"), warm_from="old")
    old = Job("old", "train", JobState.SUCCEEDED, spec.to_dict(), checkpoint=lost)
    stage.store.get = lambda _: old  # type: ignore[attr-defined]
    over(stage.supervise_spec(spec))
    ((reason, said),) = stage.store.told
    assert reason is Reason.BAD_DATA
    assert said["message"].endswith("is gone: train it again, `unroll clone old`")


def test_what_another_rank_has_said_is_the_reason_where_the_first_could_not_speak(
    stage: Stage,
) -> None:
    stage.run(fail="rank", fail_at=1)
    ((reason, said),) = stage.store.told
    assert (reason, said["message"]) == (Reason.BAD_DATA, "told by rank 1")


def test_a_mistake_in_a_renewal_does_not_end_the_pulse(stage: Stage) -> None:
    mistakes = [RuntimeError("a mistake of ours")] * 3
    renew = stage.store.renew

    def stumble(lease: Lease, ttl: float) -> str:
        if mistakes:
            raise mistakes.pop()
        return renew(lease, ttl)

    stage.store.renew = stumble  # type: ignore[method-assign]
    stage.store.wish = "cancel"
    over(stage.supervise(steps=100_000, step_seconds=0.01))
    assert [reason for reason, _ in stage.store.told] == [Reason.CANCELLED]


def test_what_an_attempt_leaves_that_lost_its_job_replaces_nothing(
    store: JobStore, tmp_path: Path
) -> None:
    artifacts = ArtifactStore(tmp_path / "store")
    job = store.create(TrainSpec(model=Component("m"), data=Component("d"))).id

    def attempt(name: str) -> Leavings:
        found = store.acquire(Worker(id="w"), 60)
        assert found is not None
        folder = AttemptFolder(tmp_path / name)
        folder.make()
        (folder.files / "answer").write_text(name)
        return Leavings(store, artifacts, *found, folder)

    first = attempt("first")
    store.release(Lease(job, 1, "w", 0))
    second = attempt("second")
    store.report(Lease(job, 2, "w", 0), points=[MetricEvent("a", 1.0, 1, 1, 0.0)])
    second.keep()
    before = {key: artifacts.path(key).read_bytes() for key in artifacts.list()}
    assert before[f"jobs/{job}/attempt-0002/files/answer"] == b"second"
    with pytest.raises(StaleToken):
        first.keep()
    with pytest.raises(StaleToken):
        first._keep_metrics()
    assert {key: artifacts.path(key).read_bytes() for key in before} == before
    assert store.read_file(job, "answer") == b"second"
