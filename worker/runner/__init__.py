"""The training half: the only code of the worker that imports torch."""

import importlib
import os
import sys
from contextlib import suppress
from typing import Final

#: Read by libraries when torch loads them, hence set here; what the environment says goes first.
_LIBRARY_SETTINGS: Final = {
    # Threads that wait sleep: spinning, two on two busy cores ran at a third of the speed of one.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN keeps a compiled kernel for each shape, and no two batches have the same: with its
    # default of 1024 a run of small models grew to 3.5 GB, with these it keeps to 1 GB, as fast.
    "LRU_CACHE_CAPACITY": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}


def _import_portalocker_without_redis() -> None:
    """Keep redis out of this process: sacrebleu's lock files import it wherever it is installed.

    They offer a lock in Redis, which nobody here uses, and do without where the import fails.
    """
    if {"portalocker", "redis"} & sys.modules.keys():
        return
    sys.modules["redis"] = None  # type: ignore[assignment]  # makes `import redis` fail
    try:
        with suppress(ImportError):
            importlib.import_module("portalocker")
    finally:
        del sys.modules["redis"]


for _name, _value in _LIBRARY_SETTINGS.items():
    os.environ.setdefault(_name, _value)
_import_portalocker_without_redis()
