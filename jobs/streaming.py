"""Many lines through one model: each chunk of them is a prediction; in order, in bounded memory."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobs.errors import JobFailed, UnrollError

if TYPE_CHECKING:
    from jobs.handle import JobHandle

#: Lines of the first chunk, so that output begins soon, and of later ones at most.
FIRST_LINES: Final = 64
MOST_LINES: Final = 1024
#: Bytes of a chunk, but for a line that has more by itself.
MOST_BYTES: Final = 1_000_000
#: Chunks that are asked for at once: the worker is not to wait while answers are written out.
_AHEAD: Final = 2


@dataclass(frozen=True)
class Chunk:
    """A prediction of some lines among many."""

    job: "JobHandle"
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
    lines: Iterable[str], submit: Callable[[list[str], int], "JobHandle"]
) -> Generator[Chunk, None, None]:
    """Yield a prediction for each chunk, in order; `submit` queues lines and how many precede them.

    Whoever takes a chunk waits for it and reads its files; then it is removed. Where that fails or
    is given up, the chunks that were asked for meanwhile are cancelled.
    """
    ahead: deque[Chunk] = deque()
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


def _next(ahead: deque[Chunk]) -> Iterator[Chunk]:
    chunk = ahead[0]
    yield chunk
    chunk.job.result()  # the taker has waited, unless it did not care
    ahead.popleft()
    with contextlib.suppress(UnrollError):
        chunk.job.remove()
