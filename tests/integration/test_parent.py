"""The preloaded parent, as the worker holds it: what it is for, and how it can fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from jobs.spec import Component, TrainSpec
from tests.doubles.parents import SCRIPTED, SCRIPTED_PARENT, wait_until_ready
from tests.doubles.waiting import PATIENCE, eventually, guard_of, is_alive
from worker import parent as parent_module
from worker.folder import Attempt, AttemptFolder
from worker.parent import PreloadedParent
from worker.process import Exit, Handback, Launcher, Running

ROOT = Path(__file__).parents[2]
WITH_A_THREAD = """
import threading, time
from worker import forking
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
forking.serve(lambda arguments: 0)
"""
#: Stands for a worker: it says its parent's process id once that is ready, and sleeps.
WORKER = f"""
import sys, time
from tests.doubles.parents import wait_until_ready
from worker.parent import PreloadedParent
parent = PreloadedParent({SCRIPTED_PARENT!r})
parent.keep()
if sys.argv[1] == "ready":
    wait_until_ready(parent)
print(parent.pid, flush=True)
time.sleep(600)
"""


Make = Callable[..., PreloadedParent]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[PreloadedParent] = []

    def start(command: list[str] = SCRIPTED_PARENT) -> PreloadedParent:
        made.append(PreloadedParent(command))
        wait_until_ready(made[-1])
        return made[-1]

    yield start
    for parent in made:
        parent.close()


class Runs:
    """Launch runners that do what a script says, each in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._started: list[Running] = []

    def start(self, parent: PreloadedParent, code: str) -> Running:
        folder = AttemptFolder(self._home / str(len(self._started)))
        attempt = Attempt("job", 1, roots=(), cache="")
        folder.lay(TrainSpec(model=Component("m"), data=Component("d")), attempt)
        (folder.path / "script").write_text(code)
        launcher = Launcher(SCRIPTED, parent)
        self._started.append(launcher.start(folder, attempt, grace=60, handback=Handback()))
        return self._started[-1]

    def clear(self) -> None:
        for running in self._started:
            if running.wait(0) is None:
                running.kill()
            running.close(done=True)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    started = Runs(tmp_path)
    yield started
    started.clear()


def parent_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


def test_a_guard_is_forked_from_the_parent_and_leaves_no_zombie(make: Make, runs: Runs) -> None:
    parent = make()
    running = runs.start(parent, "time.sleep(600)")
    assert parent_of(guard_of(running)) == parent.pid
    assert parent_of(running.pid) == guard_of(running)
    names = [Path(f"/proc/{pid}/comm").read_text() for pid in (parent.pid, guard_of(running))]
    assert names == ["unroll-parent\n", "unroll-guard\n"]
    running.kill()
    running.close(done=True)
    eventually(lambda: not psutil.pid_exists(guard_of(running)))
    assert not psutil.Process(parent.pid).children()


def test_before_the_parent_is_ready_a_runner_starts_without_it(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    parent = PreloadedParent([sys.executable, "-c", "import time; time.sleep(600)"])
    assert runs.start(parent, "sys.exit(3)").wait(PATIENCE) == Exit("exited", 3)
    parent.keep()
    assert runs.start(parent, "sys.exit(4)").wait(PATIENCE) == Exit("exited", 4)
    parent.close()
    assert "no preloaded parent is there" in caplog.text
    assert "still loading" in caplog.text


def test_a_parent_is_waited_for_while_it_loads_and_not_for_ever(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not make().is_loading
    parent = PreloadedParent([sys.executable, "-c", "import time; time.sleep(600)"])
    assert Launcher(parent=parent).is_loading, "one is about to be started"
    parent.keep()
    assert parent.is_loading
    monkeypatch.setattr(parent_module, "_LOADING_SECONDS", 0.0)
    assert not parent.is_loading
    parent.close()
    assert not parent.is_loading
    assert not Launcher().is_loading


def test_a_parent_that_hangs_while_it_loads_is_started_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make()
    hanging = PreloadedParent([sys.executable, "-c", "import time; time.sleep(600)"])
    hanging.keep()
    before = {"ready": ready.pid, "hanging": hanging.pid}
    monkeypatch.setattr(parent_module, "_HANGING_SECONDS", 0.0)
    for parent in (ready, hanging):
        parent._next_start = 0.0
        parent.keep()
    assert ready.pid == before["ready"]
    assert hanging.pid not in (0, before["hanging"])
    assert not is_alive(before["hanging"])
    hanging.close()


@pytest.mark.parametrize("ends", ["killed", "closed"])
def test_the_end_of_the_parent_leaves_running_jobs_alone(
    make: Make, runs: Runs, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_module, "_FIRST_PAUSE", 0.01)
    parent = make()
    first = parent.pid
    running = runs.start(parent, "time.sleep(600)")
    if ends == "closed":
        parent.close()
    else:
        os.kill(first, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(first))
    running.beat()
    assert running.wait(0.3) is None
    assert runs.start(parent, "sys.exit(3)").wait(PATIENCE) == Exit("exited", 3)
    assert running.kill() == Exit("killed", None, "SIGKILL")
    running.close(done=True)
    eventually(lambda: not is_alive(guard_of(running)))
    if ends == "killed":
        wait_until_ready(parent)
        assert parent.pid != first
    else:
        parent.keep()
        assert parent.pid == 0


def test_a_parent_that_hangs_is_replaced(
    make: Make, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_module, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(parent_module, "_FIRST_PAUSE", 0.01)
    parent = make()
    first = parent.pid
    os.kill(first, signal.SIGSTOP)
    assert runs.start(parent, "sys.exit(3)").wait(PATIENCE) == Exit("exited", 3)
    assert not psutil.pid_exists(first)
    wait_until_ready(parent)


def test_a_parent_with_threads_forks_nothing(
    make: Make, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    parent = make([sys.executable, "-P", "-c", WITH_A_THREAD])
    assert runs.start(parent, "sys.exit(3)").wait(PATIENCE) == Exit("exited", 3)
    assert "has 2 threads" in caplog.text


def test_a_runner_has_the_code_as_it_is_now(
    make: Make, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent_module, "_FIRST_PAUSE", 0.01)
    parent = make()
    first = parent.pid
    monkeypatch.setattr(parent_module, "code_stamp", lambda: "changed")
    running = runs.start(parent, "time.sleep(600)")
    assert parent_of(guard_of(running)) == os.getpid()
    wait_until_ready(parent)
    assert parent.pid != first
    running = runs.start(parent, "time.sleep(600)")
    assert parent_of(guard_of(running)) == parent.pid


def test_a_parent_that_ends_again_and_again_is_started_ever_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(parent_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    starts: list[float] = []

    class Ended:
        running = False
        stamp = ""

        def __init__(self, command: object) -> None:
            starts.append(now[0])

        def end(self) -> None:
            pass

    monkeypatch.setattr(parent_module, "Parent", Ended)
    parent = PreloadedParent()
    awaited: list[float] = []
    while now[0] < 1_000:
        if parent.is_loading:
            awaited.append(now[0])
        parent.keep()
        now[0] += 1
    assert starts == [0, 2, 6, 14, 30, 62, 126, 254, 510, 810]
    assert awaited == starts, "between its starts nobody waits for it"


def test_a_parent_that_cannot_be_started_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        PreloadedParent().keep()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("when", ["ready", "at once"])
def test_a_killed_worker_leaves_no_parent(when: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, when], cwd=ROOT, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        parent = int(worker.stdout.readline())
        assert is_alive(parent)
        worker.kill()
        worker.wait()
        eventually(lambda: not is_alive(parent))


def test_a_parent_whose_worker_has_closed_the_socket_ends_by_itself() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, subprocess.Popen(SCRIPTED_PARENT, stdin=theirs.fileno()) as parent:
        theirs.close()
        with ours:
            assert json.loads(ours.recv(100)) == {"ready": True}
        assert parent.wait(PATIENCE) == 0


def test_a_service_manager_that_stops_all_at_once_leaves_the_end_to_the_worker(make: Make) -> None:
    parent = make()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(parent.pid, number)
    time.sleep(0.1)
    parent._current().require_ready()
    assert os.getsid(parent.pid) != os.getsid(0)
