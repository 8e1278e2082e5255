"""Matrix products, each by the faster of the libraries that torch carries.

On CPUs torch multiplies float32 matrices by MKL, which has no AVX-512 for processors of other
makers than Intel: one core of an AMD EPYC does 105 GFLOP/s by it and 190 to 250 by oneDNN, whose
operator is there but not taken. In every other case, bfloat16 on CPUs included, torch's choice is
as good as any.

Shapes: N rows, I inputs, O outputs.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

#: Sides and volumes from which oneDNN is the faster. A call of it takes 10 µs before it begins, and
#: one for a shape that is new half a millisecond: what is done again and again may be smaller.
_THINNEST: Final = 32
_SMALLEST: Final = 64 << 20
_SMALLEST_AGAIN: Final = 4 << 20


@cache
def onednn_is_faster(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether oneDNN is there, and MKL leaves out what this processor can do."""
    try:
        processor = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "GenuineIntel" not in processor
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _by_onednn(inputs: Tensor, weight: Tensor, *, again: bool = False) -> bool:
    if not (inputs.dtype is weight.dtype is torch.float32 and inputs.device.type == "cpu"):
        return False
    outputs, width = weight.shape
    rows = inputs.numel() // max(1, width)
    thick = min(rows, outputs, width) >= _THINNEST and rows * outputs * width >= (
        _SMALLEST_AGAIN if again else _SMALLEST
    )
    return thick and onednn_is_faster()


def _is_cheaper_turned(inputs: Tensor, weight: Tensor) -> bool:
    """Whether W x^T, turned, costs fewer copies than x W^T: oneDNN's rows must be rows in memory.

    That of a gradient of weights, where x and W^T are columns: of those the narrower are copied.
    """
    if inputs.ndim != 2 or inputs.is_contiguous():
        return False
    copied = 0 if weight.is_contiguous() else weight.numel()
    return copied + len(inputs) * len(weight) < inputs.numel()


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # columns of a wider matrix take it 400 times as long
    return cast("Tensor", _operator()(inputs, weight, bias, "none", [], ""))


@cache
def _operator() -> Any:
    """Return oneDNN's product; without naming the overload each call looks for it for 6 µs."""
    return torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 (an operator's name)


def product(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    room: Tensor | None = None,
    again: bool = False,
) -> Tensor:
    """Return x W^T + b for x (..., I), W (O, I) of any layout and b (O,); autograd knows nothing.

    For what has a backward by hand, and for what needs none. The result may stand in `room`.
    """
    if _by_onednn(inputs, weight, again=again):
        if bias is None and _is_cheaper_turned(inputs, weight):
            return _onednn(weight, inputs, None).t().contiguous()
        return _onednn(inputs, weight, bias)
    if room is None:
        return F.linear(inputs, weight, bias)
    if bias is None:
        return torch.mm(inputs, weight.t(), out=room)
    return torch.addmm(bias, inputs, weight.t(), out=room)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `torch.nn.functional.linear` does."""
    if torch.is_autocast_enabled("cpu"):
        return F.linear(inputs, weight, bias)
    if not torch.is_grad_enabled():
        return product(inputs, weight, bias, again=True)  # a step of a search, mostly
    if not _by_onednn(inputs, weight):
        return F.linear(inputs, weight, bias)
    return cast("Tensor", _Linear.apply(inputs, weight, bias))  # type: ignore[no-untyped-call]


def plus_product(base: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return base + x W^T for base (N, O) and x (N, I)."""
    if _by_onednn(inputs, weight, again=not torch.is_grad_enabled()):
        return base + linear(inputs, weight)
    return torch.addmm(base, inputs, weight.t())


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            product(grad, weight.t()) if of_inputs else None,
            product(rows.t(), inputs.flatten(0, -2).t()) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


class Linear(nn.Linear):
    """torch's, by the faster library."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return W x + b, (..., I) -> (..., O)."""
        return linear(inputs, self.weight, self.bias)
