"""The loss is torch's, its gradient the derivative of it, whole or chunk by chunk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from lightning_modules import _losses
from lightning_modules._largest import first_largest
from lightning_modules._losses import (
    _ReadOut,
    _SmoothedCost,
    readout_losses,
    smoothed_cross_entropy,
    symbol_losses,
)


@given(
    seed=st.integers(0, 99),
    rows=st.integers(0, 6),
    size=st.integers(1, 8),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    scale=st.sampled_from([1.0, 100.0]),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradient_are_torchs(
    seed: int, rows: int, size: int, smoothing: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    targets = torch.randint(size, (rows,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, nll, right = smoothed_cross_entropy(ours, targets, smoothing)
    expected = F.cross_entropy(theirs, targets, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="none"))
    assert torch.equal(right, logits.argmax(dim=-1) == targets)
    assert not nll.requires_grad
    weights = torch.randn(rows, generator=generator, dtype=torch.float64)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradient_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 2])
    assert torch.autograd.gradcheck(lambda x: smoothed_cross_entropy(x, targets, 0.2)[0], [logits])


def test_half_precision_logits_are_summed_in_single_precision() -> None:
    logits = torch.zeros(1, 4096, dtype=torch.bfloat16, requires_grad=True)
    loss, *_ = smoothed_cross_entropy(logits, torch.tensor([7]), 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([4096.0]).log())
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


# --- the last layer and its loss together


@pytest.fixture(params=[1, 48, 10_000], ids=lambda size: f"chunks of {size} bytes")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a chunk hold one row, two rows of six symbols, or all there are."""
    monkeypatch.setattr(_losses, "_CHUNK_BYTES", request.param)


def layer(rows: int, symbols: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return features (M, 3), weight, bias and targets."""
    generator = torch.Generator().manual_seed(rows)
    sizes = ((rows, 3), (symbols, 3), (symbols,))
    leaves = [torch.randn(*size, generator=generator).to(dtype).requires_grad_() for size in sizes]
    return *leaves, torch.randint(symbols, (rows,), generator=generator)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return made


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_chunks_cost_what_the_whole_costs(rows: int, smoothing: float) -> None:
    x, weight, bias, targets = layer(rows)
    output = linear(weight, bias)
    ours = readout_losses(x, output, targets, smoothing)
    theirs = symbol_losses(F.linear(x, weight, bias), targets, smoothing)
    torch.testing.assert_close(tuple(ours), tuple(theirs), atol=1e-12, rtol=0)
    assert not ours.nll.requires_grad
    found = torch.autograd.grad(3 * ours.mean, (x, output.weight, output.bias))
    expected = torch.autograd.grad(3 * theirs.mean, (x, weight, bias))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            tuple(readout_losses(x, output, targets, smoothing)), tuple(ours)
        )


@pytest.mark.usefixtures("chunks")
def test_gradients_of_chunks_agree_with_finite_differences() -> None:
    *leaves, targets = layer(5)
    cost = _SmoothedCost(targets, 0.2)
    assert torch.autograd.gradcheck(lambda *each: _ReadOut.apply(cost, *each)[0], leaves)


def test_products_are_autocasts_and_sums_of_chunks_the_weights_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight, bias, targets = layer(400, dtype=torch.float32)
    output = linear(weight, bias)
    exact = torch.autograd.grad(readout_losses(x, output, targets, 0.1).mean, output.weight)[0]
    errors = []
    for size in (24, 24 * 400):  # rows one by one, then all at once
        monkeypatch.setattr(_losses, "_CHUNK_BYTES", size)
        with torch.autocast("cpu", torch.bfloat16):
            mean = readout_losses(x.bfloat16(), output, targets, 0.1).mean
            # What autocast keeps of a weight must not be what was cast without a gradient.
            logits = output(x)
        assert mean.dtype == torch.float32
        logits.sum().backward()
        assert output.weight.grad is not None
        (found,) = torch.autograd.grad(mean, output.weight)
        assert found.dtype == torch.float32
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert max(errors) < 0.01
    assert errors[0] < 2 * errors[1]


def test_accumulated_steps_scale_the_gradient_alone() -> None:
    x, weight, bias, targets = layer(5)
    output = linear(weight, bias)
    mean = readout_losses(x, output, targets, 0.1).mean
    once = torch.autograd.grad(mean, x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(mean / 8, x)[0], once / 8)


@given(st.integers(1, 4), st.integers(1020, 1300), st.integers(0, 1000))
@settings(max_examples=60)
def test_the_first_of_the_largest_is_found_block_by_block(rows: int, width: int, seed: int) -> None:
    """Of few different numbers many are the largest."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(100, (rows, width), generator=generator).float()
    top, place = first_largest(values)
    expected = values.max(dim=1)
    assert torch.equal(top, expected.values)
    assert place.tolist() == [row.index(max(row)) for row in values.tolist()]


def test_rows_that_are_none_have_no_largest() -> None:
    """As of a batch without symbols."""
    assert [each.shape for each in first_largest(torch.empty(0, 2000))] == [(0,), (0,)]
