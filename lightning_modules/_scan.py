"""The loop that attends, as one differentiable function with a backward written by hand.

Shapes: T target positions, B sentences, S source positions, C width of an annotation h_j, H hidden
units, G*H a cell's drive, W a cell's state.

The equations are those of `_attention.py`, whose plain loop is the reference. One driver serves
every cell (`_steps.py`), every score (`_score_steps.py`) and both orders in which a step hears of
attention: each of these gives its own step forward and backward. Where none hears of it, `LookBack`
attends with states that are known. Nothing stands inside the loop that does not depend on the
state, and gradients of weights, of annotations and of what was fed are products over all steps,
made after it.

Products are in the dtype of their weights; states, energies, contexts and all that is elementwise
is float32 or wider.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules._recurrence import Chain, Loop
from lightning_modules._score_steps import ScoreStep
from lightning_modules._steps import Product
from lightning_modules._tanh import tanh_backward, tanh_of

_softmax_backward: Any = torch.ops.aten._softmax_backward_data  # noqa: SLF001 (an operator's name)


@dataclass(frozen=True)
class Attended:
    """Hold what is attended to, float32 or wider."""

    #: h_j, (B, S, C).
    values: Tensor
    #: 0 at a symbol, -inf at padding, (B, S).
    bias: Tensor


class Look:
    """Attend at every step: α_i = softmax(e_i), c_i = Σ_j α_ij h_j."""

    def __init__(self, score: ScoreStep, attended: Attended, steps: int) -> None:
        self._score, self._attended, self._steps = score, attended, steps
        self.parameters = (attended.values, *score.parameters)
        #: What has no gradient.
        self.constants = (attended.bias,)

    def begin_forward(self) -> None:
        """Make room for what is found."""
        self._score.begin_forward()
        values = self._attended.values
        #: c_i of every step, (T, B, C), and α_i, (T, B, S).
        self.contexts = values.new_empty(self._steps, len(values), values.shape[2])
        self.weights = values.new_empty(self._steps, *values.shape[:2])

    def forward(self, at: int, visible: Tensor) -> Tensor:
        """Return c_i for the state that attends (B, H)."""
        energies = self._score.forward(at, visible, self._before(at)) + self._attended.bias
        weights = torch.softmax(energies, dim=1, out=self.weights[at])
        context = self.contexts[at, :, None]
        torch.bmm(weights[:, None], self._attended.values, out=context)
        return self.contexts[at]

    def _before(self, at: int) -> Tensor:
        """Return α_{i-1}; before the first step attention stands on the first position."""
        if at:
            return self.weights[at - 1]
        first = torch.zeros_like(self.weights[0])
        first[:, 0].fill_(1.0)
        return first

    def begin_backward(self, of_weights: Tensor | None) -> None:
        """Make room for the gradients; α may have some from outside, (T, B, S)."""
        self._score.begin_backward()
        self._of_contexts = torch.empty_like(self.contexts)
        self._of_weights = of_weights
        #: What the step after this one asks of these weights.
        self._asked: Tensor | None = None

    def backward(self, at: int, grad: Tensor) -> Tensor:
        """Return the gradient of the state (B, H) for dc_i (B, C)."""
        self._of_contexts[at] = grad
        weights = torch.bmm(grad[:, None], self._attended.values.transpose(1, 2))[:, 0]
        for more in (self._asked, None if self._of_weights is None else self._of_weights[at]):
            if more is not None:
                weights += more
        energies = _softmax_backward(weights, self.weights[at], 1, weights.dtype)
        visible, self._asked = self._score.backward(at, energies)
        return visible

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of h_j and of the score's parameters."""
        values = torch.bmm(self.weights.permute(1, 2, 0), self._of_contexts.transpose(0, 1))
        return values, *self._score.gradients()


class LookBack(Loop):
    """Attend with states that are all known, (T, B, H): c_i (T, B, C) and α_i (T, B, S)."""

    def __init__(self, look: Look, states: Tensor) -> None:
        self._look, self._states = look, states
        self.constants = look.constants

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The states, and what attention has."""
        return self._states, *self._look.parameters

    def forward(self) -> tuple[Tensor, Tensor]:
        """Attend at every step."""
        self._look.begin_forward()
        for at, state in enumerate(self._states):
            self._look.forward(at, state)
        return self._look.contexts, self._look.weights

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of the states, and attention's."""
        of_contexts, of_weights = gradients
        if of_contexts is None:
            of_contexts = torch.zeros_like(self._look.contexts)
        of_states = torch.empty_like(self._states)
        self._look.begin_backward(of_weights)
        for at in reversed(range(len(of_states))):
            of_states[at] = self._look.backward(at, of_contexts[at])
        return of_states, *self._look.gradients()


class Scan(Loop, ABC):
    """Run a cell that attends, in one of the two orders, once.

    Args:
        chain: the cell's states
        look: attention
        drives: W_y y_{i-1} + b of every step, (T, B, G*H), float32 or wider
        entering: the product by which the context, or what is fed, enters the drive

    """

    def __init__(self, chain: Chain, look: Look, drives: Tensor, entering: Product) -> None:
        self._chain, self._look = chain, look
        self._drives, self._entering = drives, entering
        self._steps = len(drives)
        self.constants = (*chain.constants, *look.constants)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All that has a gradient, in the order of `backward`."""
        own = self._drives, self._entering.weight
        return *own, *self._chain.parameters, *self._look.parameters

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Run the loop; return s_i (T, B, W), c_i (T, B, C) and α_i (T, B, S)."""
        for part in (self._chain, self._look, self._entering):
            part.begin_forward()
        for at in range(self._steps):
            self._forward(at)
        return self._chain.states[1:], self._look.contexts, self._look.weights

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of `parameters`."""
        of_states, of_contexts, of_weights = gradients
        self._entering.begin_backward()
        self._chain.begin_backward(self._entering.grads)
        self._look.begin_backward(of_weights)
        for at in reversed(range(self._steps)):
            if of_states is not None:
                self._chain.grad += of_states[at]
            self._backward(at, None if of_contexts is None else of_contexts[at])
        of_drives = self._entering.grads.to(self._drives.dtype)
        own = of_drives, self._entering.gradient()
        return *own, *self._chain.gradients(), *self._look.gradients()

    def _enter(self, at: int, values: Tensor) -> Tensor:
        """Return the drive of a step that these values (B, ...) enter."""
        return self._entering.forward(at, values).to(self._drives.dtype).add_(self._drives[at])

    @abstractmethod
    def _forward(self, at: int) -> None:
        """Do step `at`."""

    @abstractmethod
    def _backward(self, at: int, of_context: Tensor | None) -> None:
        """Go back over step `at`, whose context has a gradient from outside, (B, C) or None."""


class ScanBefore(Scan):
    """s_{i-1} attends, and c_i is part of what makes s_i."""

    def _forward(self, at: int) -> None:
        context = self._look.forward(at, self._chain.visible(at))
        self._chain.forward(at, self._enter(at, context), keep=self.keeps)

    def _backward(self, at: int, of_context: Tensor | None) -> None:
        self._chain.backward(at)
        context = self._entering.backward(at, self._drives.dtype)
        if of_context is not None:
            context += of_context
        self._chain.ask(self._look.backward(at, context))


class ScanAfter(Scan):
    """s_i attends, and v_i = tanh(W_v [c_i; s_i] + b_v) is fed to the next step; v_0 = 0.

    Args:
        combine: W_v, (H, C + H), in the dtype of the products
        bias: b_v, (H,)

    """

    def __init__(
        self,
        chain: Chain,
        look: Look,
        drives: Tensor,
        entering: Product,
        *,
        combine: Tensor,
        bias: Tensor,
    ) -> None:
        super().__init__(chain, look, drives, entering)
        rows = drives.shape[1]
        self._combine, self._bias = Product(combine, len(drives), rows), bias

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All that has a gradient, in the order of `backward`."""
        return *super().parameters, self._combine.weight, self._bias

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Run the loop."""
        self._combine.begin_forward()
        #: v_0 ... v_T, (T + 1, B, H).
        self._fed = self._drives.new_zeros(self._steps + 1, self._drives.shape[1], len(self._bias))
        return super().forward()

    def _forward(self, at: int) -> None:
        self._chain.forward(at, self._enter(at, self._fed[at]), keep=self.keeps)
        visible = self._chain.visible(at + 1)
        context = self._look.forward(at, visible)
        both = self._combine.forward(at, torch.cat([context, visible], dim=1))
        tanh_of(both.to(self._bias.dtype).add_(self._bias), out=self._fed[at + 1])

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of `parameters`."""
        self._combine.begin_backward()
        self._of_fed = torch.zeros_like(self._fed[0])
        own = super().backward(*gradients)
        of_bias = self._combine.grads.sum(dim=(0, 1), dtype=self._bias.dtype)
        return *own, self._combine.gradient(), of_bias

    def _backward(self, at: int, of_context: Tensor | None) -> None:
        self._combine.grads[at] = tanh_backward(self._of_fed, self._fed[at + 1])
        both = self._combine.backward(at, self._drives.dtype)
        context = both[:, : self._look.contexts.shape[2]].contiguous()
        self._chain.ask(both[:, context.shape[1] :])
        if of_context is not None:
            context += of_context
        self._chain.ask(self._look.backward(at, context))
        self._chain.backward(at)
        self._of_fed = self._entering.backward(at, self._drives.dtype)
