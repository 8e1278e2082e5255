"""A worker with quick clocks and the runner of this folder: `python worker.py JSON`.

The object holds home, namespace, name, slots, the clocks that shall differ, and how runners start;
Redis is named by UNROLL_REDIS_URL.
"""

import json
import os
import sys
from pathlib import Path

from worker.__main__ import set_up_logging
from worker.app import Parts, WorkerProcess
from worker.parent import PreloadedParent
from worker.process import Launcher
from worker.settings import Clocks, Settings

#: What the double's catalogue says: nothing can be built.
CATALOG = "import json; print(json.dumps({'models': [], 'data': []}))"
RUNNER = Path(__file__).with_name("runner.py")
COMMAND = (sys.executable, "-P", str(RUNNER))


def main() -> int:
    told = json.loads(sys.argv[1])
    home = Path(told["home"])
    clocks = {"lease": 3.0, "renew": 0.2, "tick": 0.05, "sweep": 0.3, "drain": 10.0}
    settings = Settings(
        home=home,
        roots=(home,),
        url=os.environ["UNROLL_REDIS_URL"],
        namespace=told["namespace"],
        name=told["name"],
        slots=told.get("slots", 1),
        clocks=Clocks(**{**clocks, **told.get("clocks", {})}),
    )
    set_up_logging()
    parent = PreloadedParent([*COMMAND, "--parent"]) if told.get("start") == "fork" else None
    parts = Parts(Launcher(COMMAND, parent), catalog=(sys.executable, "-c", CATALOG))
    return WorkerProcess(settings, parts).run()


if __name__ == "__main__":
    sys.exit(main())
