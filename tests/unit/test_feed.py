"""Streams of batches: every item once, in order, from any cursor, packed or not."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.store.feed import (
    LINE_BYTES,
    Entry,
    batches,
    decode_lines,
    decode_points,
    encode_lines,
    encode_points,
    last_cursor,
    pack,
)
from worker.events import MetricEvent

EVENTS = st.builds(
    MetricEvent,
    st.text(max_size=6),
    st.floats(),
    st.integers(0, 10**12),
    st.integers(0, 99),
    st.floats(0, 2e9),
)
BATCHES = st.lists(st.lists(EVENTS, min_size=1, max_size=4), min_size=1, max_size=6)


def stream(batches_of_points: list[list[MetricEvent]]) -> list[Entry]:
    """Lay batches down as `report.lua` does."""
    entries, count = [], 0
    for batch in batches_of_points:
        texts = [text for _, _, text in json.loads(encode_points(batch, attempt=7))]
        count += len(texts)
        entries.append((f"{count}-0".encode(), {b"text": "\n".join(texts).encode()}))
    return entries


def same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))


@given(BATCHES, st.integers(0, 25))
def test_points_come_back_as_they_were_from_any_cursor(
    written: list[list[MetricEvent]], since: int
) -> None:
    flat = [event for batch in written for event in batch]
    found = decode_points(stream(written), since)
    assert [point.cursor for point in found] == list(range(since + 1, len(flat) + 1))
    for point, event in zip(found, flat[since:], strict=True):
        assert same(point.value, event.value)
        assert (point.name, point.step, point.epoch, point.time, point.attempt) == (
            *(event.name, event.step, event.epoch, event.time, 7),
        )


@given(BATCHES, st.integers(0, 25), st.integers(0, 25))
def test_packing_changes_nothing_for_a_reader(
    written: list[list[MetricEvent]], keep: int, since: int
) -> None:
    entries = stream(written)
    packed = pack(entries, keep)
    total = last_cursor(entries[-1][0])
    if packed is None:
        assert last_cursor(entries[0][0]) > total - keep
        return
    last, chunk = packed
    assert total - last >= keep
    rest = [entry for entry in entries if last_cursor(entry[0]) > last]
    together: list[Entry] = [(f"{last}-0".encode(), {b"chunk": chunk}), *rest]
    assert str(decode_points(together, since)) == str(decode_points(entries, since))


def test_nothing_is_packed_of_nothing() -> None:
    assert pack([], 0) is None


@given(st.lists(st.text(st.characters(codec=None), max_size=20), max_size=5))
def test_any_text_is_some_lines(lines: list[str]) -> None:
    encoded = json.loads(encode_lines(lines))
    assert len(encoded) == sum(line.count("\n") + 1 for line in lines)
    entry = (f"{len(encoded)}-0".encode(), {b"text": "\n".join(encoded).encode()})
    if encoded:
        assert decode_lines([entry], 0) == list(enumerate(encoded, 1))


@given(st.text(min_size=1), st.integers(LINE_BYTES // 5, LINE_BYTES))
def test_a_line_is_cut_in_bytes_and_never_inside_a_letter(line: str, times: int) -> None:
    for cut in json.loads(encode_lines([line * times])):
        assert len(cut.encode()) <= LINE_BYTES


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_batches_hold_everything_in_order(items: list[int], size: int) -> None:
    found: list[Any] = batches(items, size)
    assert [item for batch in found for item in batch] == items
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert len(found[-1]) <= size
