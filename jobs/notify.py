"""Who is told of what happens: webhooks, and what is on its way to them.

The transition that ends a job, or moves a champion, leaves word in the outbox: what happened and
that somebody is to be told are one write. Workers turn words into deliveries and deliver them, at
least once each; a receiver tells one that comes twice by its id.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from jobs.errors import NotAllowed, SpecError, did_you_mean
from jobs.store.base import StoreBase
from jobs.store.records import plain, text
from jobs.wording import is_plain

#: What somebody can be told of: ends of jobs, and what is done with versions of models.
EVENTS: Final = (
    *("succeeded", "failed", "cancelled"),
    *("registered", "promoted", "kept", "rolled_back", "released"),
)
#: Begins a secret as the Standard Webhooks write it; the rest is base64.
PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 24
_MOST_URL: Final = 2_000
#: Words that are turned into deliveries at once; deliveries that were given up and are remembered.
_FAN, _REMEMBERED = 100, 100


@dataclass(frozen=True)
class Hook:
    """Somebody who is told."""

    id: str
    url: str
    on: Sequence[str]
    #: Signs what is sent; shown once, when the hook is made.
    secret: str = field(repr=False)
    #: Seconds since 1970 of the newest try, and what went wrong with it; 0 where there was none.
    told: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one hook."""

    id: str
    hook: Hook
    event: str
    #: How often it was tried, this time counted.
    tries: int


Found = list[Hook]
Given = list[dict[str, Any]]


class Hooks(StoreBase):
    """Keep the webhooks of one namespace. All methods raise ServiceUnreachable."""

    def add(self, url: str, on: Sequence[str], secret: str = "") -> Hook:
        """Let an address be told. Raise SpecError for one that cannot be, or an unknown event."""
        check_url(url)
        if not on:
            raise SpecError(f"say what to tell of: {', '.join(EVENTS)}")
        for each in on:
            if each not in EVENTS:
                known = f" (there are: {', '.join(EVENTS)})"
                raise SpecError(f"nothing is called {each!r}{did_you_mean(each, EVENTS) or known}")
        secret = secret or PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        key_of(secret)
        made = Hook(secrets.token_hex(4), url, tuple(dict.fromkeys(on)), secret)
        content = plain({"url": url, "on": list(made.on), "secret": secret})
        self._run("hook_put", id=made.id, hook=content)
        return made

    def remove(self, hook: str) -> None:
        """Tell somebody no more. Raise NotAllowed where there is no such hook."""
        if not self._run("hook_put", id=hook, hook=""):
            raise self._unknown(hook)

    def test(self, hook: str) -> None:
        """Send one hook an event of type `test`. Raise NotAllowed where there is no such hook."""
        if not self._run("hook_try", id=hook):
            raise self._unknown(hook)

    def list(self) -> Found:
        """Return all hooks, and what became of the newest try of each."""
        with self._reaching():
            pipe = self._client.pipeline(transaction=False)
            pipe.hgetall(self.keys("hooks")).hgetall(self.keys("told"))
            hooks, told = pipe.execute()
        found = []
        for key, content in sorted(hooks.items()):
            last = json.loads(told.get(key, b"{}"))
            time, error = float(last.get("time", 0)) / 1000, last.get("error", "")
            found.append(_hook(text(key), content, told=time, error=error))
        return found

    def undelivered(self) -> Given:
        """Return the deliveries that were given up, the newest last."""
        with self._reaching():
            return [
                json.loads(each) for each in self._client.lrange(self.keys("undelivered"), 0, -1)
            ]

    def fan_out(self) -> int:
        """Turn words that were left into deliveries; return how many words there were."""
        return int(self._run("hook_fan", limit=_FAN))

    def claim(self, hold: float, busy: Sequence[str] = ()) -> Delivery | None:
        """Take a delivery that is due; in `hold` seconds another worker may take it, too.

        Those of the `busy` webhooks, by id, are left.
        """
        found = self._run("hook_claim", hold=round(hold * 1000), busy=plain(list(busy)))
        if not found:
            return None
        delivery, hook, content, event, tries = found
        return Delivery(text(delivery), _hook(text(hook), content), text(event), int(tries))

    def settle(self, delivery: Delivery, error: str, again: float | None) -> None:
        """Say what became of a try: an error, and in how many seconds the next one is due."""
        self._run(
            "hook_settle",
            id=delivery.id,
            hook=delivery.hook.id,
            tries=delivery.tries,
            error=error,
            again="" if again is None else round(again * 1000),
            keep=_REMEMBERED,
        )

    def _unknown(self, hook: str) -> NotAllowed:
        known = [each.id for each in self.list()]
        return NotAllowed(f"there is no webhook {hook!r}{did_you_mean(hook, known)}")


def _hook(id: str, content: bytes, **more: Any) -> Hook:  # noqa: A002 - the name in the record
    said = json.loads(content)
    return Hook(id, said["url"], tuple(said["on"]), said["secret"], **more)


def check_url(url: str) -> None:
    """Raise SpecError for an address that nothing can be sent to."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SpecError(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SpecError(f"{url!r} is no address: write https://HOST/PATH")
    if parts.username or parts.password:
        raise SpecError("an address carries no password: what is sent is signed")
    if len(url) > _MOST_URL or " " in url or not all(map(is_plain, url)) or not url.isascii():
        raise SpecError("an address is at most 2,000 characters of ASCII, without blanks")


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for: base64 behind `whsec_`. Raise SpecError."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not 16 <= len(key) <= 64:
        raise SpecError(f"a secret is {PREFIX} and 16 to 64 bytes in base64; leave it out for one")
    return key
