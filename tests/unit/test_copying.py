"""What copied symbols cost is read off their whole distribution, in chunks of any size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules import _losses
from lightning_modules._copying import Mixture
from lightning_modules._losses import SymbolLosses, read_out

VOCABULARY, WIDTH, HELD = 7, 3, 4


@pytest.fixture(params=[1 << 5, 1 << 6, 32 << 20], ids=["rows", "chunks", "whole"], autouse=True)
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let logits come a row at a time, two at a time, and all at once."""
    monkeypatch.setattr(_losses, "_CHUNK_BYTES", request.param)


class Written:
    """Symbols that a model writes: what it writes them from, all of it differentiable."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        torch.manual_seed(seed)
        self.output = nn.Linear(WIDTH, VOCABULARY).double()
        self.features = torch.randn(rows, WIDTH).double().requires_grad_()
        self.gate = torch.randn(rows).double().requires_grad_()
        # Different symbols of each input, of which there are fewer than places.
        symbols = torch.rand(rows, VOCABULARY).argsort(dim=1)[:, :HELD]
        self.symbols = F.pad(symbols, (0, 1))
        shares = torch.rand(rows, HELD).double()
        self.shares = (shares / shares.sum(dim=1, keepdim=True)).requires_grad_()
        self.targets = torch.randint(VOCABULARY, (rows,))

    @property
    def learned(self) -> list[Tensor]:
        """All that has a gradient."""
        return [self.features, *self.output.parameters(), self.gate, self.shares]

    def mixture(self) -> Mixture:
        """Return what they are written from, but for the logits."""
        return Mixture(self.gate, self.symbols, F.pad(self.shares, (0, 1)))

    def losses(self, smoothing: float) -> SymbolLosses:
        """Return what they cost, by chunks."""
        return read_out(self.features, self.output, self.mixture().cost(self.targets, smoothing))

    def plainly(self, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same by the equation, from all that could be written."""
        generated = self.output(self.features).softmax(dim=1)
        gate = self.gate.sigmoid()[:, None]
        copied = torch.zeros_like(generated).scatter_add(1, self.symbols[:, :HELD], self.shares)
        log_probs = (gate * generated + (1 - gate) * copied).log()
        nll = -log_probs[range(len(self.targets)), self.targets]
        loss = (1 - smoothing) * nll - smoothing * log_probs.mean(dim=1)
        return loss.sum() / max(1, len(nll)), nll, log_probs.argmax(dim=1) == self.targets


@given(rows=st.integers(0, 9), smoothing=st.sampled_from([0.0, 0.1, 0.9]), seed=st.integers(0, 99))
def test_losses_and_gradients_are_those_of_all_probabilities(
    rows: int, smoothing: float, seed: int
) -> None:
    written = Written(rows, seed)
    found, expected = written.losses(smoothing), written.plainly(smoothing)
    torch.testing.assert_close(found.mean, expected[0])
    torch.testing.assert_close(found.nll, expected[1])
    assert torch.equal(found.right, expected[2])
    ours = torch.autograd.grad(found.mean, written.learned)
    plain = torch.autograd.grad(expected[0], written.learned)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_gradients_agree_with_finite_differences() -> None:
    written = Written(5)
    assert torch.autograd.gradcheck(lambda *_: written.losses(0.1).mean, written.learned)


def test_without_gradients_they_cost_the_same() -> None:
    written = Written(6)
    with torch.no_grad():
        found = written.losses(0.1)
    torch.testing.assert_close(tuple(found), tuple(each.detach() for each in written.losses(0.1)))


@pytest.mark.parametrize("gate", [-200.0, 0.0, 200.0])
def test_probabilities_too_small_for_a_float_have_finite_losses(gate: float) -> None:
    logits = torch.tensor([[0.0, 400.0, -400.0, 0.0]] * 3, requires_grad=True)
    gates = torch.full((3,), gate, requires_grad=True)
    symbols, shares = torch.tensor([[0, 2, 0]] * 3), torch.tensor([[0.0, 1.0, 0.0]] * 3)
    mixture = Mixture(gates, symbols, shares)
    same = nn.Linear(4, 4, bias=True)
    nn.init.eye_(same.weight)
    nn.init.zeros_(same.bias)
    loss = read_out(logits, same, mixture.cost(torch.tensor([0, 1, 2]), 0.1)).mean
    log_probs = mixture.log_probabilities(logits)
    (loss + log_probs.sum()).backward()
    for tensor in (loss, log_probs, logits.grad, gates.grad):
        assert tensor is not None
        assert tensor.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(3), atol=1e-4, rtol=0)
