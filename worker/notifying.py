"""Deliver what happened to webhooks: signed, bounded, and to no address of a private network.

What is sent follows the Standard Webhooks: the headers `webhook-id`, `webhook-timestamp` and
`webhook-signature`, which is `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`.
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from jobs.errors import ServiceUnreachable
from jobs.notify import Delivery, Hooks, key_of

logger = logging.getLogger(__name__)

#: Seconds for a connection, for each read, and for a whole try.
_CONNECT: Final = 5.0
_READ: Final = 10.0
_WHOLE: Final = 20.0
#: Seconds after which another worker may try what this one took and did not settle.
_HOLD: Final = 60.0
#: Seconds until the next try: doubled each time, up to the longest; then, after so many, none.
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 6 * 3_600.0
_TRIES: Final = 16
#: Deliveries under way at once, and of one webhook.
_AT_ONCE: Final = 20
_OF_ONE: Final = 4
_ANSWER_BYTES: Final = 4_096
#: Lets webhooks reach private addresses, for receivers on the workers' own network.
PRIVATE: Final = "UNROLL_NOTIFY_PRIVATE"


class Undelivered(Exception):
    """It did not arrive; the message says why."""


class Notifier:
    """Tell webhooks what happened, several at a time: one that hangs holds up itself alone."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._lock = threading.Lock()
        #: How many deliveries of each webhook are under way.
        self._under_way: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []

    def deliver(self) -> None:
        """Begin to deliver what is due. Raise ServiceUnreachable."""
        while self._hooks.fan_out():
            pass
        self._threads = [each for each in self._threads if each.is_alive()]
        while len(self._threads) < _AT_ONCE and (delivery := self._claim()):
            # Not waited for when the worker ends: what it had claimed, another delivers.
            thread = threading.Thread(target=self._work, args=(delivery,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Wait until nothing that was begun is under way."""
        for thread in self._threads:
            thread.join()

    def _work(self, delivery: Delivery | None) -> None:
        try:
            while delivery:
                try:
                    self._try(delivery)
                finally:
                    with self._lock:
                        self._under_way[delivery.hook.id] -= 1
                delivery = self._claim()
        except ServiceUnreachable as error:
            logger.warning("notifying: %s", error)

    def _claim(self) -> Delivery | None:
        with self._lock:
            busy = [hook for hook, count in self._under_way.items() if count >= _OF_ONE]
            if delivery := self._hooks.claim(_HOLD, busy):
                self._under_way[delivery.hook.id] += 1
            return delivery

    def _try(self, delivery: Delivery) -> None:
        try:
            send(delivery)
        except Undelivered as error:
            again = pause(delivery.tries)
            self._hooks.settle(delivery, str(error), again)
            said = "given up" if again is None else f"tried again in {again:.0f} s"
            logger.warning("webhook %s: %s; %s", delivery.hook.id, error, said)
        else:
            self._hooks.settle(delivery, "", None)


def pause(tries: int) -> float | None:
    """Return in how many seconds to try again after so many tries; None for never."""
    if tries >= _TRIES:
        return None
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (tries - 1)) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def send(delivery: Delivery) -> None:
    """Send one delivery. Raise Undelivered unless it was taken."""
    parts = urlsplit(delivery.hook.url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    body = body_of(delivery)
    headers = {**signed(delivery, body, int(time.time())), "content-type": "application/json"}
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if secure else 80)
    try:
        with _connected(host, port, secure=secure) as connection:
            headers["host"] = parts.netloc
            connection.request("POST", path, body=body, headers=headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"it did not answer: {error or type(error).__name__}"[:300]) from None
    if not 200 <= answer.status < 300:
        moved = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
        raise Undelivered(f"it answered {answer.status}{moved}")


def body_of(delivery: Delivery) -> bytes:
    """Return what is sent."""
    event = json.loads(delivery.event)
    kind, at = event.pop("type"), float(event.pop("time")) / 1000
    return json.dumps({"type": kind, "timestamp": at, "data": event}, ensure_ascii=False).encode()


def signed(delivery: Delivery, body: bytes, now: int) -> dict[str, str]:
    """Return the headers by which the receiver knows the sender, and what comes twice."""
    content = b".".join([delivery.id.encode(), str(now).encode(), body])
    digest = hmac.new(key_of(delivery.hook.secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": delivery.id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def allowed_addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Return where a host may be reached. Raise Undelivered where that is a private address.

    What was looked at is what is connected to: a name cannot lead elsewhere in between.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Undelivered(f"{host} is not known: {error}") from None
    addresses = [
        (socket.AddressFamily(family), (str(where[0]), int(where[1])))
        for family, _, _, _, where in found
    ]
    if os.environ.get(PRIVATE) != "1":
        for _, (address, _port) in addresses:
            if not is_public(address):
                raise Undelivered(
                    f"{host} leads to {address}, a private address: {PRIVATE}=1 on the workers "
                    "allows that"
                )
    return addresses


def is_public(address: str) -> bool:
    """Return whether an address is one of the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None or found.teredo:
            return inner is not None and is_public(str(inner))
    return found.is_global and not found.is_multicast


@contextmanager
def _connected(host: str, port: int, *, secure: bool) -> Iterator[http.client.HTTPConnection]:
    """Connect to an address that was looked at; the whole try ends in time, whoever drips."""
    reached = _reach(allowed_addresses(host, port))
    connection = http.client.HTTPConnection(host, port)
    try:
        if secure:
            reached = ssl.create_default_context().wrap_socket(
                reached, server_hostname=host, do_handshake_on_connect=False
            )
        with _ended_in_time(reached):
            if isinstance(reached, ssl.SSLSocket):
                reached.do_handshake()
            reached.settimeout(_READ)
            connection.sock = reached
            yield connection
    finally:
        connection.close()
        reached.close()


def _reach(addresses: list[tuple[socket.AddressFamily, tuple[str, int]]]) -> socket.socket:
    failure: OSError = OSError("it has no address")
    for family, where in addresses:
        reached = socket.socket(family, socket.SOCK_STREAM)
        reached.settimeout(_CONNECT)
        try:
            reached.connect(where)
        except OSError as error:
            failure = error
            reached.close()
        else:
            return reached
    raise failure


@contextmanager
def _ended_in_time(reached: socket.socket) -> Iterator[None]:
    def end() -> None:
        with suppress(OSError):  # it has ended by itself
            # Of the plain socket below: TLS would take its state away from who reads.
            socket.socket.shutdown(reached, socket.SHUT_RDWR)

    timer = threading.Timer(_WHOLE, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
