"""The password of Redis is nowhere but in the environment of those who log in with it."""

import contextlib
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from jobs.artifacts import ArtifactStore
from jobs.cli import main
from jobs.connection import connect
from jobs.errors import ServiceUnreachable
from jobs.spec import Component, TrainSpec
from jobs.store import JobStore
from tests.doubles.service import Workers
from tests.doubles.waiting import eventually

#: The letters are looked for as they are, the rest as a URL would show it, too.
LETTERS = "Tr0ub4dor"
PASSWORD = f"{LETTERS}/?#@:% &=+'\"\\é"


def train(**params: Any) -> TrainSpec:
    return TrainSpec(model=Component("double", params), data=Component("none"), retries=1)


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = make_server("--port", str(port), "--bind", "127.0.0.1")
    with connect(server.url) as admin:  # not by its command line, which is a process list's
        admin.config_set("requirepass", PASSWORD)
    server.password = PASSWORD
    server.tcp = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0"
    return server


@pytest.fixture
def workers(server: Any, tmp_path: Path) -> Iterator[Workers]:
    with connect(server.tcp) as client:
        started = Workers(tmp_path / "home", server.tcp, JobStore(client))
        yield started
        started.clear()


def tells(content: bytes) -> bool:
    return LETTERS.encode() in content


def in_process_lists(worker: int) -> list[str]:
    """Return what the command lines and, of runners, the environments of a worker's tree tell."""
    found = []
    for process in [psutil.Process(worker), *psutil.Process(worker).children(recursive=True)]:
        with contextlib.suppress(OSError, psutil.Error):
            folder = Path("/proc", str(process.pid))
            found += [f"{each} of {process.name()}" for each in ("cmdline", "comm")
                      if tells((folder / each).read_bytes())]  # fmt: skip
            runner = process.pid != worker and process.name() != "unroll-guard"
            if runner and tells((folder / "environ").read_bytes()):
                found.append(f"environ of {process.name()}")
    return found


def in_files(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and tells(each.read_bytes())]


def in_redis(client: Any) -> list[bytes]:
    return [key for key in client.keys("*") if tells(client.dump(key) or b"")]


def test_a_password_is_in_no_log_no_record_no_file_and_no_process_list(
    server: Any, workers: Workers, tmp_path: Path
) -> None:
    worker, store = workers.start(start="fork"), workers.store
    runs = store.create(train(steps=100_000, step_seconds=0.02, checkpoint_every=50))
    eventually(lambda: store.get(runs.id).checkpoint)
    assert in_process_lists(worker.pid) == []
    fails = store.create(train(steps=3, fail="segfault", fail_at=2))
    worker.send_signal(signal.SIGKILL)  # the guard hands the lease back, with the password
    worker.wait()
    eventually(lambda: store.get(runs.id).state == "queued")
    worker = workers.start("two", slots=2, start="fork")
    eventually(lambda: store.get(fails.id).reason)
    with connect(server.url + f"?password={quote(PASSWORD, safe='')}") as admin:
        admin.config_set("requirepass", "another")  # from now on every call fails
        admin.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: "refuses the password" in workers.log("two"))
        admin.config_set("requirepass", PASSWORD)
        eventually(lambda: "answers again" in workers.log("two"))
        assert in_process_lists(worker.pid) == []
        store.cancel(runs.id)
        eventually(lambda: store.get(runs.id).state.ended)
        assert in_redis(admin) == []
    assert in_files(tmp_path) == []
    assert ArtifactStore(workers.home / "store").exists(f"jobs/{fails.id}/attempt-0001/output.log")


@pytest.mark.parametrize("verb", [["ls"], ["why", "x"], ["submit", "spec.toml"], ["workers"]])
def test_no_verb_says_the_password_when_it_is_refused(
    verb: list[str],
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text('[model]\nname="m"\n[data]\nname="d"\n')
    monkeypatch.setenv("UNROLL_REDIS_URL", server.tcp.replace(LETTERS, f"{LETTERS}s"))
    assert main(verb) == 3
    said = capfd.readouterr()
    assert "refuses the password" in said.err
    assert len(said.err.splitlines()) == 1
    assert not tells((said.out + said.err).encode())


def test_no_error_carries_it_however_it_is_shown(server: Any) -> None:
    url = server.tcp.replace(LETTERS, f"{LETTERS}s")
    with connect(url) as client, pytest.raises(ServiceUnreachable) as caught:
        JobStore(client).list()
    assert not tells("".join(traceback.format_exception(caught.value)).encode())
    assert caught.value.__suppress_context__
