"""The loop that attends, with its backward by hand, against the plain loop and finite differences.

Shapes: B sentences, S source positions, T target positions, E width of an
embedding, H hidden units, C width of an annotation, A width of a key.
"""

import gc
import weakref
from collections.abc import Iterator
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import _attention
from lightning_modules._additive import AdditiveEnergies
from lightning_modules._attention import Scanned, remember
from lightning_modules._cells import CELLS, Cell, CellName
from lightning_modules._orders import Order, OrderName, make_order
from lightning_modules._parts import Memory
from lightning_modules._recurrence import Loop
from lightning_modules._recurrent import Drives, run
from lightning_modules._scores import Score, ScoreName, ScoreSizes, make_score

B, S, T, E, H = 3, 5, 4, 2, 6
LENGTHS = torch.tensor([5, 1, 3])

Choice = tuple[CellName, ScoreName, OrderName]
CHOICES: list[Choice] = list(product(get_args(CellName), get_args(ScoreName), get_args(OrderName)))


class Decoder(nn.Module):
    """Everything that a scan needs, small, in float64."""

    def __init__(
        self, choice: Choice, *, layer_norm: bool = False, dropped: float = 0.0, hops: int = 1
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        cell, score, order = choice
        self.size = H if score == "dot" else 4
        self.cell: Cell = CELLS[cell](H, layer_norm=layer_norm, recurrent_dropout=dropped)
        sizes = ScoreSizes(H, self.size, *((3, 2, 1) if score == "location" else (None,)))
        self.score: Score = make_score(score, sizes)
        self.order: Order = make_order(order, self.cell, self.size, hops=hops)
        self.drive = self.cell.driven_by(E)
        self.double()
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():  # away from zero: biases and gains have a part in it
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).double()
        self.draw(LENGTHS, steps=T)

    def draw(self, lengths: Tensor, *, steps: int) -> None:
        """Draw what is read: sentences of these lengths, and so many steps of each."""
        generator = torch.Generator().manual_seed(len(lengths))
        rows, longest = len(lengths), int(lengths.max())
        self.lengths = lengths
        self.values = torch.randn(rows, longest, self.size, generator=generator).double()
        self.symbols = torch.randn(rows, steps, E, generator=generator).double()
        self.state = torch.randn(rows, self.cell.state_size, generator=generator).double().tanh()

    def inputs(self) -> list[Tensor]:
        tensors = self.values, self.symbols, self.state
        return [each.clone().requires_grad_() for each in tensors]

    def run(self, how: str, values: Tensor, symbols: Tensor, state: Tensor) -> Scanned:
        memory: Memory = remember(self.score, values, self.lengths)
        scan = getattr(_attention, how)
        drives = Drives(symbols, self.drive)
        done: Scanned = scan(
            self.cell, self.score, self.order, memory=memory, drives=drives, state=state
        )
        return done


def gradients(decoder: Decoder, how: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a scan gives, and the gradients of a loss that reads all of it."""
    inputs = decoder.inputs()
    torch.manual_seed(0)  # the mask of recurrent dropout is drawn in the scan
    scanned = decoder.run(how, *inputs)
    outputs = [scanned.states, scanned.contexts, scanned.weights]
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(each.shape, generator=generator).double() for each in outputs]
    loss = sum((each * weight).sum() for each, weight in zip(outputs, weights, strict=True))
    assert isinstance(loss, Tensor)
    wanted = [*inputs, *decoder.parameters()]
    return outputs, list(torch.autograd.grad(loss, wanted))


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-9) -> None:
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_scan_and_its_gradients_equal_the_plain_loop(choice: Choice) -> None:
    decoder = Decoder(choice)
    for ours, theirs in zip(
        gradients(decoder, "scan"), gradients(decoder, "plain_scan"), strict=True
    ):
        assert_same(ours, theirs)


@pytest.mark.parametrize("order", get_args(OrderName))
@pytest.mark.parametrize("cell", get_args(CellName))
def test_layer_norm_and_recurrent_dropout_stay_on_the_fast_loop(
    cell: CellName, order: OrderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder((cell, "additive", order), layer_norm=True, dropped=0.5)
    theirs = gradients(decoder, "plain_scan")
    monkeypatch.setattr(_attention, "plain_scan", None)
    for mine, yours in zip(gradients(decoder, "scan"), theirs, strict=True):
        assert_same(mine, yours)


@pytest.mark.parametrize("score", ["additive", "dot", "general", "scaled_dot"])
@pytest.mark.parametrize("cell", get_args(CellName))
def test_where_no_step_waits_for_attention_none_goes_alone(
    cell: CellName, score: ScoreName, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder((cell, score, "unfed"), hops=3)
    theirs = gradients(decoder, "plain_scan")
    for loop in ("plain_scan", "_scan_by_hand", "attend_in_turn"):
        monkeypatch.setattr(_attention, loop, None)
    for mine, yours in zip(gradients(decoder, "scan"), theirs, strict=True):
        assert_same(mine, yours)


@pytest.mark.parametrize("piece", [1, 4, 5, 8, 15, 1000])
def test_energies_of_all_steps_are_the_same_in_pieces_of_any_size(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces are of one step, of several, of a sentence, of several, and of the whole batch."""
    size = 4
    monkeypatch.setattr("lightning_modules._additive._CPU_PIECE", piece * S * size * 8)
    generator = torch.Generator().manual_seed(1)
    queries, keys, vector, upstream = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((B, T, size), (B, S, size), (size,), (B, T, S))
    )
    (ours,) = AdditiveEnergies(queries, keys, vector).run()
    theirs = (queries[:, :, None] + keys[:, None]).sigmoid() @ vector
    wanted = [queries, keys, vector]
    found = [torch.autograd.grad(each, wanted, upstream) for each in (ours, theirs)]
    assert_same([ours, *found[0]], [theirs, *found[1]])
    assert torch.autograd.gradcheck(lambda *given: AdditiveEnergies(*given).run(), wanted)


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_gradients_equal_finite_differences(choice: Choice) -> None:
    decoder = Decoder(choice)
    names, parameters = zip(*decoder.named_parameters(), strict=True)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = dict(zip(names, tensors[3:], strict=True))
        scanned = torch.func.functional_call(_Scanning(decoder), _renamed(given), tensors[:3])
        return scanned.states, scanned.contexts, scanned.weights

    inputs = [*decoder.inputs(), *(each.detach().requires_grad_() for each in parameters)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


class _Scanning(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, values: Tensor, symbols: Tensor, state: Tensor) -> Scanned:
        return self.decoder.run("scan", values, symbols, state)


def _renamed(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"decoder.{name}": each for name, each in given.items()}


@pytest.mark.parametrize("order", get_args(OrderName))
def test_a_part_of_the_outputs_may_be_left_unread(order: OrderName) -> None:
    decoder = Decoder(("lstm", "location", order))
    for name in ("states", "contexts", "weights"):
        found = []
        for how in ("scan", "plain_scan"):
            inputs = decoder.inputs()
            read = getattr(decoder.run(how, *inputs), name)
            found.append(list(torch.autograd.grad(read.square().sum(), inputs, allow_unused=True)))
        for mine, yours, given in zip(*found, decoder.inputs(), strict=True):
            zero = torch.zeros_like(given)  # where no gradient comes, None will do
            ours, theirs = (zero if each is None else each for each in (mine, yours))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_keys_and_queries_far_from_zero_still_give_numbers() -> None:
    decoder = Decoder(("gru", "additive", "before")).float()
    inputs = [each.float().requires_grad_() for each in decoder.inputs()]
    for values in (1e3, 1e6):
        scanned = decoder.run("scan", inputs[0] * values, *inputs[1:])
        grads = torch.autograd.grad(scanned.contexts.sum(), inputs)
        assert all(bool(each.isfinite().all()) for each in (scanned.weights, *grads))


@pytest.mark.parametrize("order", get_args(OrderName))
@pytest.mark.parametrize("cell", get_args(CellName))
def test_bfloat16_is_close_to_float32_and_states_stay_wide(
    cell: CellName, order: OrderName
) -> None:
    decoder = Decoder((cell, "additive", order)).float()
    inputs = [each.detach().float().requires_grad_() for each in decoder.inputs()]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scanned = decoder.run("scan", *inputs)
        assert scanned.states.dtype == scanned.contexts.dtype == torch.float32
        loss = scanned.states.square().sum() + scanned.contexts.square().sum()
        found.append((scanned.states, *torch.autograd.grad(loss, inputs)))
    exact, rounded = found
    for ours, theirs in zip(rounded, exact, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()  # single ones are ill-conditioned
        assert not torch.equal(ours, theirs)  # products were rounded indeed


@pytest.mark.parametrize("cell", get_args(CellName))
def test_a_recurrence_in_bfloat16_is_close_to_float32(cell: CellName) -> None:
    torch.manual_seed(3)
    module = CELLS[cell](H)
    drives = torch.randn(B, T, module.drive_size, requires_grad=True)
    state = torch.randn(B, module.state_size, requires_grad=True)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            states = run(module, drives, state)
        wanted = [drives, state, module.weight]
        found.append((states, *torch.autograd.grad(states.square().sum(), wanted)))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def loops_behind(tensor: Tensor) -> Iterator[Loop]:
    """Yield the loops that a tensor came from."""
    nodes = [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            nodes += [each for each, _ in node.next_functions]
            if hasattr(node, "loop"):
                yield node.loop


@pytest.mark.usefixtures("_no_garbage_collection")
@pytest.mark.parametrize("order", get_args(OrderName))
@pytest.mark.parametrize("cell", get_args(CellName))
def test_what_a_step_kept_goes_with_its_graph(cell: CellName, order: OrderName) -> None:
    decoder = Decoder((cell, "additive", order))
    scanned = decoder.run("scan", *decoder.inputs())
    kept = [weakref.ref(loop) for loop in loops_behind(scanned.contexts)]
    scanned.contexts.sum().backward()
    assert kept
    assert all(each() is not None for each in kept)
    del scanned
    assert all(each() is None for each in kept)


def test_without_gradients_nothing_is_kept() -> None:
    decoder = Decoder(("gru", "additive", "before"))
    with torch.no_grad():
        ours = decoder.run("scan", *decoder.inputs())
        theirs = decoder.run("plain_scan", *decoder.inputs())
    assert ours.states.grad_fn is None
    assert_same(
        [ours.states, ours.contexts, ours.weights], [theirs.states, theirs.contexts, theirs.weights]
    )
