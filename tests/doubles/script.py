"""A runner that does what the file `script` of its folder says: `python script.py FOLDER`.

The file finds `folder`, and `say(name, text)`, which leaves a file there at once and whole. With
`--parent` this is a preloaded parent, whose runners do the same.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

PRELUDE = """
import json, os, pathlib, signal, socket, subprocess, sys, time
def say(name, text=''):
    (folder / f'.{name}').write_text(text)
    (folder / f'.{name}').rename(folder / name)
"""


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0])
    exec(PRELUDE + (folder / "script").read_text(), {"folder": folder})
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--parent"]:
        importlib.import_module("worker.forking").serve(main)
    else:
        sys.exit(main(sys.argv[1:]))
