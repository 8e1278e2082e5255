"""What tests of forked runners share: the scripted runner's command, and waiting for a parent."""

import sys
import time
from pathlib import Path

from worker.parent import NoParent, PreloadedParent

#: A runner that does what the file `script` of its folder says.
SCRIPTED = [sys.executable, "-P", str(Path(__file__).with_name("script.py"))]
SCRIPTED_PARENT = [*SCRIPTED, "--parent"]


def wait_until_ready(parent: PreloadedParent, patience: float = 20.0) -> None:
    """Keep the parent until it can fork."""
    deadline = time.monotonic() + patience
    while True:
        parent.keep()
        try:
            parent._current().require_ready()
        except NoParent:
            assert time.monotonic() < deadline, "the parent does not get ready"
            time.sleep(0.01)
        else:
            return
