"""A runner that does what the file `script` of its folder says: `python script.py FOLDER`.

The file finds `folder`, and `say(name, text)`, which leaves a file there at once and whole. With
`--parent` this is a preloaded parent, whose runners do the same; where one holds a model, `held` is
the content of its file. One that begins with "bad" cannot be held, one with "slow" not soon.
"""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PRELUDE = """
import json, os, pathlib, signal, socket, subprocess, sys, time
def say(name, text=''):
    (folder / f'.{name}').write_text(text)
    (folder / f'.{name}').rename(folder / name)
"""


HELD: list[str] = []


def hold(files: Sequence[int]) -> None:
    content = os.pread(files[0], 1000, 0).decode()
    if content.startswith("bad"):
        raise ValueError(f"{content!r} cannot be held")
    if content.startswith("slow"):
        time.sleep(600)
    HELD.append(content)


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0])
    exec(PRELUDE + (folder / "script").read_text(), {"folder": folder, "held": HELD})
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--parent"]:
        importlib.import_module("worker.forking").serve(main, hold)
    else:
        sys.exit(main(sys.argv[1:]))
