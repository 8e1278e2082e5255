"""tanh by σ is tanh."""

import pytest
import torch

from lightning_modules._tanh import tanh, tanh_of


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-15), (torch.float32, 2e-7), (torch.bfloat16, 4e-3)]
)
def test_it_is_tanh_from_end_to_end_of_the_numbers(dtype: torch.dtype, error: float) -> None:
    values = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, 1e30, -1e30])]).to(dtype)
    found = tanh(values)
    assert found.dtype == dtype
    assert (found - torch.tanh(values)).abs().max() <= error
    assert found[-3:].tolist() == [0.0, 1.0, -1.0]


def test_its_gradient_is_that_of_tanh() -> None:
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tanh, (values,))


def test_it_may_take_the_place_of_its_values() -> None:
    values = torch.randn(5, 2)
    expected = torch.tanh(values)
    assert tanh_of(values, out=values) is values
    torch.testing.assert_close(values, expected)
