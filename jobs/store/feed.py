"""How points and log lines lie in streams.

An entry of a stream holds a batch: its items as lines of one text, its id the cursor of the last of
them. So "what came after cursor N" is what Redis reads behind the id `N-0`, less the items of the
first entry that were seen before. Cursors count from 1.
"""

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from jobs.job import MetricPoint
from jobs.store.records import plain, text

#: Points of a job that lie uncompressed; a chunk is made when there are twice as many.
STREAM_POINTS: Final = 2_000
#: Points in one entry.
BATCH: Final = 500
#: The newest log lines of a job that lie in Redis; all of them lie in the artifact store.
LOG_LINES: Final = 2_000
#: Bytes of a log line.
LINE_BYTES: Final = 4_000

#: An entry of a stream, as redis-py gives it.
Entry = tuple[bytes, dict[bytes, bytes]]


class Point(Protocol):
    """What a runner reports of a metric (`worker.events.MetricEvent` is one)."""

    @property
    def name(self) -> str:
        """Return `split/metric`."""

    @property
    def value(self) -> float:
        """Return the value; it need not be finite."""

    @property
    def step(self) -> int:
        """Return the optimiser steps taken."""

    @property
    def epoch(self) -> int:
        """Return the epoch."""

    @property
    def time(self) -> float:
        """Return seconds since 1970."""


def encode_points(points: Iterable[Point], attempt: int) -> str:
    """Return points as `report.lua` takes them: JSON list of [name, step, text]."""
    return plain(
        [
            [
                each.name,
                int(each.step),
                plain([each.name, float(each.value), each.step, each.epoch, attempt, each.time]),
            ]
            for each in points
        ]
    )


def decode_points(entries: Iterable[Entry], since: int) -> list[MetricPoint]:
    """Return the points behind cursor `since`, in their order."""
    return [_point(line, cursor) for cursor, line in _items(entries, since) if cursor > since]


def _point(line: str, cursor: int) -> MetricPoint:
    name, value, step, epoch, attempt, time = json.loads(line)
    return MetricPoint(name, value, step, epoch, attempt, time, cursor)


def encode_lines(lines: Iterable[str]) -> str:
    """Return log lines as `report.lua` takes them: JSON list, each cut to its bound."""
    return plain([_cut(piece) for line in lines for piece in line.split("\n")])


def _cut(line: str) -> str:
    raw = line.encode("utf-8", "replace")
    if len(raw) <= LINE_BYTES:
        return raw.decode("utf-8")
    return raw[: LINE_BYTES - 4].decode("utf-8", "ignore") + " ..."


def decode_lines(entries: Iterable[Entry], since: int) -> list[tuple[int, str]]:
    """Return the log lines behind cursor `since`, each with its cursor."""
    return _items(entries, since)


def _items(entries: Iterable[Entry], since: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for entry, fields in entries:
        items = _text(fields).split("\n")
        first = last_cursor(entry) - len(items) + 1
        found += [item for item in enumerate(items, first) if item[0] > since]
    return found


def _text(fields: dict[bytes, bytes]) -> str:
    if (chunk := fields.get(b"chunk")) is not None:
        return text(zlib.decompress(chunk))
    return text(fields[b"text"])


def last_cursor(entry: bytes) -> int:
    """Return the cursor of the last item of the entry with this id."""
    return int(entry.partition(b"-")[0])


def pack(entries: Sequence[Entry], keep: int) -> tuple[int, bytes] | None:
    """Return the oldest entries as one chunk and its last cursor; the newest `keep` points stay."""
    newest = last_cursor(entries[-1][0]) if entries else -math.inf
    oldest = [entry for entry in entries if last_cursor(entry[0]) <= newest - keep]
    if not oldest:
        return None
    whole = "\n".join(_text(fields) for _, fields in oldest)
    return last_cursor(oldest[-1][0]), zlib.compress(whole.encode())


def batches(items: Sequence[Any], size: int = BATCH) -> list[Sequence[Any]]:
    """Return the items in lists of at most `size`; one empty list where there are none."""
    return [items[start : start + size] for start in range(0, max(1, len(items)), size)]
