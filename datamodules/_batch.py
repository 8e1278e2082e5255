"""The one thing that travels between data and model.

Shapes: B sequences in the batch, S longest input, T longest target, F features, V values, K
classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Hold one padded batch. Padding lies behind each sequence and never changes a result."""

    #: Symbol ids, int64 (B, S), or features, float32 (B, S, F); a class, int64 (B, 1).
    inputs: Tensor
    #: True length of each input, int64 (B,); at least 1.
    lengths: Tensor
    #: Symbol ids with the end symbol but without the begin symbol, int64 (B, T); a tag for each
    #: input, int64 (B, S); a class, int64 (B,); values, float32 (B, T, V), or for each input
    #: (B, S, V); 0 or 1 for each input and class, float32 (B, S, K). None where there is nothing to
    #: learn from (prediction).
    targets: Tensor | None = None
    #: True length of each target, the end symbol counted, int64 (B,); 1 of a class, 0 of a row that
    #: counts for nothing.
    target_lengths: Tensor | None = None
    #: Further tensors by name, first axis B. `index` (B,) is the row in the split, always there; -1
    #: where the row counts for nothing. Beside tags, `label` (B,) is the class of the whole
    #: sequence and `characters` (B, S, L) those of each word, where the data has them.
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return int(self.inputs.shape[0])

    def idle(self) -> "Batch":
        """Return the same shapes with no target to learn from, for a rank without a share."""
        return replace(
            self,
            target_lengths=torch.zeros_like(self.lengths),
            extras={**self.extras, "index": torch.full_like(self.lengths, -1)},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch on another device (Lightning calls this).

        A copy to a GPU waits for nothing: neither for itself nor for what the GPU still computes,
        so that the steps that follow can be given to it meanwhile. That takes pinned memory.
        """
        to_gpu = torch.device(device).type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            if to_gpu and tensor.device.type == "cpu":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=to_gpu)

        return Batch(
            inputs=move(self.inputs),
            lengths=move(self.lengths),
            targets=None if self.targets is None else move(self.targets),
            target_lengths=None if self.target_lengths is None else move(self.target_lengths),
            extras={name: move(tensor) for name, tensor in self.extras.items()},
        )
