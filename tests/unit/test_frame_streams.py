"""Sequences of frames cut into windows: every frame is a target once, right after its past."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._frame_streams import FrameStreams
from datamodules._rows import Rows
from datamodules._stream import FOLLOWS


def streams_of(lengths: Sequence[int], window: int) -> FrameStreams:
    """Return sequences whose frames are all different, and none of them zero."""
    numbers = iter(range(1, sum(lengths) + 1))
    rows = [np.array([[next(numbers), 0.5] for _ in range(length)]) for length in lengths]
    return FrameStreams(Rows.of_frames(rows, 2), window)


SEQUENCES = st.lists(st.integers(1, 9), min_size=1, max_size=7)


@given(SEQUENCES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_frame_is_told_once_from_the_one_before(
    lengths: list[int], window: int, streams: int, epoch: int
) -> None:
    split = streams_of(lengths, window)
    for plan in (split.training_plan(streams, 1, epoch), split.reading_plan(streams)):
        assert sorted(row for rows in plan for row in rows) == list(range(len(split)))
        pairs = []
        for rows in plan:
            batch = split.collate(rows)
            assert batch.targets is not None
            assert batch.lengths.tolist() == split.sizes[rows, 0].tolist()
            for row, length in enumerate(batch.lengths.tolist()):
                before, told = batch.inputs[row, :, 0], batch.targets[row, :, 0]
                pairs += list(zip(before[:length].tolist(), told[:length].tolist(), strict=True))
                assert not before[length:].any()
                assert not told[length:].any()
        firsts = {1 + sum(lengths[:place]) for place in range(len(lengths))}
        expected = [(0 if n in firsts else n - 1, n) for n in range(1, sum(lengths) + 1)]
        assert sorted(pairs, key=lambda pair: pair[1]) == expected


@given(SEQUENCES, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_window_comes_right_after_the_one_it_follows(
    lengths: list[int], window: int, streams: int
) -> None:
    split = streams_of(lengths, window)
    before: list[int] = []
    for rows in split.training_plan(streams, 5, 2):
        assert len(rows) <= streams
        for row, follows in zip(rows, split.collate(rows).extras[FOLLOWS].tolist(), strict=True):
            assert follows in {-1, row - 1}
            assert follows == -1 or follows in before
        before = rows


@given(SEQUENCES, st.integers(1, 3), st.integers(1, 5), st.integers(2, 3))
@settings(max_examples=60, deadline=None)
def test_a_stream_never_leaves_its_place(
    lengths: list[int], window: int, streams: int, ranks: int
) -> None:
    split = streams_of(lengths, window)
    for plan in (split.training_plan(streams, 5, 2), split.reading_plan(streams)):
        for rank in range(ranks):
            before: list[int] = []
            for rows in (rows[rank::ranks] for rows in plan):
                follows = split.collate(rows).extras[FOLLOWS].tolist() if rows else []
                assert all(row < 0 or row in before for row in follows)
                before = rows


def test_a_sequence_without_a_past_follows_none() -> None:
    split = streams_of([5, 1, 4], 2)
    follows = split.collate(range(len(split))).extras[FOLLOWS].tolist()
    assert follows == [-1, 0, 1, -1, -1, 4]


def test_plans_are_pure_and_change_with_the_epoch() -> None:
    split = streams_of([3] * 20, 2)
    assert split.training_plan(4, 1, 0) == split.training_plan(4, 1, 0)
    assert split.training_plan(4, 1, 0) != split.training_plan(4, 1, 1)
    assert split.training_plan(4, 1, 0) != split.training_plan(4, 2, 0)
    assert {len(rows) for rows in split.training_plan(4, 1, 0)} == {4}
