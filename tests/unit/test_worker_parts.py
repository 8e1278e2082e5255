"""The small parts of the worker: settings, crew, routines, the catalogue's offer, imports."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.artifacts import ArtifactStore
from jobs.catalog import Catalog
from jobs.errors import ArtifactError, ServiceFull, ServiceUnreachable, SetupError
from jobs.job import Job, JobState, Lease
from jobs.store import JobStore, Sweep
from jobs.workers import Worker
from tests.doubles.waiting import PATIENCE, eventually
from worker import handback
from worker.__main__ import main, read_settings
from worker.app import make_launcher
from worker.crew import Crew
from worker.devices import Devices
from worker.evidence import tail
from worker.housekeeping import Housekeeping
from worker.offer import Offer
from worker.parent import PreloadedParent
from worker.process import Launcher
from worker.routines import Outages, Routine
from worker.settings import Settings, data_roots, resolve_plugins
from worker.sources import code_digest, code_stamp
from worker.supervisor import Assignment, Tools


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(home=tmp_path / "home", roots=(), url="redis://:secret@nowhere")
    made.make_folders()
    return made


def test_a_password_is_not_shown_with_the_settings(settings: Settings) -> None:
    assert "secret" not in repr(settings)


def test_a_home_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    settings = Settings(home=tmp_path / "home", roots=(), url="")
    with pytest.raises(SetupError, match="UNROLL_HOME") as caught:
        settings.make_folders()
    assert "\n" not in str(caught.value)


def test_data_roots_are_the_home_s_and_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNROLL_DATA_ROOTS", raising=False)
    start = tmp_path / "project"
    assert data_roots(tmp_path, start) == (tmp_path / "data", start)


@pytest.mark.parametrize("start", ["/", "/people", "/people/me", "/people/me/../me"])
def test_neither_the_root_nor_a_user_s_home_is_opened_as_a_whole(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNROLL_DATA_ROOTS", raising=False)
    monkeypatch.setenv("HOME", "/people/me")
    assert data_roots(Path("/h"), Path(start)) == (Path("/h/data"),)
    assert Path("/people/me/x") in data_roots(Path("/h"), Path("/people/me/x"))


def test_an_operator_may_say_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    monkeypatch.setenv("UNROLL_DATA_ROOTS", os.pathsep.join([str(one), "", str(two)]))
    with pytest.raises(SetupError, match=f"UNROLL_DATA_ROOTS names {two}, which is no folder"):
        data_roots(Path("/h"), Path("/start"))
    two.mkdir()
    assert data_roots(Path("/h"), Path("/start")) == (one, two)


def test_plugins_are_found_from_wherever_a_runner_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLL_PLUGINS", os.pathsep.join(["mine", ""]))
    with pytest.raises(SetupError, match=f"UNROLL_PLUGINS names {tmp_path}/mine, which is no fold"):
        resolve_plugins()
    (tmp_path / "mine").mkdir()
    resolve_plugins()
    assert os.environ["UNROLL_PLUGINS"] == str(tmp_path / "mine")


def test_the_command_line_says_what_the_worker_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", "redis://somewhere")
    given = read_settings(
        ["--home", str(tmp_path), "--queues", "a, b", "--labels=x", "--slots", "3"]
    )
    assert (given.queues, given.labels, given.slots) == (("a", "b"), ("x",), 3)
    assert given.answer_slots == 1
    assert read_settings(["--answer-slots", "0"]).answer_slots == 0
    assert (given.home, given.url) == (tmp_path, "redis://somewhere")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--slots", "0"],
        ["--slots", "257"],
        ["--answer-slots", "-1"],
        ["--slots", "x"],
        ["--queues", ","],
        ["--labels", "\udcff"],
    ],
)
def test_a_wrong_argument_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_without_a_service_the_worker_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", f"unix://{tmp_path}/nobody")
    monkeypatch.setattr("worker.__main__.set_up_logging", lambda: None)
    assert main(["--home", str(tmp_path)]) == 3
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("unroll: unix://")


def test_what_a_worker_refuses_it_says_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*_: object) -> None:
        raise SetupError("a worker called 'x' runs already")

    monkeypatch.setattr("worker.__main__.set_up_logging", lambda: None)
    monkeypatch.setattr("worker.__main__.WorkerProcess", taken)
    monkeypatch.setenv("UNROLL_REDIS_URL", f"unix://{tmp_path}/nobody")
    assert main(["--home", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "unroll: a worker called 'x' runs already\n"


class Shop:
    """Stand in for the store: jobs to take, in order."""

    def __init__(self, *specs: dict[str, Any]) -> None:
        self._specs = list(specs)
        self._lock = threading.Lock()
        self.seen: list[Worker] = []
        self.nonces: list[str] = []
        self.away = False
        self.garbled = False

    def acquire(self, worker: Worker, ttl: float, nonce: str) -> tuple[Job, Lease] | None:
        self.nonces.append(nonce)
        if self.away:
            raise ServiceUnreachable("away")
        if self.garbled:
            raise TypeError("Progress has no field 'mood'")
        with self._lock:
            self.seen.append(worker)
            if not self._specs:
                return None
            spec = self._specs.pop(0)
            kind = spec.get("kind", "train")
            job = Job(f"job {len(self._specs)}", kind, JobState.RUNNING, spec)
            return job, Lease(job.id, 1, worker.id, 0)


class Hall:
    """A crew whose supervisors wait until they are let go."""

    def __init__(self, shop: Shop, settings: Settings, devices: Devices) -> None:
        self.go = threading.Event()
        self.running: list[Assignment] = []
        self.most = 0
        tools = Tools(
            cast(JobStore, shop),
            ArtifactStore(settings.home / "store"),
            Launcher(),
            settings,
            threading.Event(),
        )
        self.crew = Crew(tools, Worker(id="w", slots=2), devices, self._supervise)

    def _supervise(self, tools: Tools, assignment: Assignment) -> None:
        self.running.append(assignment)
        self.most = max(self.most, len(self.running))
        self.go.wait(PATIENCE)
        self.running.remove(assignment)


def test_a_crew_takes_what_fits_and_then_the_rest(settings: Settings) -> None:
    shop = Shop({}, {}, {}, {}, {})
    hall = Hall(shop, settings, Devices(2, [0, 1]))
    hall.crew.fill()
    eventually(lambda: len(hall.running) == 2)
    assert [(each.free_slots, each.free_gpus) for each in shop.seen] == [(2, 2), (1, 1)]
    assert {each.share.gpus for each in hall.running} == {(0,), (1,)}
    assert hall.crew.worker.free_slots == 0
    hall.go.set()
    assert hall.crew.wait(PATIENCE)
    assert hall.most == 2
    assert hall.crew.take() is None
    assert hall.crew.worker.free_slots == 2


def test_a_crew_answers_beside_its_slots(settings: Settings) -> None:
    shop = Shop({}, {"kind": "predict"}, {"kind": "predict"})
    hall = Hall(shop, settings, Devices(1, answer_slots=1))
    hall.crew.fill()
    eventually(lambda: len(hall.running) == 2)
    assert [(each.free_slots, each.free_answer_slots) for each in shop.seen] == [(1, 1), (0, 1)]
    assert (hall.crew.worker.free_slots, hall.crew.worker.free_answer_slots) == (0, 0)
    assert hall.crew.take() is None
    hall.crew._tools.draining.set()
    hall.go.set()
    assert hall.crew.wait(PATIENCE)
    assert hall.crew.worker.free_answer_slots == 0


def test_a_supervisor_that_fails_gives_its_devices_back(settings: Settings) -> None:
    hall = Hall(Shop({}), settings, devices := Devices(1))

    def fail(tools: Tools, assignment: Assignment) -> None:
        raise RuntimeError("a mistake of ours")

    hall.crew._supervise = fail
    with pytest.raises(RuntimeError):
        hall.crew.work()
    assert devices.free_slots == 1


def test_a_thread_that_cannot_be_started_costs_no_slot(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hall = Hall(Shop({}, {}), settings, Devices(1))
    with monkeypatch.context() as without_threads:
        without_threads.setattr("threading.Thread.start", fail)
        with pytest.raises(RuntimeError):
            hall.crew.fill()
    assert hall.crew.worker.free_slots == 1
    hall.go.set()
    hall.crew.fill()
    assert hall.crew.wait(PATIENCE)


def test_a_draining_crew_takes_nothing_and_offers_nothing(settings: Settings) -> None:
    hall = Hall(Shop({}), settings, Devices(1))
    hall.crew._tools.draining.set()
    hall.crew.fill()
    assert not hall.running
    assert hall.crew.worker.free_slots == 0


def test_a_crew_waits_while_what_it_forks_from_is_loaded(settings: Settings) -> None:
    hall = Hall(Shop({}), settings, Devices(1))
    parent = PreloadedParent()  # not started yet
    hall.crew._tools = replace(hall.crew._tools, launcher=Launcher(parent=parent))
    assert hall.crew.take() is None
    assert hall.crew.worker.free_slots == 0
    parent.close()
    assert hall.crew.take() is not None


def test_a_crew_without_room_takes_nothing_until_there_is_some_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    hall = Hall(shop := Shop({}, {}, {}), settings, Devices(1))
    hall.go.set()
    with monkeypatch.context() as without_room:
        hall.crew._supervise = lambda *_: without_room.setattr("os.posix_fallocate", full)
        hall.crew.work()  # the disk gets full during the first job, and no other is taken
        assert hall.crew.worker.free_slots == 0
        assert len(shop.seen) == 1
    monkeypatch.setattr("worker.room._HOLDS", 0.0)
    hall.crew._room.doubt()
    assert hall.crew.take() is not None
    assert [each.message.partition(":")[0] for each in caplog.records] == [
        "no job is taken",
        "there is room again, and jobs are taken",
    ]
    assert not list(settings.attempts.iterdir())


def test_a_job_that_was_taken_at_the_last_moment_is_waited_for(settings: Settings) -> None:
    shop, asked, answer = Shop({}), threading.Event(), threading.Event()
    acquire = shop.acquire

    def slowly(*question: Any) -> Any:
        asked.set()
        answer.wait(PATIENCE)
        return acquire(*question)

    shop.acquire = slowly  # type: ignore[method-assign]
    hall = Hall(shop, settings, Devices(1))
    hall.go.set()
    seen: list[str] = []
    supervise = hall.crew._supervise
    hall.crew._supervise = lambda *given: (supervise(*given), seen.append("done"))[0]
    filling = threading.Thread(target=hall.crew.fill)
    filling.start()
    asked.wait(PATIENCE)
    threading.Timer(0.05, answer.set).start()
    assert hall.crew.wait(PATIENCE)
    assert seen == ["done"]
    filling.join()


def test_an_outage_ends_a_thread_s_work_quietly(settings: Settings) -> None:
    shop = Shop({})
    hall = Hall(shop, settings, Devices(1))
    hall.crew.fill()
    eventually(lambda: hall.running)
    shop.away = True
    hall.go.set()
    assert hall.crew.wait(PATIENCE)
    with pytest.raises(ServiceUnreachable):
        hall.crew.fill()


def test_a_crew_asks_again_until_it_has_an_answer(settings: Settings) -> None:
    shop = Shop({}, {})
    crew = Hall(shop, settings, Devices(3)).crew
    shop.away = True
    for _ in range(2):
        with pytest.raises(ServiceUnreachable):
            crew.take()
    shop.away = False
    for _ in range(3):
        crew.take()
    first, *rest = shop.nonces
    assert rest[:2] == [first, first]
    assert len({first, *rest[2:]}) == 3, "an answered question is not asked again"


def test_a_crew_does_not_ask_again_for_an_answer_that_it_cannot_read(settings: Settings) -> None:
    shop = Shop({})
    crew = Hall(shop, settings, Devices(3)).crew
    shop.garbled = True
    for _ in range(2):
        with pytest.raises(TypeError):
            crew.take()
    shop.garbled = False
    assert crew.take() is not None
    assert len({*shop.nonces}) == 3, "the lease of that answer would be renewed for ever"


def test_a_spec_whose_wishes_cannot_be_read_is_left_to_the_attempt_to_refuse(
    settings: Settings,
) -> None:
    hall = Hall(Shop({"resources": {"gpus": "many"}}), settings, Devices(1, [0]))
    assignment = hall.crew.take()
    assert assignment is not None
    assert assignment.share.gpus == (0,)


def test_a_routine_goes_on_through_outages_and_mistakes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script: Sequence[Exception | None] = [
        ServiceUnreachable("no service answers"),
        ServiceUnreachable("no service answers"),
        None,
        ValueError("a mistake"),
        None,
    ]
    done = []

    def act() -> None:
        done.append(1)
        if len(done) <= len(script) and (error := script[len(done) - 1]):
            raise error

    routine = Routine("looking", 0.001, act)
    routine.start()
    eventually(lambda: len(done) > len(script))
    routine.stop(PATIENCE)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "looking: no service answers",
        "looking: the service answers again",
        "looking failed",
    ]


def test_routines_tell_of_an_outage_once_together(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages()
    for name in ("looking", "sweeping", "sweeping"):
        outages.hold_up(name, ServiceUnreachable("no service answers"))
    outages.hold_up("clearing", ServiceFull("the service's memory is full"))
    for name in ("announcing", "sweeping", "looking", "clearing"):
        outages.let_go(name)
    assert [record.getMessage() for record in caplog.records] == [
        "looking: no service answers",
        "clearing: the service's memory is full",
        "sweeping: the service answers again",
        "clearing: the service answers again",
    ]


def test_who_drains_says_of_no_service_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    draining = threading.Event()
    outages = Outages(draining)
    outages.hold_up("looking", ServiceUnreachable("no service answers"))
    draining.set()
    outages.let_go("looking")
    assert [record.getMessage() for record in caplog.records] == ["looking: no service answers"]


CATALOG = Catalog({}, {})
PRINTS = "import sys; open(sys.argv[1], 'a').write('x'); print('{\"models\": [], \"data\": []}')"


class Board:
    def __init__(self) -> None:
        self.published: list[tuple[Any, ...]] = []

    def publish_catalog(self, *published: Any) -> None:
        self.published.append(published)


def make_offer(settings: Settings, board: Board, code: str) -> tuple[Offer, list[str], Path]:
    ran, digests = settings.home / "ran", list[str]()
    command = [sys.executable, "-c", code, str(ran)]
    return Offer(cast(JobStore, board), settings, digests.append, command), digests, ran


def test_the_catalogue_is_made_once_and_kept(settings: Settings) -> None:
    board = Board()
    for _ in range(2):
        offer, digests, ran = make_offer(settings, board, PRINTS)
        offer.publish("w")
        offer.publish("w")
        assert digests == [CATALOG.digest]
    assert ran.read_text() == "x"
    assert board.published == [(("default",), CATALOG, "w")] * 4


def test_a_torn_catalogue_in_the_cache_is_made_again(settings: Settings) -> None:
    offer, _, ran = make_offer(settings, Board(), PRINTS)
    offer.publish("w")
    (kept,) = settings.cache.iterdir()
    kept.write_text("{")
    make_offer(settings, Board(), PRINTS)[0].publish("w")
    assert ran.read_text() == "xx"


def test_a_catalogue_that_the_disk_has_no_room_for_is_published(settings: Settings) -> None:
    offer, digests, _ = make_offer(settings, Board(), PRINTS)
    settings.cache.rmdir()
    settings.cache.touch()  # whoever runs the tests, nothing can be written below a file
    offer.publish("w")
    assert digests == [CATALOG.digest]


def test_a_torch_side_that_fails_is_told_of_and_asked_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    offer, digests, _ = make_offer(settings, Board(), "import sys; sys.exit('no torch here')")
    with pytest.raises(subprocess.CalledProcessError):
        offer.publish("w")
    assert "no torch here" in caplog.text
    assert not digests
    assert not list(settings.cache.iterdir())


def test_the_digest_of_the_code_follows_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_digest(["a"])
    assert before == code_digest(["a"]) != code_digest(["b"])
    (tmp_path / "datamodules").mkdir()
    plugin = tmp_path / "datamodules" / "mine.py"
    plugin.write_text("x = 1")
    monkeypatch.setenv("UNROLL_PLUGINS", str(tmp_path))
    with_plugin = code_digest(["a"])
    plugin.write_text("x = 2")
    assert len({before, with_plugin, code_digest(["a"])}) == 3


def test_the_stamp_of_the_code_follows_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("worker.sources._OURS", ("mine",))
    stamps = [code_stamp(), code_stamp()]
    assert stamps[0] == stamps[1]
    (package / "more.py").write_text("x = 1")
    stamps.append(code_stamp())
    (package / "more.py").write_text("x = 12")
    stamps.append(code_stamp())
    (package / "more.py").unlink()
    stamps.append(code_stamp())
    assert len(set(stamps)) == 3
    assert stamps[-1] == stamps[0]


@pytest.mark.parametrize(
    ("said", "start"), [(None, "fork"), ("", "fork"), ("interpreter", "interpreter")]
)
def test_how_runners_start_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, start: str
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", "unix:///nobody")
    monkeypatch.delenv("UNROLL_START", raising=False)
    if said is not None:
        monkeypatch.setenv("UNROLL_START", said)
    settings = read_settings(["--home", str(tmp_path)])
    assert settings.start == start
    assert (make_launcher(settings)._parent is not None) is (start == "fork")


def test_a_way_to_start_that_there_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", "unix:///nobody")
    monkeypatch.setenv("UNROLL_START", "spawn")
    assert main(["--home", str(tmp_path)]) == 2
    assert "'spawn'; it may be fork or interpreter" in capsys.readouterr().err


def test_for_how_long_the_cache_is_kept_is_a_number_of_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", "unix:///nobody")
    monkeypatch.delenv("UNROLL_CACHE_DAYS", raising=False)
    assert read_settings(["--home", str(tmp_path)]).cache_days == 30
    monkeypatch.setenv("UNROLL_CACHE_DAYS", "0.5")
    assert read_settings(["--home", str(tmp_path)]).cache_days == 0.5
    monkeypatch.setenv("UNROLL_CACHE_DAYS", "never")
    with pytest.raises(SetupError, match="UNROLL_CACHE_DAYS is 'never'; it must be a number"):
        read_settings(["--home", str(tmp_path)])


def test_who_takes_over_what_was_lost_says_so(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store = SimpleNamespace(
        sweep=lambda ttl: Sweep(expired=["lost"], bells=[]), cleared=lambda since: ([], since)
    )
    artifacts = ArtifactStore(settings.home / "store")
    Housekeeping(cast(JobStore, store), artifacts, settings).sweep()
    assert caplog.messages == ["job lost: its worker fell silent and its lease ran out"]


def test_folders_of_cleared_jobs_go_and_only_old_ones_of_strangers(settings: Settings) -> None:
    artifacts = ArtifactStore(settings.home / "store")
    (settings.home / "file").write_text("x")
    for job in ("cleared", "known", "old", "young"):
        (settings.attempts / job / "0001").mkdir(parents=True)
        artifacts.put(f"jobs/{job}/file", settings.home / "file")
    for job in ("known", "old"):
        for folder in (settings.attempts / job / "0001", settings.attempts / job):
            os.utime(folder, (0, 0))
    asked = []

    def cleared(since: str) -> tuple[list[str], str]:
        asked.append(since)
        return (["cleared", "never-seen"], "7") if since == "-" else ([], since)

    store = SimpleNamespace(
        sweep=lambda ttl: Sweep(expired=[], bells=[]),
        cleared=cleared,
        known=lambda jobs: {"known"} & set(jobs),
    )
    keeping = Housekeeping(cast(JobStore, store), artifacts, settings)
    for _ in range(3):
        keeping.sweep()
    assert asked == ["-", "7", "7"]
    keeping.clear()
    keeping.clear()
    assert sorted(each.name for each in settings.attempts.iterdir()) == ["known", "young"]
    assert [key.split("/")[1] for key in artifacts.list()] == ["known", "old", "young"]


@pytest.mark.parametrize("job", ["..", "../x", "/etc", "", "."])
def test_an_id_never_leads_out_of_the_folder_of_attempts(settings: Settings, job: str) -> None:
    with pytest.raises(ArtifactError, match="no id"):
        settings.attempts_of(job)


def test_a_lease_is_not_handed_back_to_a_service_that_is_gone_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    monkeypatch.setattr("worker.handback._PATIENCE", 1_000.0)
    monkeypatch.setattr("worker.handback.time.sleep", tries.append)
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)
    lease = {"job": "j", "attempt": 1, "worker": "w", "expires": 0}
    monkeypatch.setenv("UNROLL_HANDBACK", json.dumps({"namespace": "n", "lease": lease}))
    monkeypatch.setenv("UNROLL_REDIS_URL", f"unix://{tmp_path}/redis.sock?db=0")
    assert handback.main() == 1
    assert len(tries) == 10


def test_a_socket_that_comes_and_goes_is_no_sign_of_an_end(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/redis.sock?db=0"
    assert handback.is_missing(url)
    (tmp_path / "redis.sock").touch()
    assert not handback.is_missing(url)


@pytest.mark.parametrize("url", ["redis://:pw@host:6379/0", "rediss://host"])
def test_of_a_service_elsewhere_nothing_is_known_to_be_missing(url: str) -> None:
    assert not handback.is_missing(url)


def test_of_a_long_log_the_tail_is_taken(tmp_path: Path) -> None:
    assert tail(tmp_path / "nothing", 8_000) == ""
    log = tmp_path / "log"
    log.write_text("x" * 20_000 + "\nthe end\n")
    assert tail(log, 8_000).endswith("x\nthe end")
    assert len(tail(log, 8_000)) <= 8_000
