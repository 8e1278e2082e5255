"""The loop of a recurrent layer, as one differentiable function with a backward written by hand.

Shapes: N sequences, M steps of all of them, laid out as torch's PackedSequence does (all first
steps, then all second ones, ...; the longest sequence first), H hidden units, G*H a cell's drive, W
the width of its state.

Under autograd every step would add its own small product to the weight's gradient. Here the loop
keeps what went into the products, and the gradient of the weight is one product over all steps.
Padding is never computed.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lightning_modules._steps import CellStep, Product, Saved


class Recurrence:
    """Run one cell over packed sequences, forwards or backwards in time, once.

    Args:
        step: the cell's step
        weight: U (G*H, H), in the dtype of the products
        drives: W x + b of every step, (M, G*H), float32 or wider
        start: s_0 of each sequence, (N, W), in the dtype of the drives
        counts: how many sequences have a first step, a second one, ...; N >= ... > 0
        mask: what recurrent dropout leaves of each state, (N, H); None for all of it
        backwards: whether the last step of a sequence is read first

    """

    def __init__(  # noqa: PLR0913 (what a loop is made of)
        self,
        step: CellStep,
        weight: Tensor,
        drives: Tensor,
        start: Tensor,
        counts: Sequence[int],
        *,
        mask: Tensor | None = None,
        backwards: bool = False,
    ) -> None:
        self._step, self._mask = step, mask
        self._drives, self._start = drives, start
        self._pull = Product(weight, len(drives))
        spans = [
            slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)
        ]
        #: The rows of each step, in the order in which they are read.
        self._spans = spans[::-1] if backwards else spans
        self._kept: list[Saved] = []

    def run(self) -> tuple[Tensor, Tensor]:
        """Return every state (M, W), and the last one of each sequence (N, W)."""
        tensors = self._pull.weight, self._drives, self._start, *self._step.parameters
        self._keeps = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
        with torch.autocast(self._drives.device.type, enabled=False):
            states, last = _Run.apply(self, *tensors)  # type: ignore[no-untyped-call]
        return states, last

    def forward(self) -> tuple[Tensor, Tensor]:
        """Run the loop."""
        # Sequences that have ended, or not yet begun, keep their place and their state.
        now = self._start.clone()
        states = now.new_empty(len(self._drives), now.shape[1])
        for span in self._spans:
            state = now[: span.stop - span.start].clone()
            pull = self._pull.forward(span, self._masked(state)).to(now.dtype)
            kept = self._step.forward(self._drives[span], pull, state, states[span])
            now[: len(state)] = states[span]
            if self._keeps:
                self._kept.append(kept)
        # Without `detach` the output would hold this object, and what is kept the output.
        return states.detach(), now

    def _masked(self, state: Tensor) -> Tensor:
        visible = state[:, : self._pull.weight.shape[1]]
        return visible if self._mask is None else visible * self._mask[: len(visible)]

    def backward(self, of_states: Tensor | None, of_last: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of U, drives, s_0 and the step's parameters."""
        now = torch.zeros_like(self._start) if of_last is None else of_last.clone()
        self._step.begin_backward()
        self._pull.begin_backward()
        pulls = self._pull.grads
        drives = pulls if self._step.adds else torch.empty_like(pulls)
        for span, kept in zip(reversed(self._spans), reversed(self._kept), strict=True):
            grad = now[: span.stop - span.start]
            if of_states is not None:
                grad += of_states[span]
            direct = self._step.backward(grad, kept, drives[span], pulls[span])
            back = self._masked(self._pull.backward(span, now.dtype))
            if direct is None:
                grad.copy_(back)
            else:
                grad.copy_(direct)
                grad[:, : back.shape[1]] += back
        of_drives = drives.to(now.dtype)
        return self._pull.gradient(), of_drives, now, *self._step.gradients()


class _Run(Function):
    @staticmethod
    def forward(ctx: Any, loop: Recurrence, *_: Tensor) -> tuple[Tensor, Tensor]:
        ctx.loop = loop
        ctx.set_materialize_grads(False)
        return loop.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.loop.backward(*gradients)
