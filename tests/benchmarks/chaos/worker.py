"""A real worker with clocks of its own: `python worker.py JSON`.

The object holds home, name, slots, the clocks that shall differ, and the file of the catalogue,
which all workers of a run share: each would spend seconds on finding out the same. Redis is named
by UNROLL_REDIS_URL.
"""

import json
import os
import sys
from pathlib import Path

from jobs.errors import ServiceUnreachable
from worker.__main__ import set_up_logging
from worker.app import Parts, WorkerProcess, make_launcher
from worker.settings import Clocks, Settings


def main() -> int:
    told = json.loads(sys.argv[1])
    settings = Settings(
        home=Path(told["home"]),
        roots=(Path(told["root"]),),
        url=os.environ["UNROLL_REDIS_URL"],
        name=told["name"],
        slots=told["slots"],
        clocks=Clocks(**told["clocks"]),
    )
    set_up_logging()
    parts = Parts(make_launcher(settings), catalog=("cat", told["catalog"]))
    try:
        return WorkerProcess(settings, parts).run()
    except ServiceUnreachable as error:
        sys.stderr.write(f"{error}\n")
        return 3


if __name__ == "__main__":
    sys.exit(main())
