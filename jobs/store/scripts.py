"""Load the Lua transitions: one file each, whose head declares the keys and arguments it takes.

    -- KEYS
    --   request     w   what it is for
    --   job         r   ...
    -- ARGV
    --   id          ...

Inside, a key is `K.request` (of a family, the part before the id) and an argument `A.id`; so no
position is counted by hand, and a key that the head does not declare cannot be touched. Before each
file stand `common.lua` and the rules of `jobs.job` as Lua tables.

Keys that are only read (`r`) travel among the arguments: Redis asks for the right to write to every
key that EVALSHA declares, which a submitter does not have, and looks again at each access anyway.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import redis

from jobs.errors import (
    NotAllowed,
    SpecError,
    StaleToken,
    UnknownJob,
    UnknownModel,
    UnknownSchedule,
    UnrollError,
)
from jobs.evidence import MAX_ENDS
from jobs.job import COUNTED_RETRIES, ENDED, FREE_BACKOFF_MS, FREE_RETRIES, MAX_FREE_RETRIES
from jobs.keys import Keys
from jobs.spec import ANSWERS

#: Milliseconds since 1970.
Clock = Callable[[], int]

_KEY: Final = re.compile(r"--   (\w+) +(r|w|rw)\b")
_ARGUMENT: Final = re.compile(r"--   (\w+)")
#: First word of an error that a script returns -> the error it means.
_ERRORS: Final[dict[str, type[UnrollError]]] = {
    "STALE": StaleToken,
    "UNKNOWN": UnknownJob,
    "UNKNOWNMODEL": UnknownModel,
    "UNKNOWNSCHEDULE": UnknownSchedule,
    "NOTALLOWED": NotAllowed,
    "REFUSED": SpecError,
}


@dataclass(frozen=True)
class Source:
    """Hold one transition as it is sent to Redis, and what its head declares."""

    text: str
    #: Keys that are written to, and those that are only read.
    written: tuple[str, ...]
    read: tuple[str, ...]
    arguments: tuple[str, ...]


@cache
def load(name: str) -> Source:
    """Return the transition of `lua/NAME.lua`."""
    body = _read(name)
    keys, arguments = _head(body)
    written = [key for key, mode in keys if mode != "r"]
    read = [key for key, mode in keys if mode == "r"]
    places = [f"{key} = KEYS[{place}]" for place, key in enumerate(written, 1)]
    places += [f"{key} = ARGV[{place}]" for place, key in enumerate(read, 1)]
    values = [f"{each} = ARGV[{place}]" for place, each in enumerate(arguments, len(read) + 1)]
    prelude = [
        f"local K, A = {{{', '.join(places)}}}, {{{', '.join(values)}}}",
        _table("ENDED", ENDED),
        _table("FREE_RETRIES", FREE_RETRIES),
        _table("COUNTED_RETRIES", COUNTED_RETRIES),
        _table("ANSWERS", ANSWERS),
        f"local MAX_ENDS = {MAX_ENDS}",
        f"local MAX_FREE_RETRIES, FREE_BACKOFF_MS = {MAX_FREE_RETRIES}, {FREE_BACKOFF_MS}",
        _read("common"),
        body,
    ]
    return Source("\n".join(prelude), tuple(written), tuple(read), tuple(arguments))


def _head(body: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the keys with their modes and the arguments that a file declares, and `now`."""
    head = body[: re.search(r"^(?!--)", body, re.MULTILINE).start()]  # type: ignore[union-attr]
    keys, _, arguments = head.partition("-- ARGV\n")
    return _KEY.findall(keys.partition("-- KEYS\n")[2]), [*_ARGUMENT.findall(arguments), "now"]


def _read(name: str) -> str:
    return resources.files("jobs.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _table(name: str, words: Iterable[str]) -> str:
    return f"local {name} = {{{', '.join(f'{word} = true' for word in sorted(words))}}}"


class Scripts:
    """Run the transitions of one namespace; each is sent once and then named by its digest."""

    def __init__(self, client: "redis.Redis", keys: Keys, clock: Clock | None = None) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._registered: dict[str, Any] = {}

    def run(self, name: str, /, **arguments: Any) -> Any:
        """Run a transition. Raise the error that it answers with."""
        source = load(name)
        if name not in self._registered:
            self._registered[name] = self._client.register_script(source.text)
        arguments["now"] = self._clock() if self._clock else ""
        try:
            return self._registered[name](
                keys=[self._keys(key) for key in source.written],
                args=[
                    *[self._keys(key) for key in source.read],
                    *[arguments[each] for each in source.arguments],
                ],
            )
        except redis.ResponseError as error:
            word, _, sentence = str(error).partition(" ")
            if word in _ERRORS:
                raise _ERRORS[word](sentence) from None
            raise
