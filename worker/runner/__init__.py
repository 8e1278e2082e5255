"""The training half: the only code of the worker that imports torch."""

import importlib
import sys
from contextlib import suppress


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


_import_portalocker_without_redis()
