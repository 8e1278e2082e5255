"""Loops over a cell, each as one differentiable function with a backward written by hand.

Shapes: T steps, N rows, H hidden units, G*H a cell's drive, W the width of its state.

Under autograd every step adds a small product of its own to the gradient of each weight. Here a
loop keeps what went into its products, and each gradient is one product over all steps (`Product`).
Products are in the dtype of their weights; all else is float32 or wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lightning_modules._steps import CellStep, Product, Saved


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


class Chain:
    """Move the cell at every step: s_i = f(drive, s_{i-1}).

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
        self._step, self._start, self._steps, self._mask = step, start, steps, mask
        self._pull = Product(weight, steps, len(start))
        self._hidden = weight.shape[1]
        #: That of the products.
        self.dtype = weight.dtype
        self.parameters = (start, weight, *step.parameters)
        #: What has no gradient.
        self.constants = () if mask is None else (mask,)

    def begin_forward(self) -> None:
        """Make room for the states, and begin with s_0."""
        self._pull.begin_forward()
        #: s_0 ... s_T, (T + 1, N, W).
        self.states = self._start.new_empty(self._steps + 1, *self._start.shape)
        self.states[0] = self._start.detach()
        self._kept: list[Saved] = []

    def visible(self, at: int) -> Tensor:
        """Return what the outside sees of s_{at}, (N, H)."""
        return self.seen(self.states[at])

    def seen(self, states: Tensor) -> Tensor:
        """Return what the outside sees of states (..., W), (..., H)."""
        return states[..., : self._hidden]

    def forward(self, at: int, drive: Tensor, *, keep: bool) -> None:
        """Make the state after step `at` from its drive (N, G*H)."""
        visible = self.visible(at) if self._mask is None else self.visible(at) * self._mask
        pull = self._pull.forward(at, visible).to(drive.dtype)
        kept = self._step.forward(drive, pull, self.states[at], self.states[at + 1])
        if keep:
            self._kept.append(kept)

    def begin_backward(self, of_drives: Tensor) -> None:
        """Make room for the gradients; those of the drives go to (T, N, G*H), of `dtype`."""
        self._step.begin_backward()
        self._of_drives = of_drives
        self._pull.begin_backward(of_drives if self._step.adds else None)
        #: ds_i, (N, W), as far as later steps have asked.
        self.grad = torch.zeros_like(self.states[0])

    def backward(self, at: int) -> None:
        """Turn ds_i into ds_{i-1}, but for what others ask of it; fill in the drive's."""
        drive, pull = self._of_drives[at], self._pull.grads[at]
        direct = self._step.backward(self.grad, self._kept[at], drive, pull)
        back = self._pull.backward(at, self.grad.dtype)
        self.grad = torch.zeros_like(self.grad) if direct is None else direct
        self.ask(back if self._mask is None else back * self._mask)

    def ask(self, visible: Tensor) -> None:
        """Add to the gradient of what is visible of the state, (N, H)."""
        self.grad[:, : self._hidden] += visible

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of s_0, of U and of the step's parameters."""
        return self.grad, self._pull.gradient(), *self._step.gradients()


class Recurrence(Loop):
    """A cell that is driven by what is known before: it gives s_1 ... s_T, (T, N, W).

    Args:
        chain: the cell's states
        drives: W x + b of every step, (T, N, G*H), float32 or wider

    """

    def __init__(self, chain: Chain, drives: Tensor) -> None:
        self._chain, self._drives = chain, drives
        self.constants = chain.constants

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The drives, and what the chain has."""
        return self._drives, *self._chain.parameters

    def forward(self) -> tuple[Tensor]:
        """Run the loop."""
        self._chain.begin_forward()
        for at, drive in enumerate(self._drives):
            self._chain.forward(at, drive, keep=self.keeps)
        return (self._chain.states[1:],)

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of the drives, and the chain's."""
        (of_states,) = gradients
        of_drives = self._drives.new_empty(self._drives.shape, dtype=self._chain.dtype)
        self._chain.begin_backward(of_drives)
        for at in reversed(range(len(of_drives))):
            if of_states is not None:
                self._chain.grad += of_states[at]
            self._chain.backward(at)
        return of_drives.to(self._drives.dtype), *self._chain.gradients()
