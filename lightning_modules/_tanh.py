"""tanh(x) as 2σ(2x) - 1: on CPUs σ takes a sixth of tanh's time.

What is near 0 is off by 1e-7 at most, as every sum of numbers of size 1 is in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

tanh_backward: Any = torch.ops.aten.tanh_backward.default


def tanh_of(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return tanh of float32 or wider, which may take the place of the values; no autograd."""
    return torch.sub(torch.mul(values, 2, out=out).sigmoid_(), 0.5, out=out).mul_(2)


class _Tanh(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        result = tanh_of(wide).to(values.dtype)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        result: Tensor = tanh_backward(grad, *ctx.saved_tensors)
        return result


def tanh(values: Tensor) -> Tensor:
    """Return tanh of values of any dtype and shape, differentiable."""
    if values.device.type != "cpu":
        return torch.tanh(values)
    result: Tensor = _Tanh.apply(values)  # type: ignore[no-untyped-call]
    return result
