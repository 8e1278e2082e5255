"""What a worker has to give to jobs: slots, GPUs, threads; each given once at a time."""

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import SetupError
from jobs.spec import Resources


@dataclass(frozen=True)
class Share:
    """What one attempt may use."""

    #: Indices of its GPUs, as the machine numbers them.
    gpus: tuple[int, ...] = ()
    #: Processes that train together.
    processes: int = 1
    #: Threads of each process.
    threads: int = 1
    #: Whether its slot is one of those for answers.
    answers: bool = False


class Devices:
    """Hand out shares; usable from several threads."""

    def __init__(
        self,
        slots: int,
        gpus: Sequence[int] = (),
        cores: int | None = None,
        *,
        answer_slots: int = 0,
    ) -> None:
        self.slots = slots
        #: Slots beside these for jobs that answer.
        self.answer_slots = answer_slots
        self.gpus = tuple(gpus)
        self._cores = cores or count_cores()
        self._free_slots = slots
        self._free_answer_slots = answer_slots
        self._free_gpus = set(gpus)
        self._lock = threading.Lock()

    @property
    def free_slots(self) -> int:
        """Return how many more attempts may run."""
        return self._free_slots

    @property
    def free_answer_slots(self) -> int:
        """Return how many more attempts that answer may run beside."""
        return self._free_answer_slots

    @property
    def free_gpus(self) -> int:
        """Return how many GPUs no attempt has."""
        return len(self._free_gpus)

    def take(self, wanted: Resources, *, answers: bool = False) -> Share:
        """Give a slot and GPUs to an attempt; one that answers gets a slot for answers if it can.

        Raise SetupError where they are not free.
        """
        count = min(1, len(self.gpus)) if wanted.gpus is None else wanted.gpus
        with self._lock:
            beside = answers and self._free_answer_slots > 0
            if not (beside or self._free_slots > 0) or len(self._free_gpus) < count:
                raise SetupError(
                    f"{count} GPUs and a slot were asked for; free are {len(self._free_gpus)} "
                    f"and {self._free_slots}"
                )
            gpus = tuple(sorted(self._free_gpus)[:count])
            self._free_gpus.difference_update(gpus)
            self._free_answer_slots -= beside
            self._free_slots -= not beside
        processes = count or wanted.devices
        # Answers that run side by side must not take more than there is; trainings may.
        slots = self.slots + self.answer_slots * answers
        return Share(gpus, processes, wanted.threads or self._threads(processes, slots), beside)

    def give_back(self, share: Share) -> None:
        """Take back what an attempt had."""
        with self._lock:
            self._free_gpus.update(share.gpus)
            self._free_answer_slots += share.answers
            self._free_slots += not share.answers

    def _threads(self, processes: int, slots: int) -> int:
        return max(1, self._cores // slots // processes)


def count_cores() -> int:
    """Return how many processors this process may use: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or no quota ("max")
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def visible_gpus() -> tuple[int, ...]:
    """Return the indices of the GPUs that this process may use, as NVML counts them."""
    try:
        import pynvml  # noqa: PLC0415 - only where there is a driver to ask

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no device: no GPU in every case
        return ()
    try:
        return _allowed(_identifiers(pynvml), os.environ.get("CUDA_VISIBLE_DEVICES"))
    finally:
        pynvml.nvmlShutdown()


def _identifiers(nvml: Any) -> list[str]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [nvml.nvmlDeviceGetUUID(handle) for handle in handles]


def _allowed(identifiers: Sequence[str], visible: str | None) -> tuple[int, ...]:
    """Return which GPUs `CUDA_VISIBLE_DEVICES` leaves: numbers, or beginnings of identifiers.

    As CUDA does, it stops at the first word that names no device.
    """
    if visible is None:
        return tuple(range(len(identifiers)))
    found: list[int] = []
    for word in (word.strip() for word in visible.split(",")):
        named = [
            index
            for index, identifier in enumerate(identifiers)
            if word == str(index) or (word.startswith("GPU-") and identifier.startswith(word))
        ]
        if len(named) != 1:
            break
        found += named
    return tuple(found)
