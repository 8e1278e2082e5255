"""Something made in a thread while something else goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

#: What is made.
T = TypeVar("T")


class Ahead(Generic[T]):
    """Begin to make something in a thread of its own, to be had under a key."""

    def __init__(self, key: object, make: Callable[[], T]) -> None:
        self.key = key
        pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._made = pool.submit(make)
        pool.shutdown(wait=False)  # the thread ends with its work

    def result(self) -> T:
        """Wait for it, and return it. Raise what went wrong while it was made."""
        return self._made.result()
