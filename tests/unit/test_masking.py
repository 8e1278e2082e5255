"""Hiding parts of recordings: runs of bands and frames, as drawn for each row and no other way."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules._masking import Masking

SHARES = st.floats(0, 0.99)


def is_a_run(places):
    return places == list(range(places[0], places[0] + len(places))) if places else True


@given(
    bands=SHARES,
    frames=SHARES,
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
def test_what_is_hidden_is_a_run_of_bands_and_a_run_of_frames(bands, frames, lengths, seed):
    whole = torch.ones(len(lengths), max(lengths), 2, 10)
    keys = [[seed, row] for row in range(len(lengths))]
    masked = Masking(bands, frames)(whole, lengths, keys)
    assert whole.all()
    for row, length in zip(masked, lengths, strict=True):
        heard = row[:length]
        no_frames = [place for place in range(length) if not heard[place].any()]
        no_bands = [band for band in range(10) if not heard[:, :, band].any()]
        hidden = torch.ones_like(heard)
        if len(no_frames) < length:
            assert is_a_run(no_bands)
            assert len(no_bands) <= bands * 10
            hidden[:, :, no_bands] = 0
        assert is_a_run(no_frames)
        assert len(no_frames) <= frames * length or len(no_bands) == 10
        hidden[no_frames] = 0
        assert torch.equal(heard, hidden)
        assert row[length:].shape == whole[0, length:].shape


def test_what_is_hidden_follows_from_the_key_alone():
    masking = Masking(0.5, 0.5)
    whole = torch.ones(3, 8, 1, 10)
    alone = masking(whole[:1], [8], [[4, 7]])
    beside = masking(whole, [8, 8, 8], [[1, 1], [4, 7], [2, 2]])
    assert torch.equal(alone[0], beside[1])
    different = {str(masking(whole[:1], [8], [[4, row]]).tolist()) for row in range(30)}
    assert len(different) > 15


def test_nothing_is_hidden_where_nothing_may_be():
    assert not Masking()
    assert Masking(bands=0.2)
    assert Masking(frames=0.2)
    whole = torch.ones(1, 5, 1, 4)
    assert torch.equal(Masking(0.0, 0.0)(whole, [5], [[1]]), whole)
