"""The guard and what speaks to it, with real processes that need no service."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jobs.spec import Component, TrainSpec
from tests.doubles.parents import SCRIPTED, SCRIPTED_PARENT, wait_until_ready
from tests.doubles.waiting import PATIENCE, eventually, guard_of, is_alive
from worker import guard
from worker.folder import Attempt, AttemptFolder
from worker.parent import PreloadedParent
from worker.process import Exit, Handback, Launcher, Running

SLEEP = "say('ready')\ntime.sleep(600)"


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    laid = AttemptFolder(tmp_path / "attempt")
    spec = TrainSpec(model=Component("m"), data=Component("d"))
    laid.lay(spec, Attempt("job", 1, roots=(), cache="", threads=2, gpus=(1, 3)))
    return laid


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def parent() -> Iterator[PreloadedParent]:
    """Return a parent that is ready."""
    preloaded = PreloadedParent(SCRIPTED_PARENT)
    wait_until_ready(preloaded)
    yield preloaded
    preloaded.close()


@pytest.fixture(params=["interpreter", "fork"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Return each of the two ways to start a runner; all of this holds for both."""
    forks = request.param == "fork"
    return Launcher(SCRIPTED, request.getfixturevalue("parent") if forks else None)


@pytest.fixture
def start(folder: AttemptFolder, launcher: Launcher) -> Iterator[Start]:
    started: list[Running] = []

    def go(
        code: str, *, ranks: int = 1, grace: float = 60.0, handback: Handback | None = None
    ) -> Running:
        (folder.path / "script").write_text(code)
        attempt = replace(folder.read_attempt(), world_size=ranks)
        running = launcher.start(folder, attempt, grace=grace, handback=handback or Handback())
        started.append(running)
        return running

    yield go
    for running in started:
        if running.wait(0) is None:
            running.kill()
        running.close(done=True)


def ready(folder: AttemptFolder) -> None:
    eventually((folder.path / "ready").exists)


def waited(running: Running) -> Exit:
    end = running.wait(PATIENCE)
    assert end is not None
    return end


@pytest.mark.parametrize(
    ("code", "status", "by"),
    [
        ("sys.exit(0)", 0, None),
        ("sys.exit(3)", 3, None),
        ("os.abort()", None, "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, "SIGKILL"),
    ],
)
def test_the_exit_is_told_as_it_was(start: Start, code: str, status: int, by: str) -> None:
    assert waited(start(code)) == Exit("exited", status, by, 0)


def test_a_runner_that_cannot_be_started_says_why_in_its_log(folder: AttemptFolder) -> None:
    launcher = Launcher(["/no/such/program"])
    running = launcher.start(folder, folder.read_attempt(), grace=60, handback=Handback())
    assert waited(running) == Exit("exited", 127)
    assert "/no/such/program" in folder.log_file.read_text()
    running.close(done=True)


def test_the_runner_is_killed_with_all_that_it_started(start: Start, folder: AttemptFolder) -> None:
    running = start(
        "child = subprocess.Popen(['sleep', '600'])\n"
        "stray = subprocess.Popen(['setsid', '--fork', 'sh', '-c', "
        "'echo $$ > stray; exec sleep 600'])\n"
        "while not (folder / 'stray').exists() or not (folder / 'stray').read_text().strip():\n"
        "    time.sleep(0.01)\n"
        "say('child', str(child.pid))\n" + SLEEP
    )
    ready(folder)
    pids = [int((folder.path / name).read_text()) for name in ("child", "stray")]
    assert all(map(is_alive, pids))
    assert running.kill() == Exit("killed", None, "SIGKILL", 0)
    assert not any(map(is_alive, [running.pid, *pids]))


def test_what_an_ended_runner_leaves_behind_is_killed(start: Start, folder: AttemptFolder) -> None:
    end = waited(
        start("say('child', str(subprocess.Popen(['sleep', '600'], start_new_session=True).pid))")
    )
    assert end == Exit("exited", 0)
    assert not is_alive(int((folder.path / "child").read_text()))


def test_without_its_supervisor_nothing_is_left_and_the_lease_goes_back(
    start: Start, folder: AttemptFolder
) -> None:
    told = folder.path / "handed back"
    command = ["/bin/sh", "-c", f'echo "$SECRET" > "{told}.new"; mv "{told}.new" "{told}"']
    running = start(SLEEP, handback=Handback(command, {"SECRET": "password"}))
    ready(folder)
    running.close(done=False)  # as the kernel does when it dies
    eventually(told.exists)
    assert told.read_text() == "password\n"
    assert Exit.read(folder) == Exit("abandoned", None, "SIGKILL", 0)
    assert not is_alive(running.pid)
    eventually(lambda: not is_alive(guard_of(running)))


@pytest.mark.parametrize("done", [True, False])
def test_a_lease_goes_back_after_the_end_too_unless_the_record_has_it(
    start: Start, folder: AttemptFolder, done: bool
) -> None:
    told = folder.path / "handed back"
    running = start("pass", handback=Handback(["/bin/sh", "-c", f'touch "{told}"']))
    assert waited(running) == Exit("exited", 0)
    assert is_alive(guard_of(running))
    running.close(done=done)
    eventually(lambda: not is_alive(guard_of(running)))
    assert told.exists() is not done


def test_a_word_to_a_guard_that_was_let_go_reaches_nobody_else(start: Start) -> None:
    running = start(SLEEP)
    running.close(done=True)
    pipes = [os.pipe() for _ in range(8)]  # they get the numbers that were just given back
    try:
        running.beat()
        assert not select.select([ear for ear, _ in pipes], [], [], 0)[0]
        running.close(done=True)
        os.write(pipes[0][1], b"the pipes are open")
    finally:
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)


def test_a_guard_that_cannot_be_started_leaves_nothing_open(
    folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        Launcher().start(folder, folder.read_attempt(), grace=60, handback=Handback())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_worker_with_a_thousand_open_files_still_hears_its_guards(
    start: Start, folder: AttemptFolder
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1_200:
        pytest.skip("no more than 1,023 descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
    held = [os.open("/dev/null", os.O_RDONLY)]
    try:
        while held[-1] < 1_024:
            held.append(os.dup(held[-1]))
        assert waited(start("sys.exit(3)")) == Exit("exited", 3), folder.log_file.read_text()
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


#: Start of each rank: it says its process id under its number, and waits for the others.
RANKS = """
rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
say(f'rank{rank}', str(os.getpid()))
while not all((folder / f'rank{each}').exists() for each in range(size)):
    time.sleep(0.01)
"""


def ranks_of(folder: AttemptFolder, size: int) -> list[int]:
    files = [folder.path / f"rank{rank}" for rank in range(size)]
    eventually(lambda: all(file.exists() for file in files))
    return [int(file.read_text()) for file in files]


def test_each_rank_is_told_its_place_and_the_first_takes_the_commands(
    start: Start, folder: AttemptFolder
) -> None:
    running = start(
        "say('env' + os.environ['RANK'], json.dumps(dict(os.environ)))\n"
        + RANKS
        + "time.sleep(600)",
        ranks=3,
    )
    pids = ranks_of(folder, 3)
    told = [json.loads((folder.path / f"env{rank}").read_text()) for rank in range(3)]
    for rank, environment in enumerate(told):
        assert environment["RANK"] == environment["LOCAL_RANK"] == str(rank)
        assert environment["WORLD_SIZE"] == "3"
        assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    sockets = ["UNROLL_COMMANDS_FD" in environment for environment in told]
    assert sockets == [True, False, False]
    open_files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
    assert open_files == [4, 3, 3]
    assert pids[0] == running.pid
    assert {os.getpgid(pid) for pid in pids} == {running.pid}
    assert running.kill().cause == "killed"
    assert not any(map(is_alive, pids))


def test_a_runner_has_ended_when_all_of_its_ranks_have(start: Start, folder: AttemptFolder) -> None:
    running = start(
        RANKS + "while rank == 1 and not (folder / 'go').exists():\n    time.sleep(0.01)", ranks=2
    )
    first, second = ranks_of(folder, 2)
    eventually(lambda: not is_alive(first))
    assert running.wait(0.2) is None
    assert is_alive(second)
    (folder.path / "go").touch()
    assert waited(running) == Exit("exited", 0)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    ("death", "status", "by"),
    [("os._exit(3)", 3, None), ("os.kill(os.getpid(), signal.SIGSEGV)", None, "SIGSEGV")],
)
def test_a_rank_that_dies_takes_the_others_along(
    start: Start, folder: AttemptFolder, rank: int, death: str, status: int, by: str
) -> None:
    running = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"{RANKS}\nif rank == {rank}:\n    {death}\ntime.sleep(600)",
        ranks=3,
    )
    pids = ranks_of(folder, 3)
    dead = time.monotonic()
    end = waited(running)
    assert end == Exit("exited", status, by, rank=rank)
    assert time.monotonic() - dead < 10  # at once, where nothing else runs
    assert not any(map(is_alive, pids))
    assert ("rank 2" in end.describe()) is (rank == 2)


def test_a_killed_guard_takes_every_rank_along(start: Start, folder: AttemptFolder) -> None:
    running = start(RANKS + "time.sleep(600)", ranks=2)
    pids = ranks_of(folder, 2)
    os.kill(guard_of(running), signal.SIGKILL)
    assert waited(running) == Exit("unseen")
    eventually(lambda: not any(map(is_alive, pids)))


def test_the_deadline_ends_a_runner_whose_renewals_are_not_answered(
    start: Start, folder: AttemptFolder
) -> None:
    running = start(SLEEP, grace=0.5)
    assert waited(running).cause == "deadline"
    assert not is_alive(running.pid)


def test_an_answered_renewal_moves_the_deadline(start: Start, folder: AttemptFolder) -> None:
    running = start(SLEEP, grace=1.5)
    for _ in range(20):
        running.beat()
        assert running.wait(0.1) is None
    assert waited(running).cause == "deadline"


def test_the_guard_outlives_what_stops_a_whole_group(start: Start, folder: AttemptFolder) -> None:
    running = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP)
    ready(folder)
    os.kill(guard_of(running), signal.SIGTERM)
    os.kill(guard_of(running), signal.SIGINT)
    assert running.wait(0.3) is None
    assert running.kill().cause == "killed"


def test_a_killed_guard_takes_its_runner_along(start: Start, folder: AttemptFolder) -> None:
    running = start("say('child', str(subprocess.Popen(['sleep', '600']).pid))\n" + SLEEP)
    ready(folder)
    child = int((folder.path / "child").read_text())
    os.kill(guard_of(running), signal.SIGKILL)
    assert waited(running) == Exit("unseen")
    eventually(lambda: not is_alive(running.pid) and not is_alive(child))


def test_a_stopped_guard_does_not_keep_its_runner_from_being_killed(
    start: Start, folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.process._CLEAR_SECONDS", 0.5)
    running = start(SLEEP)
    ready(folder)
    os.kill(guard_of(running), signal.SIGSTOP)
    assert running.kill() == Exit("unseen")
    eventually(lambda: not is_alive(running.pid))


def test_who_hangs_tells_what_it_is_at_before_it_is_killed(
    start: Start, folder: AttemptFolder
) -> None:
    running = start(
        "import faulthandler\n"
        "def wait_for_ever():\n    say(f'ready{rank}'); time.sleep(600)\n"
        + RANKS
        + "if rank < 2:\n    faulthandler.register(signal.SIGUSR1)\nwait_for_ever()",
        ranks=3,
    )
    pids = ranks_of(folder, 3)
    eventually(lambda: all((folder.path / f"ready{rank}").exists() for rank in range(3)))
    end = running.kill(hung=True)
    assert (end.cause, end.signal) == ("hung", "SIGKILL"), "not by the signal that asks"
    assert not any(map(is_alive, pids))
    told = folder.log_file.read_text().split("What rank ")[1:]
    assert [text[0] for text in told] == ["0", "1", "2"]
    assert all(f"process {pid}, sleeping" in text for pid, text in zip(pids, told, strict=True))
    assert [text.count("in wait_for_ever") for text in told] == [1, 1, 0]
    assert "it cannot tell" in told[2]


def test_commands_go_in(start: Start, folder: AttemptFolder) -> None:
    running = start(
        "channel = socket.socket(fileno=int(os.environ['UNROLL_COMMANDS_FD']))\n"
        "said = json.loads(channel.makefile().readline())\n"
        "sys.exit(7 if said == {'command': 'stop'} else 1)"
    )
    running.send("stop")
    assert running.wait(PATIENCE) == Exit("exited", 7)


def test_the_runner_inherits_what_it_needs_and_no_credentials(
    start: Start, folder: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNROLL_REDIS_URL", "redis://:secret@nowhere/0")
    monkeypatch.setenv("HARMLESS", "kept")
    running = start(
        "say('env', json.dumps(dict(os.environ)))\n"
        "fds = [f'/proc/self/fd/{n}' for n in sorted(map(int, os.listdir('/proc/self/fd')))]\n"
        "say('fds', json.dumps([os.readlink(fd) for fd in fds if os.path.lexists(fd)]))\n" + SLEEP
    )
    ready(folder)
    environment = json.loads((folder.path / "env").read_text())
    assert "UNROLL_REDIS_URL" not in environment
    assert "secret" not in json.dumps(environment)
    assert environment["HARMLESS"] == "kept"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    kinds = [fd.partition(":")[0] for fd in json.loads((folder.path / "fds").read_text())]
    assert kinds == ["/dev/null", str(folder.log_file), str(folder.log_file), "socket"]
    assert "secret" not in " ".join(psutil.Process(guard_of(running)).cmdline())
    assert "secret" not in json.dumps(psutil.Process(guard_of(running)).environ())
    assert os.getpgid(running.pid) == running.pid != os.getpgid(guard_of(running))
    assert os.getsid(guard_of(running)) == guard_of(running)


def test_the_runner_begins_as_a_new_interpreter_does(start: Start, folder: AttemptFolder) -> None:
    start(
        "say('state', json.dumps([\n"
        "    signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,\n"
        "    signal.getsignal(signal.SIGINT) == signal.default_int_handler,\n"
        "    [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)],\n"
        "    signal.set_wakeup_fd(-1), sys.argv[-1], os.getcwd()]))\n" + SLEEP
    )
    ready(folder)
    state = json.loads((folder.path / "state").read_text())
    assert state == [True, True, [signal.SIG_DFL] * 3, -1, str(folder.path), str(folder.path)]


def test_what_the_runner_says_is_in_the_log_at_once_and_where_it_crashed(
    start: Start, folder: AttemptFolder
) -> None:
    end = waited(start("print('no newline', end='')\nos.kill(os.getpid(), signal.SIGSEGV)"))
    assert end.signal == "SIGSEGV"
    log = folder.log_file.read_text()
    assert log.startswith("no newline")
    assert "Fatal Python error: Segmentation fault" in log


def test_an_exception_that_nobody_catches_is_in_the_log(
    start: Start, folder: AttemptFolder
) -> None:
    assert waited(start("raise KeyError('nobody')")) == Exit("exited", 1)
    assert "KeyError: 'nobody'" in folder.log_file.read_text()


def test_no_two_runners_draw_the_same_numbers(start: Start, folder: AttemptFolder) -> None:
    drawn = set()
    for _ in range(2):
        code = "import random, uuid, tempfile\nprint(random.random(), uuid.uuid4(), "
        waited(start(code + "next(tempfile._get_candidate_names()))"))
        drawn.update(folder.log_file.read_text().split())
        folder.log_file.unlink()
    assert len(drawn) == 6


def test_the_runner_yields_to_its_supervisor(start: Start, folder: AttemptFolder) -> None:
    running = start(SLEEP)
    ready(folder)
    assert psutil.Process(running.pid).nice() > psutil.Process().nice()
    score = Path(f"/proc/{running.pid}/oom_score_adj").read_text()
    assert int(score) > int(Path("/proc/self/oom_score_adj").read_text())


def test_the_guard_is_small(start: Start, folder: AttemptFolder) -> None:
    running = start(SLEEP)
    ready(folder)
    # What a fork shares with its parent costs nothing.
    assert psutil.Process(guard_of(running)).memory_full_info().uss < 24e6


def test_descendants_are_found_in_any_depth() -> None:
    command = ["/bin/sh", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        found = guard.descendants(os.getppid())
        assert found.index(os.getpid()) < found.index(child.pid) < found.index(grandchild)
        assert guard.descendants(child.pid) == [grandchild]
        assert guard.descendants(grandchild) == []
        os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "{", '{"cause": 1'])
def test_a_torn_exit_file_counts_as_unseen(folder: AttemptFolder, text: str) -> None:
    folder.exit_file.write_text(text)
    assert Exit.read(folder) == Exit("unseen")


def test_a_supervisor_that_dies_before_its_first_word_leaves_no_guard() -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, "0"],
        input=b"{",
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert not ended.stdout
