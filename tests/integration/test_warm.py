"""Models that are held in memory: forked from as from any parent, bounded, and never stale."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jobs.spec import Component, TrainSpec
from tests.doubles.parents import SCRIPTED, SCRIPTED_PARENT, wait_until_ready
from tests.doubles.waiting import PATIENCE, eventually, guard_of, is_alive
from worker import warm as warm_module
from worker.folder import Attempt, AttemptFolder
from worker.parent import NoParent, PreloadedParent
from worker.process import Exit, Handback, Launcher, Running
from worker.settings import Warmth
from worker.warm import WarmModels, own_bytes

ROOT = Path(__file__).parents[2]
#: Stands for a worker that holds a model: it says the holder's process id, and sleeps.
WORKER = f"""
import sys, time
from pathlib import Path
from tests.doubles.parents import wait_until_ready
from worker.folder import AttemptFolder
from worker.parent import PreloadedParent
from worker.settings import Warmth
from worker.warm import WarmModels
parent = PreloadedParent({SCRIPTED_PARENT!r})
wait_until_ready(parent)
warm = WarmModels(parent, Warmth())
with warm.holding(AttemptFolder(Path(sys.argv[1]))):
    pass
print(warm._models["model"]._process.pid, flush=True)
time.sleep(600)
"""

Lay = Callable[..., AttemptFolder]


@pytest.fixture(scope="module")
def parent() -> Iterator[PreloadedParent]:
    made = PreloadedParent(SCRIPTED_PARENT)
    wait_until_ready(made)
    yield made
    made.close()


@pytest.fixture
def lay_used(tmp_path: Path) -> Lay:
    """Return a function that lays an attempt that uses a model."""

    def make(name: str, model: str = "model", content: str = "weights") -> AttemptFolder:
        folder = AttemptFolder(tmp_path / name)
        attempt = Attempt("job", 1, roots=(), cache="", model=model)
        folder.lay(TrainSpec(model=Component("m"), data=Component("d")), attempt)
        (folder.path / "script").write_text("say('found', ','.join(held))")
        folder.start_checkpoint.write_text(content)
        return folder

    return make


class Host:
    """Launch attempts as a worker does that keeps models warm."""

    def __init__(self, parent: PreloadedParent, bounds: Warmth) -> None:
        self.warm = WarmModels(parent, bounds)
        self._launcher = Launcher(SCRIPTED, parent, self.warm)
        self._started: list[Running] = []

    def start(self, folder: AttemptFolder) -> Running:
        attempt = folder.read_attempt()
        running = self._launcher.start(folder, attempt, grace=60, handback=Handback())
        self._started.append(running)
        return running

    def use(self, folder: AttemptFolder) -> str:
        """Run an attempt and keep its model; return what it found in its memory."""
        assert self.start(folder).wait(PATIENCE) == Exit("exited", 0), folder.log_file.read_text()
        with self._launcher.holding(folder):
            pass
        return (folder.path / "found").read_text()

    def holder(self, model: str) -> int:
        """Return the process that holds the model, once it does."""
        eventually(lambda: self.warm.has(model))
        return self.warm._models[model]._process.pid

    def close(self) -> None:
        for running in self._started:
            running.kill()
            running.close(done=True)
        self.warm.close()


@pytest.fixture
def host(parent: PreloadedParent) -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(**bounds: float) -> Host:
        made.append(Host(parent, Warmth(**bounds)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_second_use_of_a_model_finds_it_in_memory(
    host: Callable[..., Host], lay_used: Lay
) -> None:
    here = host()
    assert here.use(lay_used("first")) == ""
    holder = here.holder("model")
    assert Path(f"/proc/{holder}/comm").read_text() == "unroll-model\n"
    assert here.use(lay_used("second")) == "weights"
    running = here.start(_that_sleeps(lay_used("third")))
    assert psutil.Process(guard_of(running)).ppid() == holder
    assert here.use(lay_used("other", "another", "others")) == ""
    here.holder("another")
    assert here.use(lay_used("again", "another", "others")) == "others"


def _that_sleeps(folder: AttemptFolder) -> AttemptFolder:
    (folder.path / "script").write_text("say('began'); time.sleep(600)")
    return folder


def test_an_attempt_that_is_killed_takes_the_held_model_not_along(
    host: Callable[..., Host], lay_used: Lay
) -> None:
    here = host()
    here.use(lay_used("first"))
    holder = here.holder("model")
    running = here.start(_that_sleeps(lay_used("second")))
    assert running.kill().cause == "killed"
    assert is_alive(holder)
    assert here.use(lay_used("third")) == "weights"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_its_holder_an_attempt_starts_as_if_there_were_none(
    host: Callable[..., Host], lay_used: Lay, number: signal.Signals
) -> None:
    here = host()
    here.use(lay_used("first"))
    holder = here.holder("model")
    here.warm._models["model"].link._requests.settimeout(0.2)
    os.kill(holder, number)
    assert here.use(lay_used("second")) == ""
    eventually(lambda: not is_alive(holder))


def test_models_go_by_memory_the_least_recently_used_first(
    host: Callable[..., Host], lay_used: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_module, "own_bytes", lambda _pid: 40)
    here = host(bytes=100)
    for name in ("one", "two"):
        here.use(lay_used(name, name))
        here.holder(name)
    assert here.use(lay_used("one-again", "one")) == "weights"
    third = lay_used("three", "three")
    here.use(third)
    here.holder("three")
    here.warm.keep()
    assert [here.warm.has(name) for name in ("one", "two", "three")] == [True, False, True]


def test_a_model_that_never_fits_is_let_go_and_not_read_again(
    host: Callable[..., Host], lay_used: Lay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    here = host(bytes=3)
    here.use(lay_used("first"))
    assert here.warm._models == {}
    assert here.use(lay_used("second")) == ""
    assert caplog.text.count("not kept in memory: it takes 7 bytes") == 1


def test_models_that_are_not_used_go_after_a_while(
    host: Callable[..., Host], lay_used: Lay
) -> None:
    here = host(seconds=0)
    here.use(lay_used("first"))
    holder = here.holder("model")
    here.warm.keep()
    assert not here.warm.has("model")
    eventually(lambda: not is_alive(holder))


def test_changed_code_lets_a_model_be_read_anew(
    host: Callable[..., Host], lay_used: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    here.use(lay_used("first"))
    before = here.holder("model")
    here.warm._models["model"]._stamp = "of other code"
    assert here.use(lay_used("second")) == ""
    assert here.holder("model") != before
    assert here.use(lay_used("third")) == "weights"


def test_a_model_that_cannot_be_held_is_tried_once(
    host: Callable[..., Host], lay_used: Lay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    here = host()
    for number in range(3):
        assert here.use(lay_used(str(number), content="bad")) == ""
        eventually(lambda: not here.warm.has("model") and not here.warm._models)
    assert caplog.text.count("ValueError: 'bad' cannot be held") == 1


def test_a_model_that_is_still_read_is_not_waited_for(
    host: Callable[..., Host], lay_used: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = host()
    here.use(lay_used("first", content="slow"))
    reader = here.warm._models["model"]._process.pid
    assert here.use(lay_used("second", content="slow")) == ""
    assert is_alive(reader)
    monkeypatch.setattr(warm_module, "_LOAD_SECONDS", 0.0)
    here.warm.keep()
    assert here.warm._models == {}
    eventually(lambda: not is_alive(reader))


def test_a_folder_that_is_cleared_meanwhile_is_read_all_the_same(
    host: Callable[..., Host], lay_used: Lay
) -> None:
    here = host()
    folder = lay_used("first")
    with here.warm.holding(folder):
        folder.lighten()
        folder.attempt_file.unlink()
    here.holder("model")
    assert here.use(lay_used("second")) == "weights"


def test_whoever_holds_a_model_ends_with_its_worker(lay_used: Lay) -> None:
    for content in ("weights", "slow"):
        folder = lay_used(content, content=content)
        command = [sys.executable, "-c", WORKER, str(folder.path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            holder = int(worker.stdout.readline())
            assert is_alive(holder)
            worker.kill()
            worker.wait()
            eventually(lambda holder=holder: not is_alive(holder))


def test_nothing_is_held_once_the_worker_leaves(host: Callable[..., Host], lay_used: Lay) -> None:
    here = host()
    here.use(lay_used("first"))
    holder = here.holder("model")
    here.warm.close()
    eventually(lambda: not is_alive(holder))
    here.use(lay_used("second"))
    assert here.warm._models == {}
    with pytest.raises(NoParent):
        here.warm.fork_guard("model", 0, 1, 2)


def test_what_a_process_has_for_itself_is_counted() -> None:
    assert own_bytes(os.getpid()) > 1_000_000
    assert own_bytes(0) == 0
