"""Products by oneDNN are torch's own, and have its gradients, whatever the layout."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules import _products
from lightning_modules._products import Linear, linear, onednn_is_faster, plus_product, product

#: Rows, inputs and outputs: of oneDNN's size, one of them turned, and too small or too thin for it.
SIZES = ((512, 512, 256), (2048, 512, 128), (3, 4, 5), (2048, 8, 300), (0, 128, 128))


@pytest.fixture(autouse=True, params=[True, False], ids=["onednn", "mkl"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test run with either library."""
    monkeypatch.setattr(_products, "onednn_is_faster", lambda: request.param)


#: Sums of a thousand products in float32, each about 1.
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-3)


def matrix(rows: int, columns: int) -> Tensor:
    """Return float32 numbers."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


def of_columns(values: Tensor) -> Tensor:
    """Return the same numbers as columns of a wider matrix."""
    return torch.cat([values, values], dim=1)[:, : values.shape[1]]


def of_rows(values: Tensor) -> Tensor:
    """Return the same numbers, column after column in memory."""
    return values.t().contiguous().t()


@pytest.mark.parametrize("layout", [torch.clone, of_columns, of_rows])
@pytest.mark.parametrize("size", SIZES)
def test_a_product_does_not_depend_on_the_layout(
    size: tuple[int, int, int], layout: Callable[[Tensor], Tensor]
) -> None:
    """Inputs and weight may lie in memory as they like, and a result where there is room."""
    rows, width, outputs = size
    x, weight, bias = matrix(rows, width), matrix(outputs, width), matrix(1, outputs)[0]
    expected = (x.double() @ weight.double().t() + bias).float()
    room = torch.empty(rows, outputs)
    close(product(layout(x), layout(weight), bias), expected)
    close(product(layout(x), layout(weight), bias, room=room), expected)
    close(product(layout(x), layout(weight), room=room), expected - bias)
    close(plus_product(expected, x, weight), 2 * expected - bias)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_linear_layer_has_the_gradients_of_the_librarys(
    size: tuple[int, int, int], *, biased: bool
) -> None:
    """Also where the rows are those of a batch of sequences."""
    rows, width, outputs = size
    layer = Linear(width, outputs, bias=biased)
    x = matrix(2 * rows, width).view(2, rows, width).requires_grad_()
    upstream = matrix(2 * rows, outputs).view(2, rows, outputs)
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad(layer(x), wanted, upstream)
    library = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), wanted, upstream)
    close(found, library)


def test_only_what_is_asked_for_has_a_gradient() -> None:
    """A frozen weight has none."""
    x, weight = matrix(512, 512).requires_grad_(), matrix(256, 512)
    linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is None


def test_autocast_goes_before() -> None:
    """What is to be in bfloat16 is."""
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(matrix(512, 512), matrix(256, 512)).dtype == torch.bfloat16


@pytest.mark.parametrize("text", ["vendor_id\t: GenuineIntel\n", None])
def test_mkl_keeps_what_it_is_made_for(tmp_path: Path, text: str | None) -> None:
    """On Intel's processors, and on those that are not known, torch's choice stands."""
    file = tmp_path / "cpuinfo"
    if text:
        file.write_text(text)
    assert not onednn_is_faster(file)
