"""The training half: the only code of the worker that imports torch.

What stands here must be done before torch and the libraries around it are loaded.
"""

import ctypes
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

#: glibc's names for what `mallopt` sets, and the values: the first is the highest it takes.
_MALLOC_SETTINGS: Final = {
    "MMAP_THRESHOLD": (-3, 32 << 20),
    "TRIM_THRESHOLD": (-1, 1 << 30),
}


def _keep_freed_memory() -> None:
    """Let malloc keep what a step frees: the next step asks for as much again.

    By default glibc gives large pieces back to the system at once and has the kernel clear them
    anew: 14,000 page faults a training step of Multi30k's size, a tenth of its time.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for name, (number, value) in _MALLOC_SETTINGS.items():
            if f"MALLOC_{name}_" not in os.environ:
                mallopt(number, value)


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


def _import_torchmetrics_without_matplotlib() -> None:
    """Keep matplotlib out until a picture is drawn: it costs each start half a second and 28 MB.

    torchmetrics imports it wherever it is installed, for plots that nobody here asks of it.
    """
    if {"torchmetrics", "matplotlib"} & sys.modules.keys():
        return
    cache = importlib.import_module("lightning_utilities.core.imports").RequirementCache
    is_there = cache.__bool__
    cache.__bool__ = lambda self: self.requirement != "matplotlib" and is_there(self)
    try:
        importlib.import_module("torchmetrics")
    finally:
        cache.__bool__ = is_there


for _name, _value in _LIBRARY_SETTINGS.items():
    os.environ.setdefault(_name, _value)
_keep_freed_memory()
_import_portalocker_without_redis()
_import_torchmetrics_without_matplotlib()
