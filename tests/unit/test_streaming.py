"""Lines in chunks: in order, each once, bounded, and never far ahead of who takes them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import JobFailed, SpecError
from jobs.spec import MAX_CARRIED_BYTES
from jobs.streaming import FIRST_LINES, MOST_BYTES, MOST_LINES, chunks, stream


@given(st.lists(st.sampled_from(["", "a", "ü" * 1000, "x" * (MOST_BYTES + 1)]), max_size=60))
def test_chunks_hold_each_line_once_in_order_and_within_bounds(lines: list[str]) -> None:
    found = list(chunks(lines))
    assert [line for chunk in found for line in chunk] == lines
    for chunk in found:
        assert len(chunk) == 1 or sum(len(line.encode()) for line in chunk) <= MOST_BYTES


@given(st.lists(st.sampled_from(["", "a" * 12, "a" * 60, "a" * 125, "a" * 501]), max_size=200))
def test_the_pictures_of_a_chunk_can_be_carried_together(lines: list[str]) -> None:
    found = list(chunks(lines, pictures=True))
    assert [line for chunk in found for line in chunk] == lines
    for chunk in found:
        # As they were measured: 25 kB, and 50 bytes for each pair of symbols.
        carried = sum(25_000 + 50 * len(line) ** 2 for line in chunk)
        assert len(chunk) == 1 or (len(chunk) <= FIRST_LINES and carried < 0.9 * MAX_CARRIED_BYTES)


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


def test_an_error_of_the_input_comes_after_all_that_was_asked_for() -> None:
    def lines() -> Iterator[str]:
        yield from ["x"] * 400
        raise ValueError("line 401")

    submit = Submissions()
    taken = stream(lines(), submit)  # type: ignore[arg-type]
    assert [next(taken).first, next(taken).first] == [0, 64]
    with pytest.raises(ValueError, match="line 401"):
        next(taken)
    assert [job.done for job in submit.jobs] == [["removed"], ["removed"]]


def test_a_chunk_that_is_refused_does_not_cost_the_one_before_it() -> None:
    class Choosy(Submissions):
        def __call__(self, lines: list[str], first: int) -> Job:
            if first:
                raise SpecError("line 90")
            return super().__call__(lines, first)

    submit = Choosy()
    taken = stream(map(str, range(3000)), submit)  # type: ignore[arg-type]
    assert next(taken).first == 0
    with pytest.raises(SpecError, match="line 90"):
        next(taken)
    assert [job.done for job in submit.jobs] == [["removed"]]


def test_a_failure_goes_before_an_error_of_the_input() -> None:
    def lines() -> Iterator[str]:
        yield from ["x"] * 65
        raise ValueError("line 66")

    submit = Submissions(failing=0)
    with pytest.raises(JobFailed):
        list(stream(lines(), submit))  # type: ignore[arg-type]
    assert [job.done for job in submit.jobs] == [[]]
