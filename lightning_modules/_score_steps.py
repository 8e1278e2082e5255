"""The energies of one step, forward and backward by hand: the pieces that `_scan.py` drives.

Shapes: T steps, B sentences (one query each), S source positions, H units of the state that
attends, A width of a key, K filters.

The equations are those of `_scores.py`, where each score also stands as a plain function that
autograd differentiates; tests hold these steps to those. Keys and energies are float32 or wider:
there a step is bound by the memory it walks through, and CPUs convert bfloat16 more slowly than
they read float32.
"""

from abc import ABC, abstractmethod
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._products import linear
from lightning_modules._steps import Learner, Product

_convolution_backward: Any = torch.ops.aten.convolution_backward
#: exp(x) and exp(-x) are numbers, and not 0, up to here in float32.
_LARGEST: Final = 80.0


class ScoreStep(Learner, ABC):
    """The energies of one batch; of its parameters the keys (B, S, A) come first."""

    @abstractmethod
    def begin_forward(self) -> None:
        """Make room for what is kept, and do what is the same at all steps."""

    @abstractmethod
    def forward(self, at: int, visible: Tensor, before: Tensor) -> Tensor:
        """Return e (B, S) of step `at` for a state (B, H) and the weights before it (B, S)."""

    @abstractmethod
    def backward(self, at: int, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of the state (B, H) and of the weights before (B, S) for de (B, S).

        None where the energies do not depend on the weights before.
        """


class DotStep(ScoreStep):
    """e_j = q · k_j with q = W s; with q = s where there is no W."""

    def __init__(self, keys: Tensor, steps: int, weight: Tensor | None = None) -> None:
        self._project = None if weight is None else Product(weight, steps, len(keys))
        self._keys, self._steps = keys, steps
        self.parameters = (keys,) if weight is None else (keys, weight)

    def begin_forward(self) -> None:
        """Make room for the queries."""
        if self._project:
            self._project.begin_forward()
        batch, _, size = self._keys.shape
        self._queries = self._keys.new_empty(self._steps, batch, size)

    def forward(self, at: int, visible: Tensor, before: Tensor) -> Tensor:  # noqa: ARG002 (not asked)
        """Return q · k_j."""
        query = self._project.forward(at, visible) if self._project else visible
        query = self._queries[at].copy_(query)
        return torch.bmm(query[:, None], self._keys.transpose(1, 2))[:, 0]

    def begin_backward(self) -> None:
        """Make room for the gradients."""
        self._grads = self._keys.new_empty(self._steps, *self._keys.shape[:2])
        if self._project:
            self._project.begin_backward()

    def backward(self, at: int, grad: Tensor) -> tuple[Tensor, None]:
        """Return that of the state."""
        self._grads[at] = grad
        query = torch.bmm(grad[:, None], self._keys)[:, 0]
        if self._project is None:
            return query, None
        self._project.grads[at] = query
        return self._project.backward(at, grad.dtype), None

    def gradients(self) -> tuple[Tensor, ...]:
        """Return dk_j, one product over all steps, and dW."""
        keys = torch.bmm(self._grads.permute(1, 2, 0), self._queries.transpose(0, 1))
        return (keys, self._project.gradient()) if self._project else (keys,)


class AdditiveStep(ScoreStep):
    """e_j = v · σ(q + k_j) with q = W s.

    σ(q + k) = 1 / (1 + exp(-q) exp(-k)): exp(-k) is the same at all steps, and what remains takes
    about a third of the time of adding and σ. The exponents are cut off at ±80: only beyond that,
    where a network has long diverged, does anything else come out. The backward computes σ again:
    that is faster than to write and read (B, S, A) numbers a step, and takes no memory.
    """

    def __init__(self, keys: Tensor, steps: int, weight: Tensor, vector: Tensor) -> None:
        self._keys, self._steps, self._vector = keys, steps, vector
        self._project = Product(weight, steps, len(keys))
        self.parameters = (keys, weight, vector)

    def begin_forward(self) -> None:
        """Make room, and exp(-k_j)."""
        self._project.begin_forward()
        #: exp(-k_j), and a buffer of that size.
        self._decays, self._fits = decay(self._keys), torch.empty_like(self._keys)
        batch, _, size = self._keys.shape
        #: exp(-q) of every step.
        self._scales = self._keys.new_empty(self._steps, batch, size)

    def forward(self, at: int, visible: Tensor, before: Tensor) -> Tensor:  # noqa: ARG002 (not asked)
        """Return v · σ(q + k_j)."""
        self._scales[at] = decay(self._project.forward(at, visible).to(self._vector.dtype))
        fits = self._fit(at)
        return (fits.flatten(0, 1) @ self._vector).view(fits.shape[:2])

    def _fit(self, at: int) -> Tensor:
        one = self._vector.new_ones(())
        scale = self._scales[at, :, None]
        return torch.addcmul(one, self._decays, scale, out=self._fits).reciprocal_()

    def begin_backward(self) -> None:
        """Make room for the gradients."""
        self._project.begin_backward()
        #: Those of k_j and of v; that of k_j still lacks its factor v.
        self._of_keys, self._slopes = torch.zeros_like(self._fits), torch.empty_like(self._fits)
        self._of_vector = torch.zeros_like(self._vector)

    def backward(self, at: int, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return that of the state."""
        fits = self._fit(at)
        self._of_vector += (grad.reshape(1, -1) @ fits.flatten(0, 1))[0]
        slopes = torch.addcmul(fits, fits, fits, value=-1, out=self._slopes)  # σ (1 - σ)
        self._of_keys.addcmul_(slopes, grad[..., None])
        query = torch.bmm(grad[:, None], slopes)[:, 0]
        torch.mul(query, self._vector, out=query)
        self._project.grads[at] = query
        return self._project.backward(at, grad.dtype), None

    def gradients(self) -> tuple[Tensor, ...]:
        """Return dk_j, dW and dv."""
        return self._of_keys * self._vector, self._project.gradient(), self._of_vector


def decay(values: Tensor) -> Tensor:
    """Return exp(-x), its exponent cut off at ±80."""
    return values.neg().clamp_(-_LARGEST, _LARGEST).exp_()


class LocationStep(ScoreStep):
    """e_j = v · σ(q + k_j + V f_j) with q = W s and f = F * α', α' the weights of the step before.

    F is (K, 1, width) and V (A, K).
    """

    def __init__(
        self,
        keys: Tensor,
        steps: int,
        weight: Tensor,
        vector: Tensor,
        located: tuple[Tensor, Tensor],
    ) -> None:
        self._keys, self._steps, self._vector = keys, steps, vector
        self._filters, self._feature = located
        self.parameters = (keys, weight, vector, *located)
        self._project = Product(weight, steps, len(keys))

    def begin_forward(self) -> None:
        """Make room for the queries and the weights before."""
        self._project.begin_forward()
        batch, positions, size = self._keys.shape
        self._queries = self._keys.new_empty(self._steps, batch, size)
        self._before = self._keys.new_empty(self._steps, batch, positions)

    def forward(self, at: int, visible: Tensor, before: Tensor) -> Tensor:
        """Return v · σ(q + k_j + V f_j)."""
        self._before[at] = before
        self._queries[at] = self._project.forward(at, visible)
        fits = self._fit(at, self._seen(at))
        return (fits.flatten(0, 1) @ self._vector).view(before.shape)

    def _seen(self, at: int) -> Tensor:
        """Return f, (B, S, K)."""
        return F.conv1d(self._before[at][:, None], self._filters, padding="same").transpose(1, 2)

    def _fit(self, at: int, seen: Tensor) -> Tensor:
        total = linear(seen, self._feature).add_(self._keys)
        return total.add_(self._queries[at, :, None]).sigmoid_()

    def begin_backward(self) -> None:
        """Make room for the gradients."""
        super().begin_backward()
        self._project.begin_backward()

    def backward(self, at: int, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        seen = self._seen(at)
        fits = self._fit(at, seen)
        of_keys, _, of_vector, of_filters, of_feature = self._sums
        of_vector += (grad.reshape(1, -1) @ fits.flatten(0, 1))[0]
        inner = torch.addcmul(fits, fits, fits, value=-1).mul_(grad[..., None]).mul_(self._vector)
        of_keys += inner
        of_feature += inner.flatten(0, 1).t() @ seen.flatten(0, 1)
        of_seen = (inner @ self._feature).transpose(1, 2)  # (B, K, S)
        before, own, _ = self._convolved(at, of_seen)
        of_filters += own
        self._project.grads[at] = inner.sum(dim=1)
        return self._project.backward(at, grad.dtype), before[:, 0]

    def _convolved(self, at: int, grad: Tensor) -> Any:
        """Return the gradients of what was convolved and of the filters."""
        reach = self._filters.shape[2] // 2
        geometry: list[Any] = [[1], [reach], [1], False, [0], 1, [True, True, False]]
        inputs = self._before[at][:, None]
        return _convolution_backward(grad, inputs, self._filters, None, *geometry)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return dk_j, dW, dv, dF and dV."""
        of_keys, _, *others = self._sums
        return of_keys, self._project.gradient(), *others
