"""Recorded loops, with a stand-in for CUDA graphs, against the loops as they are.

Shapes are those of `test_scan.py`.
"""

import gc
import logging
from collections.abc import Iterator
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from lightning_modules import _graphs
from lightning_modules._cells import CellName
from lightning_modules._graphs import Capture, Graph, Recorder, Work, roomy
from lightning_modules._orders import OrderName
from lightning_modules._recurrence import Loop
from lightning_modules._scores import ScoreName
from tests.doubles.graphs import StandIn
from tests.integration.test_scan import Choice, Decoder, assert_same, gradients

CHOICES: list[Choice] = list(product(get_args(CellName), get_args(ScoreName), get_args(OrderName)))
CPU = torch.device("cpu")


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandIn]]:
    """Record loops on the CPU; what is recorded with is given, one for each recorder."""
    made: list[StandIn] = []

    def make() -> StandIn:
        made.append(StandIn())
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setitem(_graphs.CAPTURES, "cpu", make)
        yield made


def learn(decoder: Decoder) -> None:
    """Change all that a decoder reads, as an optimiser and another batch do."""
    for tensor in (*decoder.parameters(), decoder.values, decoder.symbols, decoder.state):
        tensor.data += 0.1 * torch.randn(tensor.shape, dtype=tensor.dtype)


def assert_same_without_graphs(decoder: Decoder) -> None:
    ours = gradients(decoder, "scan")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(_graphs.CAPTURES, "cpu")
        theirs = gradients(decoder, "scan")
    for mine, yours in zip(ours, theirs, strict=True):
        assert_same(mine, yours)


@pytest.mark.parametrize("choice", [each for each in CHOICES if each[2] != "unfed"], ids="-".join)
def test_a_recorded_loop_gives_what_the_loop_does(choice: Choice, captures: list[StandIn]) -> None:
    decoder = Decoder(choice)
    for _ in range(3):
        learn(decoder)
        assert_same_without_graphs(decoder)
    (capture,) = captures
    assert (capture.captures, capture.replays) == (2, 4)


@pytest.mark.parametrize("order", get_args(OrderName))
@pytest.mark.parametrize("cell", get_args(CellName))
def test_masks_are_drawn_outside_and_gains_are_read_anew(
    cell: CellName, order: OrderName, captures: list[StandIn]
) -> None:
    decoder = Decoder((cell, "location", order), layer_norm=True, dropped=0.5)
    for _ in range(3):
        learn(decoder)
        assert_same_without_graphs(decoder)
    # Where no step waits, the cell and attention run one after the other, each from its own pool.
    assert [each.replays for each in captures] == ([4, 4] if order == "unfed" else [4])


@pytest.mark.parametrize("order", get_args(OrderName))
def test_shapes_are_rounded_up_and_what_is_added_changes_nothing(
    order: OrderName, captures: list[StandIn]
) -> None:
    decoder = Decoder(("lstm", "location", order), dropped=0.5)
    for rows, longest, steps in ((17, 19, 22), (18, 20, 21), (17, 20, 21)):
        decoder.draw(torch.arange(longest, longest - rows, -1), steps=steps)
        assert_same_without_graphs(decoder)
    assert {each.replays for each in captures} == {4}


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 1), (15, 15), (16, 16), (17, 18), (33, 36), (64, 64), (65, 72)]
)
def test_sizes_grow_by_an_eighth_at_most_where_loops_are_recorded(
    size: int, expected: int, captures: list[StandIn]
) -> None:
    assert roomy(size, CPU) == expected
    assert roomy(size, torch.device("meta")) == size


class Doubling(Loop):
    """y = 2x, of any length."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    @property
    def parameters(self) -> tuple[Tensor]:
        """x."""
        return (self._values,)

    def forward(self) -> tuple[Tensor]:
        """Return 2x."""
        return (2 * self._values,)

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor]:
        """Return 2 dy."""
        (grad,) = gradients
        assert grad is not None
        return (2 * grad,)


def doubled(recorder: Recorder, *numbers: float, leaf: Tensor | None = None) -> Tensor:
    values = torch.tensor(numbers, requires_grad=True) if leaf is None else leaf
    (result,) = recorder.take(Doubling(values)).run()
    return result


def recorder_with_two_lengths(capture: Capture) -> Recorder:
    """Return one that has seen one number, and two, so often that it records them."""
    recorder = Recorder(capture, most=2)
    for _ in range(2):
        for numbers in ((1.0,), (1.0, 2.0)):
            doubled(recorder, *numbers).sum().backward()
    return recorder


def test_what_a_graph_gave_is_not_overwritten_by_its_next_replay() -> None:
    recorder = recorder_with_two_lengths(StandIn())
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    first = doubled(recorder, leaf=leaf)
    first.sum().backward()
    second = doubled(recorder, 5.0, 6.0)
    second.backward(torch.tensor([7.0, 7.0]))
    assert first.tolist() == [2.0, 4.0]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2.0, 2.0]


def test_a_second_forward_before_the_backward_takes_the_loop_itself() -> None:
    capture = StandIn()
    recorder = recorder_with_two_lengths(capture)
    before = capture.replays
    leaves = [torch.tensor([each], requires_grad=True) for each in (3.0, 4.0)]
    results = [doubled(recorder, leaf=leaf) for leaf in leaves]
    assert capture.replays == before + 1
    (results[0] * results[1]).sum().backward()
    assert [leaf.grad for leaf in leaves] == [torch.tensor([16.0]), torch.tensor([12.0])]
    del results
    doubled(recorder, 1.0).sum().backward()
    assert capture.replays == before + 4


def test_a_forward_that_nobody_goes_back_from_does_not_block_the_next() -> None:
    capture = StandIn()
    recorder = recorder_with_two_lengths(capture)
    before = capture.replays
    doubled(recorder, 1.0)  # dropped at once
    doubled(recorder, 1.0)
    assert capture.replays == before + 2


def test_going_back_after_another_forward_is_refused() -> None:
    recorder = recorder_with_two_lengths(StandIn())
    first = doubled(recorder, 1.0)
    first.sum().backward(retain_graph=True)
    first.sum().backward(retain_graph=True)  # nothing came in between
    doubled(recorder, 1.0, 2.0).sum().backward()
    with pytest.raises(RuntimeError, match="go back only once"):
        first.sum().backward()


def test_more_shapes_than_there_is_room_for_run_as_they_are_until_they_come_often() -> None:
    capture = StandIn()
    recorder = recorder_with_two_lengths(capture)
    assert capture.captures == 4
    three = (1.0, 2.0, 3.0)
    for _ in range(3):  # the others have come twice
        doubled(recorder, *three).sum().backward()
    assert capture.captures == 4
    doubled(recorder, *three).sum().backward()
    assert capture.captures == 6
    before = capture.replays
    for numbers in ((1.0,), (1.0, 2.0)):  # one of the two has made room
        doubled(recorder, *numbers).sum().backward()
    assert capture.replays == before + 2


def test_a_recording_that_fails_is_told_of_once_and_loops_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Capture):
        def __call__(self, work: Work) -> Graph:
            raise RuntimeError("CUDA error: operation not permitted\nmore of it")

    recorder = Recorder(Broken())
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert doubled(recorder, 1.0).tolist() == [2.0]
    (record,) = caplog.records
    assert record.message == ("loops run without CUDA graphs: CUDA error: operation not permitted")


def test_what_was_recorded_under_inference_mode_serves_outside_it_too() -> None:
    capture = StandIn()
    recorder = Recorder(capture)
    for _ in range(2):
        with torch.inference_mode():
            assert doubled(recorder, 1.0).tolist() == [2.0]
    with torch.no_grad():
        assert doubled(recorder, 3.0).tolist() == [6.0]
    assert (capture.captures, capture.replays) == (1, 2)


@pytest.mark.parametrize(
    "work",
    [lambda: (torch.rand(1),), lambda: (torch.ones(1) * torch.ones(1).item(),)],
    ids=["random", "waits"],
)
def test_the_stand_in_refuses_what_a_graph_cannot_hold(work: Work) -> None:
    with pytest.raises(RuntimeError, match="a graph"):
        StandIn()(work)


def test_graphs_go_with_the_model_they_are_of(captures: list[StandIn]) -> None:
    decoder = Decoder(("gru", "additive", "before"))
    for _ in range(2):
        gradients(decoder, "scan")
    assert decoder.order in _graphs._recorders
    before = len(_graphs._recorders)
    del decoder
    gc.collect()
    assert len(_graphs._recorders) == before - 1
