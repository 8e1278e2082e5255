"""`python -m tests.benchmarks.speed._memory FOLDER`: prepare a corpus, load an epoch, and watch.

Only anonymous memory counts: what is mapped from files the machine can drop whenever it likes.
"""

import re
import sys
import threading
from pathlib import Path

from datamodules._base import BatchLoader, Feed, Workspace
from datamodules.parallel_text import ParallelText


class Watch:
    """Write how many bytes of memory a block needs at most, beyond what there were before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._before = self._peak = _anonymous()
        self._watcher.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        sys.stdout.write(f"{self._name}: {self._peak - self._before}\n")

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self._peak = max(self._peak, _anonymous())


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return 1024 * int(found[1])


def main(folder: Path) -> None:
    """Prepare the corpus of this folder, and load an epoch of it."""
    data = ParallelText(root=".", source="de", target="en", tokens="words", vocabulary_size=8000)
    data.feed = Feed(batch_tokens=data.trainer_defaults["batch_tokens"], seed=0)
    with Watch("preparing"):
        data.prepare(Workspace(roots=(folder,), cache=folder / "cache"))
    with Watch("an epoch of loading"):
        for _ in BatchLoader(data, "train", 0):
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
