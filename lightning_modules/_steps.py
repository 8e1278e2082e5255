"""One step of each cell, forward and backward by hand: the pieces that the scans drive.

Shapes: N rows, H hidden units, G*H a cell's drive, W the width of its state.

The equations are those of `_cells.py`, where each cell also stands as a plain function that
autograd differentiates; tests hold these steps to those. A gradient is written dx for ∂loss/∂x, and
x' is x of the step before. All is in float32 or wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from lightning_modules._products import product
from lightning_modules._tanh import tanh_backward, tanh_of

#: What a step keeps for its backward.
Saved = tuple[Tensor, ...]

_layer_norm: Any = torch.ops.aten.native_layer_norm
_layer_norm_backward: Any = torch.ops.aten.native_layer_norm_backward
_sigmoid_backward: Any = torch.ops.aten.sigmoid_backward
_sigmoid_backward_out: Any = torch.ops.aten.sigmoid_backward.grad_input
#: Added to a variance, as torch.nn.functional.layer_norm does.
_EPSILON: Final = 1e-5


class Product:
    """x W^T at every step of a loop; the gradient of W is one product over all of them.

    Under autograd every step would add a small product of its own.

    Args:
        weight: W (O, I), in the dtype of the products
        steps: T
        rows: N

    """

    def __init__(self, weight: Tensor, steps: int, rows: int) -> None:
        self.weight = weight
        self._sizes = steps, rows

    def begin_forward(self) -> None:
        """Make room for what goes in."""
        #: x of every step, (T, N, I).
        self.inputs = self.weight.new_empty(*self._sizes, self.weight.shape[1])

    def forward(self, at: int, values: Tensor) -> Tensor:
        """Return x W^T for the x of step `at`, cast to W's dtype."""
        return product(self.inputs[at].copy_(values), self.weight, again=True)

    def begin_backward(self, grads: Tensor | None = None) -> None:
        """Make room for the gradients, or share those (T, N, O) of what this is only added to."""
        shape = *self._sizes, self.weight.shape[0]
        #: Gradients of x W^T, (T, N, O): filled step by step.
        self.grads = self.weight.new_empty(shape) if grads is None else grads

    def backward(self, at: int, dtype: torch.dtype) -> Tensor:
        """Return the gradient of a step's x, once its row of `grads` is filled."""
        return product(self.grads[at], self.weight.t(), again=True).to(dtype)

    def gradient(self) -> Tensor:
        """Return that of W."""
        return product(self.grads.flatten(0, 1).t(), self.inputs.flatten(0, 1).t())


#: Products of fewer rows are made for a multiple of so many: oneDNN makes a kernel for each number.
_FEWER_BY: Final = 16


class RaggedProduct(Product):
    """The same, where step `at` has the first counts[at] rows alone."""

    def __init__(self, weight: Tensor, counts: Sequence[int]) -> None:
        rows = max(counts)
        super().__init__(weight, len(counts), rows)
        self._counts = counts
        self._made = [min(rows, -(-count // _FEWER_BY) * _FEWER_BY) for count in counts]

    def begin_forward(self) -> None:
        """Make room for what goes in; rows that a step does not have are zero."""
        self.inputs = self.weight.new_zeros(*self._sizes, self.weight.shape[1])

    def forward(self, at: int, values: Tensor) -> Tensor:
        """Return x W^T for the rows that step `at` has."""
        self.inputs[at, : len(values)] = values
        return product(self.inputs[at, : self._made[at]], self.weight, again=True)[: len(values)]

    def begin_backward(self, grads: Tensor | None = None) -> None:
        """Make room for the gradients; those of rows that a step does not have are to be zero."""
        shape = *self._sizes, self.weight.shape[0]
        self.grads = self.weight.new_zeros(shape) if grads is None else grads

    def backward(self, at: int, dtype: torch.dtype) -> Tensor:
        """Return the gradient of the x of the rows that step `at` has."""
        grads = self.grads[at, : self._made[at]]
        return product(grads, self.weight.t(), again=True)[: self._counts[at]].to(dtype)


class Learner:
    """What learns in a loop: the gradients of its parameters add up from step to step."""

    #: What it learns; of a cell beside W and U.
    parameters: tuple[Tensor, ...] = ()

    def begin_backward(self) -> None:
        """Begin to add up the gradients."""
        self._sums = tuple(torch.zeros_like(each) for each in self.parameters)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return what has added up for `parameters`, in their order."""
        return self._sums


class CellStep(Learner, ABC):
    """A cell's step for one batch."""

    #: Whether W x + b and U s' are only ever added, so that both have the same gradient.
    adds: ClassVar[bool] = True

    @abstractmethod
    def forward(self, drive: Tensor, pull: Tensor, state: Tensor, out: Tensor) -> Saved:
        """Write s into `out` (N, W), for W x + b and U s' (N, G*H) and s' (N, W).

        Return what the backward needs; `pull` may be overwritten.
        """

    @abstractmethod
    def backward(self, grad: Tensor, saved: Saved, drive: Tensor, pull: Tensor) -> Tensor | None:
        """Write the gradients of W x + b and of U s' into `drive` and `pull`, for ds (N, W).

        Return that of s' by all other ways (N, W), None where there is no other. Where the step
        `adds`, `pull` is `drive`.
        """


class TanhStep(CellStep):
    """s = tanh(x + U s')."""

    def forward(self, drive: Tensor, pull: Tensor, state: Tensor, out: Tensor) -> Saved:  # noqa: ARG002 (only U sees it)
        """Write s; it is all that is kept."""
        return (tanh_of(pull.add_(drive), out=out),)

    def backward(self, grad: Tensor, saved: Saved, drive: Tensor, pull: Tensor) -> None:  # noqa: ARG002 (the same)
        """Write ds (1 - s²)."""
        drive.copy_(tanh_backward(grad, *saved))


class GRUStep(CellStep):
    """r, z = σ(x + U s'),  n = tanh(x_n + r ∘ (U_n s' + b)),  s = n + z ∘ (s' - n)."""

    adds = False

    def __init__(self, bias: Tensor) -> None:
        self.parameters = (bias,)

    def forward(self, drive: Tensor, pull: Tensor, state: Tensor, out: Tensor) -> Saved:
        """Write s; kept are r and z, U_n s' + b, n, and s' - n."""
        hidden = state.shape[1]
        gates = torch.add(pull[:, : 2 * hidden], drive[:, : 2 * hidden]).sigmoid_()
        candidate = torch.add(pull[:, 2 * hidden :], self.parameters[0])
        new = torch.addcmul(drive[:, 2 * hidden :], gates[:, :hidden], candidate)
        tanh_of(new, out=new)
        gap = state - new
        torch.addcmul(new, gates[:, hidden:], gap, out=out)
        return gates, candidate, new, gap

    def backward(self, grad: Tensor, saved: Saved, drive: Tensor, pull: Tensor) -> Tensor:
        """Write the gradients; that of s' is ds ∘ z."""
        gates, candidate, new, gap = saved
        hidden = grad.shape[1]
        kept = grad * gates[:, hidden:]
        inner = tanh_backward(grad - kept, new)
        opened = torch.empty_like(gates)
        torch.mul(inner, candidate, out=opened[:, :hidden])
        torch.mul(grad, gap, out=opened[:, hidden:])
        of_gates = drive[:, : 2 * hidden]
        pull[:, : 2 * hidden] = _sigmoid_backward_out(opened, gates, grad_input=of_gates)
        pulled = inner * gates[:, :hidden]
        self._sums[0].add_(pulled.sum(dim=0))
        drive[:, 2 * hidden :], pull[:, 2 * hidden :] = inner, pulled
        return kept


class LSTMStep(CellStep):
    """i, f, o = σ(x + U h'),  g = tanh(x_g + U_g h'),  c = f ∘ c' + i ∘ g,  h = o ∘ tanh(c).

    With a norm, tanh(LN(c)) stands for tanh(c). The state is [h, c].
    """

    def __init__(self, norm: "NormStep | None" = None) -> None:
        self._norm = norm
        self.parameters = norm.parameters if norm else ()

    def forward(self, drive: Tensor, pull: Tensor, state: Tensor, out: Tensor) -> Saved:
        """Write [h, c]; kept are the four gates, c', the last tanh, and what the norm keeps."""
        hidden = state.shape[1] // 2
        before, memory = state[:, hidden:], out[:, hidden:]
        gates = torch.add(pull, drive)
        enter, forget, new, leave = gates.chunk(4, dim=1)
        new.mul_(2)  # tanh as in `_tanh.py`: all four blocks then take one σ
        gates.sigmoid_()
        new.mul_(2).sub_(1)
        torch.mul(forget, before, out=memory).addcmul_(enter, new)
        looked, kept = self._norm.forward(memory) if self._norm else (memory, ())
        seen = tanh_of(looked)
        torch.mul(leave, seen, out=out[:, :hidden])
        return gates, before, seen, *kept

    def backward(self, grad: Tensor, saved: Saved, drive: Tensor, pull: Tensor) -> Tensor:  # noqa: ARG002 (the same)
        """Write the gradients; that of s' is [0, dc ∘ f]."""
        gates, before, seen, *kept = saved
        enter, forget, new, leave = gates.chunk(4, dim=1)
        of_visible, of_memory = grad.chunk(2, dim=1)
        looked = tanh_backward(of_visible * leave, seen)
        memory = of_memory + (self._norm.backward(looked, kept) if self._norm else looked)
        inner = torch.empty_like(gates)
        of_enter, of_forget, of_new, of_leave = inner.chunk(4, dim=1)
        torch.mul(memory, new, out=of_enter)
        torch.mul(memory, before, out=of_forget)
        torch.mul(memory, enter, out=of_new)
        torch.mul(of_visible, seen, out=of_leave)
        drive.copy_(_sigmoid_backward(inner, gates))
        drive.chunk(4, dim=1)[2].copy_(tanh_backward(of_new, new))
        state = torch.zeros_like(grad)
        torch.mul(memory, forget, out=state[:, forget.shape[1] :])
        return state

    def begin_backward(self) -> None:
        """Begin to add up those of the norm."""
        if self._norm:
            self._norm.begin_backward()

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of the norm."""
        return self._norm.gradients() if self._norm else ()


def varies(values: Tensor) -> Tensor:
    """Say which rows hold different numbers, (..., n) -> (..., 1)."""
    return (values != values[..., :1]).any(dim=-1, keepdim=True)


class NormStep(Learner):
    """LN(x; γ) + b of groups of columns that are normalised together (`_cells.GateNorm`)."""

    def __init__(self, sizes: Sequence[int], gain: Tensor, bias: Tensor | None) -> None:
        #: The columns of each group.
        self._groups = [
            slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)
        ]
        self._gain, self._bias = gain, bias
        self.parameters = (gain,) if bias is None else (gain, bias)

    def forward(self, values: Tensor) -> tuple[Tensor, Saved]:
        """Return the normalised values (N, ...); kept are x, and mean and 1/σ of each group."""
        saved, normed = [values], torch.empty_like(values)
        for at in self._groups:
            part = values[:, at]
            normed[:, at], mean, inverse = _layer_norm(
                part, part.shape[1:], self._gain[at], self._bias_of(at), _EPSILON
            )
            saved += [mean, inverse]
        return normed, tuple(saved)

    def backward(self, grad: Tensor, saved: Sequence[Tensor]) -> Tensor:
        """Return dx."""
        values, *moments = saved
        inner = torch.empty_like(values)
        wanted = [True, True, self._bias is not None]
        for at, mean, inverse in zip(self._groups, moments[::2], moments[1::2], strict=True):
            part, gain, bias = values[:, at], self._gain[at], self._bias_of(at)
            of_part, *own = _layer_norm_backward(
                grad[:, at], part, part.shape[1:], mean, inverse, gain, bias, wanted
            )
            inner[:, at] = of_part.where(varies(part), 0)
            for total, more in zip(self._sums, own, strict=False):
                total[at] += more
        return inner

    def _bias_of(self, columns: slice) -> Tensor | None:
        return None if self._bias is None else self._bias[columns]


class NormedStep(CellStep):
    """A step that normalises U s' first, and W x + b where that is given."""

    adds = False

    def __init__(self, inner: CellStep, pull: NormStep, drive: NormStep | None) -> None:
        self._inner, self._pull, self._drive = inner, pull, drive
        self._parts: tuple[Learner, ...] = (inner, pull, *([drive] if drive else []))
        self.parameters = tuple(each for part in self._parts for each in part.parameters)
        #: How much of what is kept is the pull's norm's, and how much the drive's.
        self._counts = 0, 0

    def forward(self, drive: Tensor, pull: Tensor, state: Tensor, out: Tensor) -> Saved:
        """Write s; kept is what all parts keep."""
        pull, of_pull = self._pull.forward(pull)
        drive, of_drive = self._drive.forward(drive) if self._drive else (drive, ())
        self._counts = len(of_pull), len(of_drive)
        return (*of_pull, *of_drive, *self._inner.forward(drive, pull, state, out))

    def begin_backward(self) -> None:
        """Begin to add up the gradients of all parts."""
        for part in self._parts:
            part.begin_backward()

    def backward(self, grad: Tensor, saved: Saved, drive: Tensor, pull: Tensor) -> Tensor | None:
        """Write the gradients of what came in before it was normalised."""
        first, second = self._counts[0], sum(self._counts)
        of_drive = grad.new_empty(drive.shape)
        of_pull = of_drive if self._inner.adds else torch.empty_like(of_drive)
        state = self._inner.backward(grad, saved[second:], of_drive, of_pull)
        pull.copy_(self._pull.backward(of_pull, saved[:first]))
        if self._drive:
            of_drive = self._drive.backward(of_drive, saved[first:second])
        drive.copy_(of_drive)
        return state

    def gradients(self) -> tuple[Tensor, ...]:
        """Return those of all parts."""
        return tuple(each for part in self._parts for each in part.gradients())
