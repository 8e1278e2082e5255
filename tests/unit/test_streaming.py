"""Lines in chunks: in order, each once, bounded, and never far ahead of who takes them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import JobFailed
from jobs.streaming import FIRST_LINES, MOST_BYTES, MOST_LINES, chunks, stream


@given(st.lists(st.sampled_from(["", "a", "ü" * 1000, "x" * (MOST_BYTES + 1)]), max_size=60))
def test_chunks_hold_each_line_once_in_order_and_within_bounds(lines: list[str]) -> None:
    found = list(chunks(lines))
    assert [line for chunk in found for line in chunk] == lines
    for chunk in found:
        assert len(chunk) == 1 or sum(len(line.encode()) for line in chunk) <= MOST_BYTES


def test_chunks_grow_from_a_small_one_to_the_bound() -> None:
    sizes = [len(chunk) for chunk in chunks(map(str, range(3000)))]
    assert sizes[0] == FIRST_LINES
    assert max(sizes) == MOST_LINES
    assert sum(sizes) == 3000


class Job:
    """Stand for a prediction, and note what is done with it."""

    def __init__(self, first: int, *, fails: bool = False) -> None:
        self.first = first
        self.fails = fails
        self.done: list[str] = []

    def result(self) -> None:
        if self.fails:
            raise JobFailed("no", reason="bad_data", traceback="")

    def remove(self) -> None:
        self.done.append("removed")

    def cancel(self) -> None:
        self.done.append("cancelled")


class Submissions:
    def __init__(self, failing: int = -1) -> None:
        self.jobs: list[Job] = []
        self._failing = failing

    def __call__(self, lines: list[str], first: int) -> Job:
        self.jobs.append(Job(first, fails=len(self.jobs) == self._failing))
        return self.jobs[-1]


def test_lines_are_read_one_chunk_ahead_and_no_further() -> None:
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for _ in range(100_000):
            read += 1
            yield "x"

    submit = Submissions()
    taken = stream(lines(), submit)  # type: ignore[arg-type]
    next(taken)
    assert len(submit.jobs) == 2
    assert read <= FIRST_LINES + 4 * FIRST_LINES + 1
    next(taken)
    assert [job.done for job in submit.jobs] == [["removed"], [], []]
    taken.close()
    assert [job.done for job in submit.jobs] == [["removed"], ["cancelled"], ["cancelled"]]


def test_a_chunk_that_fails_is_kept_and_the_next_ones_are_cancelled() -> None:
    submit = Submissions(failing=1)
    with pytest.raises(JobFailed):
        for _ in stream(map(str, range(3000)), submit):  # type: ignore[arg-type]
            pass
    assert [job.done for job in submit.jobs] == [["removed"], [], ["cancelled"]]


def test_chunks_know_how_many_lines_stand_before_them() -> None:
    submit = Submissions()
    firsts = [chunk.first for chunk in stream(map(str, range(1000)), submit)]  # type: ignore[arg-type]
    assert firsts == [job.first for job in submit.jobs] == [0, 64, 320]
    assert all(job.done == ["removed"] for job in submit.jobs)


def test_an_error_of_the_input_cancels_what_was_asked_for() -> None:
    def lines() -> Iterator[str]:
        yield from ["x"] * 400
        raise ValueError("line 401")

    submit = Submissions()
    with pytest.raises(ValueError, match="line 401"):
        list(stream(lines(), submit))  # type: ignore[arg-type]
    assert "cancelled" in submit.jobs[-1].done
