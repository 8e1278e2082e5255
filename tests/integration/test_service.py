"""The whole service of a home: `unroll up`, `unroll down`, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.client import Client
from jobs.errors import ServiceUnreachable, SetupError
from jobs.job import JobState
from jobs.service import Service, require_worker
from jobs.service.embedded import EmbeddedRedis, HomeLock
from jobs.spec import Component, Resources, TrainSpec

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, those in sessions of their own too."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def running(pids: set[int]) -> set[int]:
    """Return those of the processes that have not ended."""

    def lives(pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}

    return {pid for pid in pids if lives(pid)}


class Up:
    """An `unroll up` in a process of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if "UNROLL" not in name}
        self.home = home
        self.environment = {**environment, "UNROLL_HOME": str(home)}
        self.process = self.start("up", "--json", *arguments)
        assert self.process.stdout is not None
        self.said: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.client = Client(self.said["redis"], home)
        wait_until(self.client.workers, "the worker announced itself")

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command on the same home."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command on the same home; return its status and what it said."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=90)
        return process.returncode, out.decode(), err.decode()

    def end(self, with_signal: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(with_signal)
        self.process.communicate(timeout=90)
        return self.process.returncode


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.client.close()
        each.process.kill()
        each.process.communicate()
    left_over = EmbeddedRedis(tmp_path)  # what a kill leaves, the next start clears
    left_over.start()
    left_over.stop()


def test_up_says_where_things_are_and_down_ends_all(up: Callable[..., Up]) -> None:
    service = up("--slots", "2", "--answer-slots", "3")
    assert service.said["home"] == str(service.home)
    assert service.said["pid"] == service.process.pid
    (worker,) = service.client.workers()
    assert (worker.pid, worker.slots) == (service.said["worker_pid"], 2)
    assert worker.answer_slots == 3
    children = descendants(service.process.pid)

    status, _, err = service.run("up")
    assert status == 2
    assert err.startswith(f"unroll: a service of {service.home} is running already")
    assert f"pid {service.process.pid}" in err

    assert service.run("down") == (0, f"stopped the service of {service.home}\n", "")
    service.process.communicate(timeout=30)
    assert service.process.returncode == 0
    assert running(children) == set()
    assert service.run("down") == (0, f"no service runs in {service.home}\n", "")
    status, _, err = service.run("ls")
    assert (status, "start one with `unroll up`" in err) == (3, True)


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains(up: Callable[..., Up], with_signal: signal.Signals) -> None:
    service = up()
    children = descendants(service.process.pid)
    assert service.end(with_signal) == 0
    assert running(children) == set()
    assert not (service.home / "address").exists()


def test_a_killed_service_leaves_nothing_running(up: Callable[..., Up]) -> None:
    service = up()
    children = descendants(service.process.pid)
    assert len(children) >= 2
    assert service.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not running(children), "children outlived their service")
    again = up()
    assert again.said["redis"] != service.said["redis"]


def test_a_worker_that_dies_is_started_again(up: Callable[..., Up]) -> None:
    service = up()
    os.kill(service.said["worker_pid"], signal.SIGKILL)
    wait_until(
        lambda: [w for w in service.client.workers() if w.pid != service.said["worker_pid"]],
        "the worker came back",
    )


def test_a_redis_that_dies_is_started_again_with_its_data(up: Callable[..., Up]) -> None:
    service = up()
    children = descendants(service.process.pid)
    (redis,) = (pid for pid in children if "-server" in Path(f"/proc/{pid}/comm").read_text())
    job = service.client.submit(
        TrainSpec(
            model=Component("none"), data=Component("none"), resources=Resources(queue="elsewhere")
        )
    )
    os.kill(redis, signal.SIGKILL)
    wait_until(lambda: not running({redis}), "the server was killed")

    def answers() -> bool:
        try:
            return job.state is JobState.QUEUED
        except ServiceUnreachable:
            return False

    wait_until(answers, "the server came back")


def test_an_embedded_client_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLL_STORE", str(tmp_path / "of other jobs"))
    before = descendants(os.getpid())  # servers of other tests
    with Client.embedded() as client:
        home = client.home
        wait_until(client.workers, "the worker announced itself")
        children = descendants(os.getpid()) - before
        assert len(children) >= 2
        assert getattr(HomeLock(home).holder(), "pid", None) == os.getpid()
        assert client.store_root.is_relative_to(home)
        assert client.store_root.is_dir()
    assert running(children) & descendants(os.getpid()) == set()
    assert not home.exists()
    assert not (tmp_path / "of other jobs").exists()


def test_an_embedded_client_keeps_a_home_that_was_named(tmp_path: Path) -> None:
    with Client.embedded(home=tmp_path) as client:
        client.store.ping()
        assert client.store_root == tmp_path / "store"
    assert (tmp_path / "redis").is_dir()
    assert not (tmp_path / "address").exists()


def test_a_home_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = descendants(os.getpid())
    with pytest.raises(SetupError, match="cannot write to the home"), Service(tmp_path / "file"):
        pass
    assert descendants(os.getpid()) <= before


def test_a_client_only_installation_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"torch.* missing\): pip install 'unroll\[worker\]'"):
        require_worker()


def test_a_part_that_ends_at_once_again_and_again_is_given_up(
    tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho nothing works here\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("jobs.service.sys.executable", str(python))
    service = Service(tmp_path, url=redis_server.url, log=tmp_path / "worker.log")

    def mended_for_ever() -> bool:
        service.mend()
        return False

    with service, pytest.raises(SetupError, match="ends again and again: nothing works here"):
        wait_until(mended_for_ever, "it was given up")


@pytest.mark.parametrize(
    ("variable", "given", "said"),
    [
        ("UNROLL_DATA_ROOTS", "/nope", "UNROLL_DATA_ROOTS names /nope, which is no folder"),
        ("UNROLL_STORE", "/dev/null/store", "cannot keep files in /dev/null/store"),
        ("UNROLL_PLUGINS", "/nope", "UNROLL_PLUGINS names /nope, which is no folder"),
        ("UNROLL_START", "spoon", "UNROLL_START is 'spoon'; it may be fork or interpreter"),
        ("UNROLL_WARM_MB", "much", "UNROLL_WARM_MB is 'much'; it must be a number"),
        ("UNROLL_WARM_SECONDS", "-1", "UNROLL_WARM_SECONDS is '-1'; it must be a number"),
    ],
)
def test_a_wrong_setting_is_one_line_of_up(
    tmp_path: Path, variable: str, given: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "up", "--home", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, variable: given},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"unroll: {said}")
    assert done.stderr.count("\n") == 1, done.stderr


def test_an_embedded_client_says_what_its_worker_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLL_START", "spoon")
    with pytest.raises(SetupError, match=r"^UNROLL_START is 'spoon'"), Client.embedded():
        pass


def test_up_for_a_redis_elsewhere_that_does_not_answer_starts_nothing(tmp_path: Path) -> None:
    service = Service(tmp_path / "home", url="redis://:secret@127.0.0.1:1/0")
    with pytest.raises(ServiceUnreachable, match="no service answers") as caught:
        service.start()
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "home").exists()
