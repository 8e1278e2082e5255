"""Load the Lua transitions: one file each, whose head declares the keys and arguments it takes.

    -- KEYS
    --   request:    what it is for
    --   pending:    ...
    -- ARGV
    --   id          ...

Inside, a key is `K.request` and an argument `A.id`; so no position is counted by hand, and a key
that the head does not declare cannot be touched. Before each file stand `common.lua` and the rules
of `jobs.job` as Lua tables.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import redis

from jobs.errors import NotAllowed, SpecError, StaleToken, UnknownJob, UnrollError
from jobs.job import COUNTED_RETRIES, ENDED, FREE_RETRIES, MAX_FREE_RETRIES
from jobs.keys import Keys

#: Milliseconds since 1970.
Clock = Callable[[], int]

_ENTRY: Final = re.compile(r"--   (\w+)")
#: First word of an error that a script returns -> the error it means.
_ERRORS: Final[dict[str, type[UnrollError]]] = {
    "STALE": StaleToken,
    "UNKNOWN": UnknownJob,
    "NOTALLOWED": NotAllowed,
    "REFUSED": SpecError,
}


@dataclass(frozen=True)
class Source:
    """Hold one transition as it is sent to Redis, and what its head declares."""

    text: str
    keys: tuple[str, ...]
    arguments: tuple[str, ...]


@cache
def load(name: str) -> Source:
    """Return the transition of `lua/NAME.lua`."""
    body = _read(name)
    declared: dict[str, list[str]] = {"KEYS": [], "ARGV": []}
    section: list[str] = []
    for line in body.splitlines():
        if not line.startswith("--"):
            break
        section = declared.get(line[3:].strip(), section)
        if entry := _ENTRY.match(line):
            section.append(entry[1])
    arguments = [*declared["ARGV"], "now"]
    prelude = [
        _names("K", "KEYS", declared["KEYS"]),
        _names("A", "ARGV", arguments),
        _table("ENDED", ENDED),
        _table("FREE_RETRIES", FREE_RETRIES),
        _table("COUNTED_RETRIES", COUNTED_RETRIES),
        f"local MAX_FREE_RETRIES = {MAX_FREE_RETRIES}",
        _read("common"),
        body,
    ]
    return Source("\n".join(prelude), tuple(declared["KEYS"]), tuple(arguments))


def _read(name: str) -> str:
    return resources.files("jobs").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _names(table: str, source: str, names: list[str]) -> str:
    fields = ", ".join(f"{name} = {source}[{index}]" for index, name in enumerate(names, 1))
    return f"local {table} = {{{fields}}}"


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
                keys=[self._keys(key) for key in source.keys],
                args=[arguments[each] for each in source.arguments],
            )
        except redis.ResponseError as error:
            word, _, sentence = str(error).partition(" ")
            if word in _ERRORS:
                raise _ERRORS[word](sentence) from None
            raise
