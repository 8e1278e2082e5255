"""Hand a lease back for a supervisor that is gone; the guard runs `python -m worker.handback`."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from jobs.connection import connect
from jobs.errors import ServiceUnreachable, StaleToken
from jobs.job import Lease
from jobs.store import JobStore
from worker.evidence import gather
from worker.folder import AttemptFolder
from worker.process import Exit, Handback
from worker.settings import Settings

#: Seconds for which it is tried; after that the sweep has long found the lease run out.
_PATIENCE: Final = 60.0
_RETRY: Final = 0.5
#: Tries in a row without a socket after which nobody is expected there any more: a Redis that is
#: started again has one within a moment, that of a home that was stopped has none again.
_TRIES_WITHOUT: Final = 10
_URL: Final = "UNROLL_REDIS_URL"
_LEASE: Final = "UNROLL_HANDBACK"


def by_guard(settings: Settings, lease: Lease) -> Handback:
    """Return what a guard runs to hand this lease back; the address goes by environment."""
    told = json.dumps({"namespace": settings.namespace, "lease": asdict(lease)})
    return Handback(
        command=(sys.executable, "-P", "-m", "worker.handback"),
        environment={**os.environ, _URL: settings.url, _LEASE: told},
    )


def main() -> int:
    """Hand back the lease that the environment names; return the exit status."""
    told = json.loads(os.environ[_LEASE])
    store = JobStore(connect(os.environ[_URL]), told["namespace"])
    lease = Lease(**told["lease"])
    # The guard has said by now how the runner ended, in the folder in which all this happens.
    folder = AttemptFolder(Path.cwd())
    evidence = gather(Exit.read(folder), folder.log_file)
    message = f"the worker {lease.worker} was gone; the job was handed back for it"
    deadline, missing = time.monotonic() + _PATIENCE, 0
    while time.monotonic() < deadline and missing < _TRIES_WITHOUT:
        try:
            store.release(lease, message=message, evidence=evidence)
        except StaleToken:
            return 0  # the job's end is in the record, or another attempt holds it
        except ServiceUnreachable:
            missing = missing + 1 if is_missing(os.environ[_URL]) else 0
            time.sleep(_RETRY)
        else:
            return 0
    return 1


def is_missing(url: str) -> bool:
    """Return whether this is the address of a unix socket that is not there."""
    parts = urlsplit(url)
    return parts.scheme == "unix" and not Path(parts.path).exists()


if __name__ == "__main__":
    sys.exit(main())
