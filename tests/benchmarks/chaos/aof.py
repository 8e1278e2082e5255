"""Read the append-only file of Redis: everything that was ever written to a job, in its order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MANIFEST: Final = re.compile(r"file (\S+) seq (\d+) type (\w)")


@dataclass(frozen=True)
class Write:
    """One command that changed something."""

    command: str
    key: str
    #: What stands behind the key.
    arguments: tuple[bytes, ...]
    #: Seconds since 1970, to the second.
    time: int

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields of an HSET, or of an XADD, which has its options and its id first."""
        flat = [each.decode("utf-8", "replace") for each in self.arguments]
        if self.command == "XADD":
            flat = flat[1:]
        return dict(zip(flat[::2], flat[1::2], strict=False))


def read(folder: Path) -> Iterator[Write]:
    """Yield the writes of a server that has never rewritten its file, the first first."""
    (manifest,) = folder.glob("*.manifest")
    parts = [
        (int(number), name)
        for name, number, kind in _MANIFEST.findall(manifest.read_text())
        if kind == "i"
    ]
    for _, name in sorted(parts):
        yield from _commands(folder / name)


def _commands(path: Path) -> Iterator[Write]:
    now = 0
    with path.open("rb") as file:
        while line := file.readline():
            if line.startswith(b"#"):
                now = int(line[4:]) if line.startswith(b"#TS:") else now
                continue
            words = []
            for _ in range(int(line[1:])):
                size = int(file.readline()[1:])
                words.append(file.read(size))
                file.read(2)
            key = words[1].decode("utf-8", "replace") if len(words) > 1 else ""
            yield Write(words[0].decode().upper(), key, tuple(words[2:]), now)
