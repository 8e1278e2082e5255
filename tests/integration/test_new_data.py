"""Schedules that begin when their data has changed; folders are real, only trainings are not."""

import os
from pathlib import Path

import pytest

from jobs.gate import Gate
from jobs.schedules import Generation, Schedule
from jobs.spec import Component, Resources, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore
from tests.doubles.mill import Mill, system
from worker import new_data
from worker.new_data import Digests, NewData
from worker.scheduler import Scheduler

HOUR = 3_600_000


class House:
    """A worker that looks at a folder, and a clock."""

    def __init__(self, store: JobStore, root: Path) -> None:
        self.time = 100 * HOUR
        self.root = root
        self.store = JobStore(store._client, store.keys.namespace, lambda: self.time)
        self.schedules = self.store.beside(ScheduleStore)
        self.scheduler = Scheduler(self.store)
        self.mill = Mill(self.store, lambda *_: system(0.5))
        self.new_data = self.worker()
        self.write("train.en", "one\n")

    def worker(self) -> NewData:
        return NewData(self.store, self.scheduler, roots=[self.root], queues=["default"])

    def write(self, name: str, content: str) -> None:
        (self.root / "corpus").mkdir(exist_ok=True)
        (self.root / "corpus" / name).write_text(content)

    def add(self, folder: str = "corpus", queue: str = "default", *, name: str = "fresh") -> None:
        data, where = Component("d", {"root": folder}), Resources(queue=queue)
        spec = TrainSpec(model=Component("m"), data=data, resources=where)
        self.schedules.add(
            Schedule(
                name=name,
                model="de-en",
                spec=spec.to_dict(),
                gate=Gate(metric="bleu"),
                on_data=True,
                created=self.time,
            )
        )

    def look(self, times: int = 2) -> list[Generation]:
        for _ in range(times):
            self.new_data.look()
        for _ in range(4):
            self.scheduler.tick()
            self.mill.turn()
        return self.schedules.history("fresh")


@pytest.fixture
def house(store: JobStore, tmp_path: Path) -> House:
    return House(store, tmp_path)


def test_what_is_there_at_first_is_not_new_and_what_comes_is(house: House) -> None:
    house.add()
    assert house.look(4) == []
    house.write("more.en", "two\n")
    assert house.look(1) == [], "it may still be written to"
    (generation,) = house.look(1)
    assert (generation.trigger, generation.due) == ("data", house.time)
    assert len(house.look(4)) == 1


def test_a_change_waits_for_the_spacing_and_is_not_forgotten(house: House) -> None:
    house.add()
    house.look()
    house.write("more.en", "two\n")
    assert len(house.look()) == 1
    house.time += HOUR - 1
    house.write("more.en", "three\n")
    assert len(house.look(4)) == 1
    house.time += 1
    assert len(house.look(1)) == 2


def test_several_workers_begin_one_training_of_one_change(house: House) -> None:
    house.add()
    many = [house.worker() for _ in range(3)]
    for each in many * 2:
        each.look()
    house.write("more.en", "two\n")
    for each in many * 2:
        each.look()
    assert len(house.look()) == 1


def test_a_worker_that_comes_later_knows_what_was_seen(house: House) -> None:
    house.add()
    house.look()
    house.write("more.en", "two\n")
    house.new_data = house.worker()
    assert len(house.look()) == 1


def test_a_paused_schedule_begins_nothing_and_catches_up_when_resumed(house: House) -> None:
    house.add()
    house.look()
    house.schedules.pause("fresh")
    house.write("more.en", "two\n")
    assert house.look(4) == []
    house.schedules.resume("fresh")
    assert len(house.look()) == 1


@pytest.mark.parametrize(
    ("folder", "queue"), [("../elsewhere", "default"), ("/etc", "default"), ("corpus", "other")]
)
def test_what_is_not_this_workers_to_read_is_left_alone(
    house: House, folder: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.root.parent / "elsewhere").mkdir(exist_ok=True)
    house.add(folder, queue)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(new_data, "sha256", refuse)
    assert house.look(4) == []


@pytest.mark.parametrize("folder", ["nul\0byte", "locked/corpus", "circle"])
def test_a_folder_that_cannot_be_looked_at_blinds_no_other_schedule(
    house: House, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if "locked" in path.parts:  # root, who runs tests in containers, may look anywhere
            raise PermissionError(path)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    (house.root / "circle").symlink_to("circle")
    house.add(folder, name="bad")
    house.add()
    house.look()
    house.write("more.en", "two\n")
    assert len(house.look()) == 1
    assert house.schedules.history("bad") == []


def test_a_look_that_fails_is_no_other_schedule_s(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of = Digests.of

    def fail(digests: Digests, folder: Path) -> str:
        if folder.name == "broken":
            raise OSError("Input/output error")
        return of(digests, folder)

    monkeypatch.setattr(Digests, "of", fail)
    (house.root / "broken").mkdir()
    house.add("broken", name="bad")
    house.add()
    house.look()
    house.write("more.en", "two\n")
    assert len(house.look()) == 1
    assert "schedule bad: a step failed" in caplog.text


def test_a_file_that_cannot_be_looked_at_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    alone = Digests().of(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("b")
    lstat = Path.lstat

    def refuse(path: Path) -> os.stat_result:
        if path.name == "b":
            raise PermissionError(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refuse)
    assert Digests().of(tmp_path) == alone


def test_a_digest_follows_from_names_and_contents_and_reads_no_file_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    sha256 = new_data.sha256
    monkeypatch.setattr(new_data, "sha256", lambda path: read.append(path.name) or sha256(path))
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/etc/passwd")
    digests = Digests()
    first = digests.of(tmp_path)
    assert (digests.of(tmp_path), read) == (first, ["a", "b"])
    os.utime(tmp_path / "a", (1, 1))
    assert digests.of(tmp_path) == first == Digests().of(tmp_path)
    (tmp_path / "a").write_text("other")
    other = digests.of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "c")
    renamed = digests.of(tmp_path)
    (tmp_path / "c").unlink()
    assert len({first, other, renamed, digests.of(tmp_path)}) == 4
