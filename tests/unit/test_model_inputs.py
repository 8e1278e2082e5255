"""What a topology reads at each step: symbols or frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._batch import Batch
from datamodules._vocab import UNK
from lightning_modules._dropout import LockedDropout
from lightning_modules._errors import ModelError
from lightning_modules._inputs import Inputs
from lightning_modules.many_to_one import ManyToOne


def symbols(rows: list[list[int]]) -> Batch:
    return Batch(torch.tensor(rows), torch.tensor([len(row) for row in rows]))


def test_a_symbol_is_read_as_its_row() -> None:
    inputs = Inputs(7, 0, 3, dropout=0.0)
    assert torch.equal(inputs(symbols([[4, 6]]))[0], inputs.map.weight[[4, 6]])


@given(st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=2), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_frame_is_read_through_a_linear_map(frames: list[list[float]]) -> None:
    torch.manual_seed(0)
    inputs = Inputs(0, 2, 3, dropout=0.0).double()
    assert isinstance(inputs.map, torch.nn.Linear)
    torch.nn.init.normal_(inputs.map.bias)
    batch = Batch(torch.tensor([frames], dtype=torch.float64), torch.tensor([len(frames)]))
    weight, bias = inputs.map.weight.tolist(), inputs.map.bias.tolist()
    for frame, read in zip(frames, inputs(batch)[0].tolist(), strict=True):
        expected = [
            w[0] * frame[0] + w[1] * frame[1] + b for w, b in zip(weight, bias, strict=True)
        ]
        assert read == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("sizes", "why"), [((0, 0), "gives neither"), ((5, 5), "not both")])
def test_exactly_one_of_the_two_is_read(sizes: tuple[int, int], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        Inputs(*sizes, 4, dropout=0.0)


def test_dropout_drops_the_same_units_at_all_steps_where_it_is_locked() -> None:
    assert isinstance(Inputs(5, 0, 4, dropout=0.5, locked=True).dropout, LockedDropout)
    read = Inputs(0, 2, 40, dropout=0.5, locked=True)(Batch(torch.ones(1, 6, 2), torch.tensor([6])))
    dropped = read[0] == 0
    assert 0 < dropped[0].sum() < 40
    assert torch.equal(dropped, dropped[:1].expand(6, 40))


def test_symbols_are_hidden_in_training_only_and_frames_never() -> None:
    batch = symbols([[4] * 50])
    inputs = Inputs(7, 0, 3, dropout=0.0, symbol_dropout=0.5)
    known, unknown = inputs.map.weight[4], inputs.map.weight[UNK]
    for row in inputs(batch)[0]:
        assert torch.equal(row, known) or torch.equal(row, unknown)
    assert any(torch.equal(row, unknown) for row in inputs(batch)[0])
    assert torch.equal(inputs.eval()(batch)[0], known.expand(50, 3))
    frames = Inputs(0, 1, 3, dropout=0.0, symbol_dropout=0.5)
    steps = frames(Batch(torch.ones(1, 50, 1), torch.tensor([50])))[0]
    assert torch.equal(steps, steps[:1].expand(50, 3))


def test_frames_behind_a_length_change_nothing() -> None:
    torch.manual_seed(0)
    model = ManyToOne(hidden_size=4, feature_size=2, num_classes=3).eval()
    inputs, lengths = torch.randn(2, 5, 2), torch.tensor([5, 3])
    wide = torch.cat([inputs, torch.full((2, 3, 2), 9.0)], dim=1)
    wide[1, 3:] = 7.0
    torch.testing.assert_close(model(Batch(wide, lengths)), model(Batch(inputs, lengths)))
