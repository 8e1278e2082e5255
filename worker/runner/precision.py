"""In which type matrix products are done: the one place that decides what `auto` means."""

from pathlib import Path
from typing import Final, Literal

import torch

#: What `[trainer] precision` may be.
Choice = Literal["auto", "bf16", "fp32"]
#: Lightning's words.
Precision = Literal["bf16-mixed", "32-true"]

_CPU_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def choose(choice: Choice, device: torch.device) -> Precision:
    """Return the precision for a choice on this device.

    `auto` is bfloat16 where the processor multiplies it natively: elsewhere it is emulated, and
    slower than float32.
    """
    if choice == "auto":
        return "bf16-mixed" if multiplies_bfloat16(device) else "32-true"
    return "bf16-mixed" if choice == "bf16" else "32-true"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions that multiply bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(_CPU_FLAGS & cpu_flags())


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features the kernel reports of the first processor; none where it does not."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:  # x86, ARM
            return frozenset(value.split())
    return frozenset()
