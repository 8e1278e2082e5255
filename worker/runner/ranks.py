"""The ranks of an attempt: how the processes that train one model find each other.

Each is started by itself, with its number in `LOCAL_RANK`; Lightning launches nothing. They meet in
a file of the attempt folder, so that nobody who cannot read the folder can take part.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
from torch import distributed as dist

from jobs.errors import SpecError
from lightning_modules._ranks import any_over_ranks, rank
from worker.folder import Attempt, AttemptFolder

#: What each rank is told its number by, as torchrun and Lightning call it.
LOCAL_RANK: Final = "LOCAL_RANK"
#: How long a rank waits for the first to be there: importing torch on a busy machine takes a while.
_MEETING_SECONDS: Final = 120.0
#: How long one rank may keep the others waiting, as when it prepares a corpus. One that dies is
#: missed at once, and a supervisor knows more of those that hang.
_PATIENCE: Final = timedelta(hours=1)
#: The ranks of an attempt are on one machine: no port of theirs is open to another.
_ON_LOOPBACK: Final = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def local_rank() -> int:
    """Return the number that this process was given, 0 where it was given none."""
    number = os.environ.get(LOCAL_RANK, "")
    return int(number) if number.isdecimal() else 0


def number_of(attempt: Attempt) -> int:
    """Return which rank of the attempt this process is. Raise SpecError where nobody has said."""
    if attempt.world_size == 1:
        return 0
    if not os.environ.get(LOCAL_RANK, "").isdecimal() or local_rank() >= attempt.world_size:
        raise SpecError(
            f"this attempt trains with {attempt.world_size} processes: start each of them, with "
            f"{LOCAL_RANK} = 0 to {attempt.world_size - 1}, or ask for resources.devices = 1"
        )
    return local_rank()


def join(folder: AttemptFolder, attempt: Attempt) -> None:
    """Make the process group of the attempt's ranks, if there are several. Raise OSError."""
    if attempt.world_size == 1:
        return
    number = number_of(attempt)
    for name in _ON_LOOPBACK:
        os.environ.setdefault(name, "lo")
    with _meeting(folder.rendezvous_file, number) as store:
        dist.init_process_group(
            # Tensors on the CPU go by gloo also where the gradients are on GPUs: what is said of a
            # step, such as a wish to stop, then does not wait for the GPU's queue.
            "cpu:gloo,cuda:nccl" if attempt.gpus else "gloo",
            store=dist.FileStore(str(store), attempt.world_size),  # type: ignore[attr-defined]
            rank=number,
            world_size=attempt.world_size,
            timeout=_PATIENCE,
            device_id=torch.device("cuda", number) if attempt.gpus else None,
        )


@contextmanager
def _meeting(place: Path, number: int) -> Iterator[Path]:
    """Give the file by which the ranks find each other, once the first of them is there.

    It keeps `place` locked until all have come: what an earlier run in the same folder has left is
    not locked, and so cannot be taken for this one's.
    """
    store = place.with_suffix(".store")
    if number > 0:
        _wait_for_lock(place)
        yield store
        return
    store.unlink(missing_ok=True)
    new = place.with_suffix(".new")
    with new.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        new.replace(place)
        yield store


def _wait_for_lock(path: Path) -> None:
    deadline = time.monotonic() + _MEETING_SECONDS
    while not _is_locked(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the first rank did not come to {path.parent}")
        time.sleep(0.01)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the first rank do a block alone, and then the others: they find what it has kept."""
    if rank() > 0:
        any_over_ranks(False)
    yield
    if rank() == 0:
        any_over_ranks(False)
