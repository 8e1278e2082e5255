"""Something made in a thread while something else goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

#: What is made.
T = TypeVar("T")


def ahead(make: Callable[[], T]) -> Future[T]:
    """Begin to make something in a thread; its `result()` waits, and raises what went wrong."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    made = pool.submit(make)
    pool.shutdown(wait=False)  # the thread ends with its work
    return made
