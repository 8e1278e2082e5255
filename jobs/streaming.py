"""Many lines through one model: each chunk of them is a prediction; in order, in bounded memory."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

from jobs.errors import JobFailed, UnrollError

#: Lines of the first chunk, so that output begins soon, and of later ones at most.
FIRST_LINES: Final = 64
MOST_LINES: Final = 1024
#: Bytes of a chunk, but for a line that has more by itself.
MOST_BYTES: Final = 1_000_000
#: Of a chunk whose lines leave pictures: the squares of their lengths together, as a picture grows.
#: At 25 kB and 50 bytes more for each pair of symbols they are below what a job may carry.
_MOST_PAIRS: Final = 250_000
#: Chunks that are asked for at once: the worker is not to wait while answers are written out.
_AHEAD: Final = 2


class Prediction(Protocol):
    """A job that answers a chunk."""

    def result(self) -> Any:
        """Wait for its end. Raise JobFailed."""

    def cancel(self) -> Any:
        """Ask for its end."""

    def remove(self) -> None:
        """Forget it."""


J = TypeVar("J", bound=Prediction)


@dataclass(frozen=True)
class Chunk(Generic[J]):
    """A prediction of some lines among many."""

    job: J
    #: Lines that stand before it.
    first: int


def chunks(lines: Iterable[str], *, pictures: bool = False) -> Iterator[list[str]]:
    """Yield the lines in lists, each larger than the one before, up to a bound.

    Where each line leaves a picture, the lists stay small: their files are carried, too.
    """
    chunk: list[str] = []
    size, most = 0, FIRST_LINES
    most_lines, most_size = (most, _MOST_PAIRS) if pictures else (MOST_LINES, MOST_BYTES)
    for line in lines:
        length = len(str(line).encode("utf-8", "surrogatepass"))  # what is no text is refused later
        takes = length**2 if pictures else length
        if chunk and (len(chunk) == most or size + takes > most_size):
            yield chunk
            chunk, size, most = [], 0, min(4 * most, most_lines)
        chunk.append(line)
        size += takes
    if chunk:
        yield chunk


def stream(
    lines: Iterable[str], submit: Callable[[list[str], int], J], *, pictures: bool = False
) -> Generator[Chunk[J], None, None]:
    """Yield a prediction for each chunk, in order; `submit` queues lines and how many precede them.

    Whoever takes a chunk waits for it and reads its files; then it is removed. Where that fails or
    is given up, the chunks that were asked for meanwhile are cancelled. An error of the input, or
    of `submit`, is raised once all chunks before it are taken.
    """
    ahead: deque[Chunk[J]] = deque()
    asked = _asked(chunks(lines, pictures=pictures), submit)
    refusal: Exception | None = None
    try:
        while True:
            try:
                for chunk in islice(asked, _AHEAD - len(ahead)):
                    ahead.append(chunk)
            except Exception as error:
                refusal = error  # and `asked` gives no more
            if not ahead:
                break
            yield from _next(ahead)
    except JobFailed:
        ahead.popleft()  # kept: its record says what happened
        raise
    finally:
        for waiting in ahead:
            with contextlib.suppress(UnrollError):
                waiting.job.cancel()
    if refusal:
        raise refusal


def _asked(lists: Iterable[list[str]], submit: Callable[[list[str], int], J]) -> Iterator[Chunk[J]]:
    first = 0
    for chunk in lists:
        yield Chunk(submit(chunk, first), first)
        first += len(chunk)


def _next(ahead: deque[Chunk[J]]) -> Iterator[Chunk[J]]:
    chunk = ahead[0]
    yield chunk
    chunk.job.result()  # the taker has waited, unless it did not care
    ahead.popleft()
    with contextlib.suppress(UnrollError):
        chunk.job.remove()
