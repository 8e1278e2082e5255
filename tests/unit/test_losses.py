"""The loss is torch's, its gradient the derivative of it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name everybody reads

from lightning_modules._losses import smoothed_cross_entropy


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
    loss, nll = smoothed_cross_entropy(ours, targets, smoothing)
    expected = F.cross_entropy(theirs, targets, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="none"))
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
    loss, _ = smoothed_cross_entropy(logits, torch.tensor([7]), 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([4096.0]).log())
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
