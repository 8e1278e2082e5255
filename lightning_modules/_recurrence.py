"""Loops over a cell, each as one differentiable function with a backward written by hand.

Shapes: T steps, N rows, H hidden units, G*H a cell's drive, W the width of its state.

Under autograd every step adds a small product of its own to the gradient of each weight. Here a
loop keeps what went into its products, and each gradient is one product over all steps (`Product`).
Products are in the dtype of their weights; all else is float32 or wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lightning_modules._steps import CellStep, Product, RaggedProduct, Saved


class Loop(ABC):
    """A loop, and its gradients, which can be asked for once it has run."""

    #: Whether a backward may follow; `run` knows.
    keeps: bool = False
    #: Tensors that have no gradient, which it reads beside its parameters.
    constants: tuple[Tensor, ...] = ()

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """All that has a gradient, in the order of `backward`."""

    @abstractmethod
    def forward(self) -> tuple[Tensor, ...]:
        """Run the loop and return what it gives."""

    @abstractmethod
    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of `parameters` for those of what the loop gave."""

    def run(self) -> tuple[Tensor, ...]:
        """Return what the loop gives, differentiable."""
        tensors = self.parameters
        self.keeps = wants_gradients(tensors)
        with torch.autocast(tensors[0].device.type, enabled=False):
            return tuple(_Run.apply(self, *tensors))  # type: ignore[no-untyped-call]


def wants_gradients(tensors: Iterable[Tensor]) -> bool:
    """Whether a gradient may be asked for of what is now made of these."""
    return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)


class _Run(Function):
    @staticmethod
    def forward(ctx: Any, loop: Loop, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.loop = loop
        ctx.set_materialize_grads(False)
        # Without `detach` the loop, which the graph holds, would hold the graph.
        return tuple(each.detach() for each in loop.forward())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.loop.backward(*gradients)


class Motion:
    """A cell that is moved step by step, whoever drives it: s = f(drive, s').

    Args:
        step: the cell's step
        weight: U (G*H, H), in the dtype of the products
        counts: how many rows are moved at each step, the first ones of N
        mask: what recurrent dropout leaves of each state, (N, H); None for all of it

    """

    def __init__(
        self, step: CellStep, weight: Tensor, counts: Sequence[int], mask: Tensor | None = None
    ) -> None:
        rows = max(counts)
        #: Whether some step leaves rows as they are.
        self.ragged = min(counts) < rows
        self.counts = counts
        self._pull = (
            RaggedProduct(weight, counts) if self.ragged else Product(weight, len(counts), rows)
        )
        self._step, self._mask = step, mask
        self._hidden = weight.shape[1]
        self.parameters = (weight, *step.parameters)
        #: What has no gradient.
        self.constants = () if mask is None else (mask,)

    def seen(self, states: Tensor) -> Tensor:
        """Return what the outside sees of states (..., W), (..., H)."""
        return states[..., : self._hidden]

    def begin_forward(self) -> None:
        """Make room for what goes in."""
        self._pull.begin_forward()
        self._kept: dict[int, Saved] = {}

    def forward(self, at: int, drive: Tensor, before: Tensor, out: Tensor, *, keep: bool) -> None:
        """Write the state that follows `before` (n, W) into `out`, by a drive (n, G*H)."""
        pull = self._pull.forward(at, self._masked(self.seen(before))).to(before.dtype)
        kept = self._step.forward(drive, pull, before, out)
        if keep:
            self._kept[at] = kept

    def begin_backward(self, of_drives: Tensor | None = None) -> None:
        """Make room for the gradients; those of the drives may have theirs, (T, N, G*H)."""
        self._step.begin_backward()
        self._pull.begin_backward(of_drives if self._step.adds else None)
        if of_drives is None:
            of_drives = self._pull.grads
            if not self._step.adds:
                room = torch.zeros_like if self.ragged else torch.empty_like
                of_drives = room(of_drives)
        #: Those of the drives, in the dtype of the products.
        self.of_drives = of_drives

    def backward(self, at: int, grad: Tensor) -> Tensor:
        """Return the gradient of the state before a step, (n, W), for that of the one after it."""
        rows = len(grad)
        drive, pull = self.of_drives[at, :rows], self._pull.grads[at, :rows]
        direct = self._step.backward(grad, self._kept[at], drive, pull)
        back = self._masked(self._pull.backward(at, grad.dtype))
        if direct is None:  # all of the state is seen
            return back
        self.seen(direct).add_(back)
        return direct

    def _masked(self, visible: Tensor) -> Tensor:
        return visible if self._mask is None else visible * self._mask[: len(visible)]

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of U and of the step's parameters."""
        return self._pull.gradient(), *self._step.gradients()


class Chain:
    """Move the cell of all rows at every step: s_i = f(drive, s_{i-1}).

    Args:
        step: the cell's step
        weight: U (G*H, H), in the dtype of the products
        start: s_0 (N, W), float32 or wider
        steps: T
        mask: what recurrent dropout leaves of each state, (N, H); None for all of it

    """

    def __init__(
        self, step: CellStep, weight: Tensor, start: Tensor, steps: int, mask: Tensor | None
    ) -> None:
        self._motion = Motion(step, weight, [len(start)] * steps, mask)
        self._start, self._steps = start, steps
        self.parameters = (start, *self._motion.parameters)
        self.constants = self._motion.constants

    def begin_forward(self) -> None:
        """Make room for the states, and begin with s_0."""
        self._motion.begin_forward()
        #: s_0 ... s_T, (T + 1, N, W).
        self.states = self._start.new_empty(self._steps + 1, *self._start.shape)
        self.states[0] = self._start.detach()

    def visible(self, at: int) -> Tensor:
        """Return what the outside sees of s_{at}, (N, H)."""
        return self._motion.seen(self.states[at])

    def forward(self, at: int, drive: Tensor, *, keep: bool) -> None:
        """Make the state after step `at` from its drive (N, G*H)."""
        self._motion.forward(at, drive, self.states[at], self.states[at + 1], keep=keep)

    def begin_backward(self, of_drives: Tensor) -> None:
        """Make room for the gradients; those of the drives go to (T, N, G*H)."""
        self._motion.begin_backward(of_drives)
        #: ds_i, (N, W), as far as later steps have asked.
        self.grad = torch.zeros_like(self.states[0])

    def backward(self, at: int) -> None:
        """Turn ds_i into ds_{i-1}, but for what others ask of it; fill in the drive's."""
        self.grad = self._motion.backward(at, self.grad)

    def ask(self, visible: Tensor) -> None:
        """Add to the gradient of what is visible of the state, (N, H)."""
        self._motion.seen(self.grad).add_(visible)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of s_0, of U and of the step's parameters."""
        return self.grad, *self._motion.gradients()


class Reading(Loop):
    """A cell that is driven by what is known before, forwards or backwards.

    It gives the states after each position, (S, N, W), and the last one of each row, (N, W).

    Rows may end before the last position. They then stand in the order of their lengths, the
    longest first, so that those that go on are the first at each position. What is behind the end
    of a row is not read, and zero in the states; backwards a row begins at its end.

    Args:
        motion: the cell, with a count of rows for each position
        start: s_0 (N, W), float32 or wider
        drives: W x + b of every position, (S, N, G*H)
        backwards: whether the last position is read first

    """

    def __init__(
        self, motion: Motion, start: Tensor, drives: Tensor, *, backwards: bool = False
    ) -> None:
        self._motion, self._start, self._drives = motion, start, drives
        self._counts = motion.counts
        self._order = range(len(drives))[:: -1 if backwards else 1]
        self.constants = motion.constants

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What the cell is driven by, s_0, and the cell's own."""
        return self._drives, self._start, *self._motion.parameters

    def forward(self) -> tuple[Tensor, Tensor]:
        """Run the loop."""
        start = self._start.detach()
        room = start.new_zeros if self._motion.ragged else start.new_empty
        states, state = room((len(self._counts), *start.shape)), start
        self._motion.begin_forward()
        for at in self._order:
            count = self._counts[at]
            if len(state) < count:  # rows that begin here
                state = torch.cat([state, start[len(state) : count]])
            drive = self._drives[at, :count].to(start.dtype)
            self._motion.forward(at, drive, state[:count], states[at, :count], keep=self.keeps)
            state = states[at, :count]
        return states, self._last(states)

    def _last(self, states: Tensor) -> Tensor:
        if self._order.step < 0:
            return states[0].clone()
        ends = [*self._counts[1:], 0]
        return torch.cat([states[at, ends[at] : self._counts[at]] for at in reversed(self._order)])

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of `parameters`."""
        of_states, of_last = gradients
        grad = torch.zeros_like(self._start) if of_last is None else of_last.clone()
        self._motion.begin_backward()
        for at in reversed(self._order):
            count = self._counts[at]
            if of_states is not None:
                grad[:count] += of_states[at, :count]
            grad[:count] = self._motion.backward(at, grad[:count])
        of_drives = self._motion.of_drives.to(self._drives.dtype)
        return of_drives, grad, *self._motion.gradients()
