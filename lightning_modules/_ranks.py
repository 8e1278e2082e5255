"""What processes that train one model, its ranks, tell each other besides their gradients.

Without a process group all of it is what it is for one process alone. Every function that talks is
called by all ranks at the same point of their way.

There are R ranks.
"""

import io
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def mean_over_ranks(mean: Tensor, count: int) -> Tensor:
    """Return the mean of `count` losses, so scaled that the ranks' mean is that of all losses.

    That is times count * R over the count of all ranks: where gradients are averaged over the
    ranks, they are those of one process that has all targets.
    """
    if world_size() == 1:
        return mean
    total = torch.tensor(count, device=mean.device)
    dist.all_reduce(total)
    return mean * count * world_size() / total.clamp(min=1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sums of values (...) over the ranks, the same on each, elementwise."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def any_over_ranks(*flags: bool) -> list[bool]:
    """Return, for each flag, whether any rank has it up; nobody returns before all have asked."""
    return [bool(count) for count in sum_over_ranks(torch.tensor(flags, dtype=torch.int64))]


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank: tensors and plain values, on the CPU.

    They travel as a checkpoint does: nothing that arrives is run.
    """
    if world_size() == 1:
        return [value]
    packed = io.BytesIO()
    torch.save(value, packed)
    own = torch.frombuffer(bytearray(packed.getbuffer()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    longest = max(map(int, sizes))
    found = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(found, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [
        torch.load(
            io.BytesIO(each[: int(size)].numpy().tobytes()), map_location="cpu", weights_only=True
        )
        for each, size in zip(found, sizes, strict=True)
    ]
