"""Many lines through one model: each chunk of them is a prediction; in order, in bounded memory."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from jobs.errors import JobFailed, UnrollError

#: Lines of the first chunk, so that output begins soon, and of later ones at most.
FIRST_LINES: Final = 64
MOST_LINES: Final = 1024
#: Bytes of a chunk, but for a line that has more by itself.
MOST_BYTES: Final = 1_000_000
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


def chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines in lists, each larger than the one before, up to a bound."""
    chunk: list[str] = []
    size, most = 0, FIRST_LINES
    for line in lines:
        length = len(str(line).encode("utf-8", "surrogatepass"))  # what is no text is refused later
        if chunk and (len(chunk) == most or size + length > MOST_BYTES):
            yield chunk
            chunk, size, most = [], 0, min(4 * most, MOST_LINES)
        chunk.append(line)
        size += length
    if chunk:
        yield chunk


def stream(
    lines: Iterable[str], submit: Callable[[list[str], int], J]
) -> Generator[Chunk[J], None, None]:
    """Yield a prediction for each chunk, in order; `submit` queues lines and how many precede them.

    Whoever takes a chunk waits for it and reads its files; then it is removed. Where that fails or
    is given up, the chunks that were asked for meanwhile are cancelled.
    """
    ahead: deque[Chunk[J]] = deque()
    first = 0
    try:
        for chunk in chunks(lines):
            ahead.append(Chunk(submit(chunk, first), first))
            first += len(chunk)
            if len(ahead) == _AHEAD:
                yield from _next(ahead)
        while ahead:
            yield from _next(ahead)
    except JobFailed:
        ahead.popleft()  # kept: its record says what happened
        raise
    finally:
        for waiting in ahead:
            with contextlib.suppress(UnrollError):
                waiting.job.cancel()


def _next(ahead: deque[Chunk[J]]) -> Iterator[Chunk[J]]:
    chunk = ahead[0]
    yield chunk
    chunk.job.result()  # the taker has waited, unless it did not care
    ahead.popleft()
    with contextlib.suppress(UnrollError):
        chunk.job.remove()
