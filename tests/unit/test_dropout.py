"""Dropout drops the share it is told to, and leaves the mean as it was."""

import pytest
import torch

from lightning_modules._dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.3, 0.999])
def test_it_drops_this_share_and_leaves_the_mean(share: float) -> None:
    """To four deviations of a million draws."""
    torch.manual_seed(0)
    values = torch.ones(1001, 999, requires_grad=True)
    result = Dropout(share)(values)
    left = result.detach()
    dropped = float((left == 0).double().mean())
    assert abs(dropped - share) < 4e-3 * (share * (1 - share)) ** 0.5 + 1e-5
    assert left.unique().numel() == 2
    assert float(left.double().mean()) == pytest.approx((1 - dropped) / (1 - share), rel=0.02)
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad, left)


def test_neighbours_are_dropped_apart() -> None:
    """Four values share a draw of 64 bits, but no bit of it."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(250_000, 4)) != 0).double()
    between = torch.corrcoef(kept.t()) - torch.eye(4, dtype=torch.float64)
    assert float(between.abs().max()) < 0.01


def test_the_same_seed_drops_the_same() -> None:
    """A run that goes on is the run that never stopped."""
    layer, values = Dropout(0.3), torch.ones(7, 5)
    torch.manual_seed(3)
    first = layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0, 4), (5, 7, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_shape_and_dtype_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Whatever they are."""
    left = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert left.shape == shape
    assert left.dtype == dtype


def test_nothing_is_dropped_but_in_training() -> None:
    """Nor where the share is 0; of 1 it is all."""
    values = torch.ones(4, 4)
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(Dropout(0.0)(values), values)
    assert not Dropout(1.0)(values).any()
