"""A connection whose user dies at a call, and one at which something happens to the server."""

from collections.abc import Callable
from typing import Any

import redis

from jobs.connection import connect


class Killed(BaseException):
    """The process that made the call is gone: nothing of it catches this."""


class Mortal(redis.Redis):
    """Call `before` ahead of each call to the server, and `after` once it has answered."""

    before: Callable[[], None] = staticmethod(lambda: None)
    after: Callable[[], None] = staticmethod(lambda: None)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.before()
        answer = super().execute_command(*args, **options)
        self.after()
        return answer

    def pipeline(self, *args: Any, **options: Any) -> Any:
        self.before()
        return super().pipeline(*args, **options)


def mortal(url: str, before: Callable[[], None], after: Callable[[], None]) -> Mortal:
    """Return a client as `connect` makes it, with these calls in between."""
    client = Mortal(connection_pool=connect(url).connection_pool)
    client.before, client.after = before, after  # type: ignore[method-assign]
    return client
