"""What a runner says reaches the record once and in order, however often the service is away."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.artifacts import ArtifactStore
from jobs.errors import ServiceUnreachable, StaleToken
from jobs.job import Checkpoint, Job, JobState, Lease, Progress, Reason
from jobs.store import JobStore
from worker.events import (
    CheckpointEvent,
    EndEvent,
    Event,
    MetricEvent,
    PhaseEvent,
    ProgressEvent,
)
from worker.folder import AttemptFolder
from worker.relay import LogReader, Relay

LEASE = Lease("job", 2, "worker", 0)


class FlakyStore:
    """Keep what is reported; every other call or so, the service is away."""

    def __init__(self, seed: int = 0, away: float = 0.0) -> None:
        self._random = random.Random(seed)
        self._away = away
        self.said: list[tuple[str, Any]] = []
        self.lines: list[str] = []
        self.progress = Progress()
        self._nonce = ""

    def _maybe_away(self) -> None:
        if self._random.random() < self._away:
            raise ServiceUnreachable("away")

    def report(
        self,
        lease: Lease,
        *,
        points: Sequence[MetricEvent],
        progress: Progress | None,
        lines: Sequence[str],
        nonce: str,
    ) -> None:
        self._maybe_away()
        assert lease == LEASE
        said = [("point", point.step) for point in points]
        self.said += [each for each in said if each not in self.said]
        if nonce != self._nonce:
            self.lines += lines
        self._nonce = nonce
        self.progress = progress or self.progress
        self._maybe_away()  # only its answer is lost

    def publish(self, lease: Lease, checkpoint: Checkpoint, *, best: bool) -> None:
        self._maybe_away()
        self.said.append(("best" if best else "checkpoint", checkpoint.step))


class Stage:
    """A folder, an artifact store and a relay between them and a store."""

    def __init__(self, path: Path, store: FlakyStore, job: Job | None = None) -> None:
        self.folder = AttemptFolder(path / "attempt")
        self.folder.make()
        self.artifacts = ArtifactStore(path / "store")
        self.store = store
        job = job or Job("job", "train", JobState.RUNNING, {})
        self.relay = Relay(cast(JobStore, store), self.artifacts, job, LEASE, self.folder)

    def say(self, *events: Event) -> None:
        with self.folder.events_file.open("a") as file:
            for event in events:
                file.write(event.to_json() + "\n")

    def save(self, step: int, *, best: bool = False, name: str = "") -> CheckpointEvent:
        name = name or f"step-{step:08d}.ckpt"
        content = f"{step} {best}".encode()
        (self.folder.checkpoints / name).unlink(missing_ok=True)
        (self.folder.checkpoints / name).write_bytes(content)
        return CheckpointEvent(name, hashlib.sha256(content).hexdigest(), step, 1, None, best)

    def kept(self) -> list[str]:
        return [key.rpartition("/")[2][:13] for key in self.artifacts.list()]


def point(step: int) -> MetricEvent:
    return MetricEvent("train/loss", 0.0, step, 1, 0.0)


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, FlakyStore())


@settings(
    max_examples=25,
    deadline=None,  # it waits for a disk
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(["point", "checkpoint", "best"]), max_size=30), st.integers())
def test_events_arrive_once_and_in_order_through_any_outage(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], seed: int
) -> None:
    stage = Stage(tmp_path_factory.mktemp("stage"), FlakyStore(seed, away=0.5))
    for step, kind in enumerate(kinds):
        best = kind == "best"
        stage.say(point(step) if kind == "point" else stage.save(step, best=best))
    stage.say(EndEvent(Reason.SUCCEEDED))
    for _ in range(1000):
        try:
            stage.relay.drain()
            break
        except ServiceUnreachable:
            continue
    assert stage.store.said == [(kind, step) for step, kind in enumerate(kinds)]
    assert stage.relay.end == EndEvent(Reason.SUCCEEDED)


def test_only_the_newest_the_one_before_and_the_best_checkpoint_are_kept(stage: Stage) -> None:
    stage.say(stage.save(1), stage.save(2, best=True))
    stage.say(*(stage.save(step) for step in (3, 4, 5)))
    stage.relay.drain()
    assert stage.kept() == ["step-00000002", "step-00000004", "step-00000005"]


def test_checkpoints_of_earlier_attempts_go_when_newer_ones_count(tmp_path: Path) -> None:
    old = [Checkpoint(f"jobs/job/attempt-0001/checkpoints/{n}.ckpt", "", n, 1) for n in (1, 2)]
    job = Job("job", "train", JobState.RUNNING, {}, best=old[0], checkpoint=old[1])
    stage = Stage(tmp_path, FlakyStore(), job)
    (tmp_path / "old").write_text("old")
    for each in old:
        stage.artifacts.put(each.artifact, tmp_path / "old")
    stage.say(stage.save(3))
    stage.relay.drain()
    assert stage.kept() == ["1.ckpt", "2.ckpt", "step-00000003"]
    stage.say(stage.save(4))
    stage.relay.drain()
    assert stage.kept() == ["1.ckpt", "step-00000003", "step-00000004"]


def test_a_checkpoint_that_is_another_by_now_or_gone_is_passed_over(stage: Stage) -> None:
    first = stage.save(1, name="same.ckpt")
    second = stage.save(2, name="same.ckpt")
    gone = stage.save(3)
    (stage.folder.checkpoints / gone.file).unlink()
    stage.say(first, second, gone)
    stage.relay.drain()
    assert stage.store.said == [("checkpoint", 2)]
    assert stage.store.lines == [
        "checkpoint same.ckpt cannot be kept: it is torn, or another has its name by now"
    ]


def test_none_counts_that_remembers_a_best_one_which_is_not_kept(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.say(stage.save(1), stage.save(2, best=True), stage.save(3))
    with monkeypatch.context() as full:
        full.setattr("jobs.artifacts.link_or_copy", _no_space)
        stage.relay.drain()
        assert "No space left on device" in stage.relay.settle()
    assert not stage.store.said
    stage.say(stage.save(4))
    stage.relay.drain()
    assert stage.store.said == [("best", 2), ("checkpoint", 4)]
    assert not stage.relay.settle()


def test_a_torn_best_one_is_owed_until_there_is_a_better(stage: Stage) -> None:
    torn = stage.save(1, best=True)
    (stage.folder.checkpoints / torn.file).write_bytes(b"torn")
    stage.say(torn, stage.save(2))
    stage.relay.drain()
    assert not stage.store.said
    assert "torn" in stage.relay.settle()
    stage.say(stage.save(3, best=True))
    stage.relay.drain()
    assert stage.store.said == [("best", 3)]
    assert not stage.relay.settle()
    assert stage.kept() == ["step-00000003"]


def test_a_checkpoint_outside_its_folder_is_refused(stage: Stage) -> None:
    secret = stage.folder.path / "secret"
    secret.write_text("secret")
    stage.say(CheckpointEvent("../secret", hashlib.sha256(b"secret").hexdigest(), 1, 1))
    stage.relay.drain()
    assert not stage.store.said
    assert not stage.kept()
    assert "../secret" in stage.store.lines[0]


def test_what_cannot_be_kept_is_told_and_the_rest_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.artifacts.link_or_copy", _no_space)
    stage.say(stage.save(1), point(2))
    stage.relay.drain()
    assert stage.store.said == [("point", 2)]
    assert "No space left on device" in stage.store.lines[0]


def test_lines_that_are_no_events_are_told_and_passed_over(stage: Stage) -> None:
    for line in ("no json", '{"event": "unknown"}', "[]", '{"event": "metric"}', '"text"'):
        with stage.folder.events_file.open("a") as file:
            file.write(line + "\n")
    stage.say(point(1))
    stage.relay.drain()
    assert stage.store.said == [("point", 1)]
    assert len(stage.store.lines) == 5


def test_progress_and_phase_are_told_together(stage: Stage) -> None:
    stage.say(PhaseEvent("training"), ProgressEvent(3, 9, 1, 2), PhaseEvent("validating"))
    stage.relay.pump()
    assert stage.store.progress == Progress(3, 9, 1, 2, "validating")


def test_half_a_line_waits_for_its_other_half(stage: Stage) -> None:
    line = point(1).to_json()
    stage.folder.events_file.write_text(line[:10])
    stage.relay.pump()
    assert not stage.store.said
    stage.folder.events_file.write_text(line + "\n")
    stage.relay.pump()
    assert stage.store.said == [("point", 1)]


def test_a_stale_relay_clears_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object, **__: object) -> None:
        raise StaleToken("another attempt holds the job")

    stage.say(stage.save(1))
    stage.relay.drain()
    monkeypatch.setattr(stage.store, "publish", stale)
    stage.say(stage.save(2))
    with pytest.raises(StaleToken):
        stage.relay.drain()
    assert "step-00000001" in stage.kept()


@settings(
    max_examples=40,
    deadline=None,  # likewise
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_a_log_reads_the_same_in_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "output.log"
    reader, read = LogReader(path), []
    for piece in pieces:
        with path.open("ab") as file:
            file.write(piece)
        read += reader.read()
    reader.ended = True
    while more := reader.read():
        read += more
    whole = b"".join(pieces)
    lines = whole.split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    assert read == [
        line.rstrip(b"\r").split(b"\r")[-1].decode("utf-8", "replace") for line in lines
    ]


def test_of_a_flood_the_end_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"".join(b"line %06d\n" % number for number in range(200_000)))
    reader, read = LogReader(path), []
    while more := reader.read():
        read += more
    assert "left out" in read[0]
    assert read[-1] == "line 199999"
    assert len(read) < 20_000


def test_a_long_line_does_not_hide_what_follows_it(stage: Stage) -> None:
    stage.folder.log_file.write_bytes(b"x" * 350_000 + b"\nthe end\nof it")
    stage.relay.drain()
    assert stage.store.lines[-2:] == ["the end", "of it"]
    assert sum(line.count("x") for line in stage.store.lines) == 350_000


def test_reading_stays_bounded_however_much_waits(stage: Stage) -> None:
    stage.say(*(point(step) for step in range(3000)))
    stage.relay.pump()
    assert len(stage.store.said) == 2000
    stage.relay.drain()
    assert stage.store.said == [("point", step) for step in range(3000)]
