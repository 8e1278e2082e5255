"""Hiding parts of recordings: runs of bands and frames, as drawn for each row and no other way."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules._masking import Masking, _drawn

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
    rows = torch.arange(len(lengths))
    masked = Masking(bands, frames)(whole, torch.tensor(lengths), (seed, 0), rows)
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


def test_what_is_hidden_follows_from_key_and_row_alone():
    masking = Masking(0.5, 0.5)
    whole, lengths = torch.ones(3, 8, 1, 10), torch.tensor([8, 8, 8])
    alone = masking(whole[:1], lengths[:1], (4, 7), torch.tensor([9]))
    beside = masking(whole, lengths, (4, 7), torch.tensor([1, 9, 0]))
    assert torch.equal(alone[0], beside[1])
    many, eights = torch.ones(30, 8, 1, 10), torch.full((30,), 8)
    for masked in (
        masking(many, eights, (4, 7), torch.arange(30)),
        torch.cat([masking(many[:1], eights[:1], (4, e), torch.tensor([9])) for e in range(30)]),
    ):
        assert len({str(each.tolist()) for each in masked}) > 15


def test_runs_of_every_length_and_place_are_as_likely_as_they_should_be():
    rows = 40_000
    parts, lengths = torch.ones(rows, 6, 1, 4), torch.full((rows,), 6)
    masked = Masking(0.5, 0.5)(parts, lengths, (1, 0), torch.arange(rows))
    frames = masked.amax(dim=(2, 3)) == 0  # (rows, 6)
    runs = Counter(tuple(each) for each in frames.tolist())
    # Lengths 0 to 3 are drawn evenly, then one of the places where such a run can begin.
    for length, starts in ((0, 1), (1, 6), (2, 5), (3, 4)):
        for start in range(starts):
            run = tuple(start <= place < start + length for place in range(6))
            expected = rows / 4 / starts
            assert abs(runs[run] - expected) < 5 * expected**0.5
    assert sum(runs.values()) == rows


def test_the_numbers_are_those_of_the_generator():
    """Against the loop that Steele et al. print."""
    state = int(np.random.SeedSequence((3, 2, 1)).generate_state(1, np.uint64)[0])
    expected = []
    for _ in range(12):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        expected.append(((mixed ^ (mixed >> 31)) >> 11) / 2**53)
    assert _drawn((3, 2, 1), np.arange(3)).T.flatten().tolist() == expected


def test_nothing_is_hidden_where_nothing_may_be():
    assert not Masking()
    assert Masking(bands=0.2)
    assert Masking(frames=0.2)
    whole = torch.ones(1, 5, 1, 4)
    masked = Masking(0.0, 0.0)(whole, torch.tensor([5]), (1,), torch.tensor([1]))
    assert torch.equal(masked, whole)
