"""What goes over from one window of a stream to the next: the hidden state, never the gradient.

Shapes: B rows of the batch, P rows of the batch before, W width of the state.
"""

from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from datamodules._batch import Batch
from datamodules._stream import FOLLOWS
from lightning_modules._ranks import gather


class Carry(Callback):
    """Keep the last state of each row, and give it to the row that follows.

    A callback, so that it becomes part of a checkpoint and a run goes on exactly in the middle of
    an epoch. Each epoch begins without a past: what it computes follows from the weights alone.
    """

    def __init__(self) -> None:
        #: The epoch that the states are of; None before the first.
        self._epoch: int | None = None
        #: Which rows they are of (P,), and the states (P, W).
        self._rows: Tensor | None = None
        self._states: Tensor | None = None

    def before(self, batch: Batch) -> Tensor | None:
        """Return the state (B, W) that each row goes on from, zero for none; None for all none."""
        follows = batch.extras.get(FOLLOWS)
        if follows is None or self._rows is None or self._states is None:
            return None
        same = follows[:, None] == self._rows.to(follows.device)  # (B, P)
        known = same.any(dim=1) & (follows >= 0)
        states = self._states.to(follows.device)[same.int().argmax(dim=1)]
        return states * known[:, None].to(states.dtype)

    def after(self, batch: Batch, states: Tensor) -> None:
        """Keep the states (B, W) at the ends of a batch's rows."""
        self._rows, self._states = batch.extras["index"], states.detach()

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        """Forget the epoch before."""
        if self._epoch != trainer.current_epoch:
            self._epoch, self._rows, self._states = trainer.current_epoch, None, None

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, by all ranks together: whichever reads on finds its rows in it."""
        rows, states = self._rows, self._states
        if rows is not None and states is not None:
            rows, states = map(torch.cat, zip(*gather((rows, states)), strict=True))
        return {"epoch": self._epoch, "rows": rows, "states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was kept."""
        self._epoch = state_dict["epoch"]
        self._rows, self._states = state_dict["rows"], state_dict["states"]
