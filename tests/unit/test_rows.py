"""Rows of unequal length in one flat array: whatever is put in comes out, padded behind."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules._rows import Rows

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(lengths=LENGTHS, size=st.integers(1, 3), data=st.data())
def test_frames_come_out_as_they_were_put_in_with_zeros_behind(lengths, size, data):
    chance = np.random.default_rng(0)
    rows = [chance.normal(size=(length, size)) for length in lengths]
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1))
    frames, found = Rows.of_frames(rows, size).padded_frames(chosen)
    assert frames.dtype == torch.float32
    assert found.tolist() == [lengths[row] for row in chosen]
    assert frames.shape == (len(chosen), max(found.tolist()), size)
    for place, row in enumerate(chosen):
        assert frames[place, : lengths[row]].tolist() == rows[row].astype(np.float32).tolist()
        assert not frames[place, lengths[row] :].any()


def test_no_rows_of_frames_are_still_frames():
    rows = Rows.of_frames([], 4)
    assert (len(rows), rows.values.shape) == (0, (0, 4))


def test_some_rows_of_frames_can_be_left_out():
    rows = Rows.of_frames([np.full((n, 2), n) for n in (3, 1, 2)], 2)
    kept = rows.where(np.array([True, False, True]))
    assert kept.padded_frames([1])[0].tolist() == [[[2, 2], [2, 2]]]
