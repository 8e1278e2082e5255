"""What the sides of the store share: the connection, the keys and the transitions."""

import secrets
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeVar

import redis

from jobs.connection import address, reaching
from jobs.keys import Keys
from jobs.store.scripts import Clock, Scripts

#: Cleared jobs that are remembered, for workers that were away meanwhile.
CLEARED: Final = 100_000

S = TypeVar("S", bound="StoreBase")


class Memory(NamedTuple):
    """How much memory Redis may take, and what it does when that is full."""

    #: `maxmemory-policy`; empty where Redis does not say.
    policy: str
    #: Bytes; 0 for no bound.
    bound: int


def new_nonce() -> str:
    """Return what tells a call that is sent again from another one."""
    return secrets.token_hex(8)


class StoreBase:
    """Hold a Redis client whose answers are bytes, and the keys of one namespace."""

    def __init__(
        self, client: "redis.Redis", namespace: str = "default", clock: Clock | None = None
    ) -> None:
        self._client: Any = client  # redis-py types each answer as one that may be awaited
        self._address = address(client)
        self._scripts = Scripts(client, Keys(namespace), clock)
        self._clock = clock
        self.keys = Keys(namespace)

    def beside(self, kind: type[S], /, **more: Any) -> S:
        """Return another side of the same namespace, over the same connection."""
        return kind(self._client, self.keys.namespace, self._clock, **more)

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(self._address)

    def _run(self, script: str, /, **arguments: Any) -> Any:
        with self._reaching():
            return self._scripts.run(script, **arguments)

    def _clear(self, limit: int) -> None:
        self._run("clear", limit=limit, keep=CLEARED)

    def ping(self) -> None:
        """Return if the service answers. Raise ServiceUnreachable."""
        with self._reaching():
            self._client.ping()

    def memory(self) -> Memory:
        """Return what Redis says of its memory."""
        with self._reaching():
            said = self._client.info("memory")
        return Memory(str(said.get("maxmemory_policy", "")), int(said.get("maxmemory", 0)))
