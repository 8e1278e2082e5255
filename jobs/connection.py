"""Where the service is, and how to reach it; every failure is one line without the password."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from jobs.lean import postpone_asyncio

postpone_asyncio()

import redis  # noqa: E402 - as the line above says
from redis.backoff import ExponentialBackoff  # noqa: E402
from redis.retry import Retry  # noqa: E402

from jobs.errors import (  # noqa: E402
    Forbidden,
    ServiceFull,
    ServiceUnreachable,
    SetupError,
    SpecError,
)

#: Seconds after which an unanswered call counts as unreachable.
SOCKET_TIMEOUT: Final = 5.0
#: Seconds for a connection to come about.
CONNECT_TIMEOUT: Final = 3.0
#: What is said where Redis refuses whatever would have to be written.
DISK_FULL: Final = "the service cannot write to its disk; free some of it"
#: The file of the home that holds the URL of its embedded service.
ADDRESS_FILE: Final = "address"

_UNREADABLE: Final = "(an address that cannot be read)"
_SCHEMES: Final = ("redis://", "rediss://", "unix://")


def default_home() -> Path:
    """Return the folder of everything kept on this machine."""
    if home := os.environ.get("UNROLL_HOME"):
        return Path(home).expanduser().absolute()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "unroll"
    return Path("~/.local/share/unroll").expanduser()


def redis_url(home: Path | None = None) -> str:
    """Return UNROLL_REDIS_URL, else the address of the home's embedded service.

    Raise ServiceUnreachable where there is neither.
    """
    if url := os.environ.get("UNROLL_REDIS_URL"):
        return url
    home = home or default_home()
    try:
        return (home / ADDRESS_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ServiceUnreachable(
            f"no service is running in {home}; start one with `unroll up`, "
            "or name one in UNROLL_REDIS_URL"
        ) from None
    except OSError as error:
        raise ServiceUnreachable(f"cannot read {home / ADDRESS_FILE}: {error.strerror}") from None


def connect(url: str) -> "redis.Redis":
    """Return a client whose answers are bytes; nothing is sent yet. Raise SetupError for a bad URL.

    A call is repeated once after a moment, so that a restart of Redis passes unnoticed; every
    transition can bear to be sent twice. No health is checked before: where the disk of Redis is
    full it refuses a PING, and still answers who only reads.
    """
    if _torn(url):
        raise SetupError(
            "the password in UNROLL_REDIS_URL holds one of / ? #: write them as %2F %3F %23"
        )
    if not url.startswith(_SCHEMES) or shown(url) == _UNREADABLE:
        raise SetupError(f"{shown(url)} is no address of a Redis; write redis://HOST:PORT/0")
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=False,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.1), retries=1),
        )
    except (ValueError, TypeError) as error:
        raise SetupError(f"{shown(url)!r} is no address of a Redis: {error}") from None


def _torn(url: str) -> bool:
    # Whether a character of the password ends the part of the URL that the host stands in.
    where, *rest = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)
    return (
        not url.startswith("unix://")
        and "@" not in where
        and any("@" in each and "password=" not in each for each in rest)
    )


def shown(url: str) -> str:
    """Return the URL as it may be printed: without user, password and options."""
    if url.startswith("unix://"):
        return "unix://" + url.removeprefix("unix://").partition("?")[0].rpartition("@")[2]
    if "://" not in url:
        return _UNREADABLE
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where a password stands in its place, the @ forgotten
    except ValueError:
        return _UNREADABLE
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def address(client: "redis.Redis") -> str:
    """Return where a client connects to, as it may be printed."""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        return f"unix://{path}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}"


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn every error of Redis into ServiceUnreachable, in one line. Usable as a decorator.

    Raise SpecError for a name that is no text: no key and no record holds one.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise SpecError(f"a name holds {found!r}: text that is not valid UTF-8") from None
    except redis.RedisError as error:
        sentence = _sentence(error)
        raise _ERRORS.get(sentence, ServiceUnreachable)(f"{shown(url)}: {sentence}") from None


def _sentence(error: redis.RedisError) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    for word, sentence in _WORDS:
        if word in text:
            return sentence
    for kind, sentence in _KINDS:
        if isinstance(error, kind):
            return sentence
    if isinstance(error, redis.ConnectionError):
        return f"no service answers ({text.rstrip('.')}); {_mend()}"
    return f"the service answers with an error: {text}"


def _mend() -> str:
    if os.environ.get("UNROLL_REDIS_URL"):
        return "UNROLL_REDIS_URL names it: start it there, name another, or unset it"
    return "start one with `unroll up`"


_LOGIN: Final = "the service refuses the password; put the right one into UNROLL_REDIS_URL"
_ASKS: Final = (
    "the service asks for a password; write redis://:PASSWORD@HOST:PORT/0 into UNROLL_REDIS_URL"
)
_DENIED: Final = (
    "this user of the service may not do that; use an address whose user has the role for it "
    "(docs/operating.md)"
)
_FULL: Final = "the service's memory is full; remove jobs with `unroll rm`, or raise its maxmemory"
_ERRORS: Final[dict[str, type[ServiceUnreachable]]] = {_DENIED: Forbidden, _FULL: ServiceFull}
#: Redis's own words; before Redis 7 they stand inside the error of a script.
_WORDS: Final = (
    ("NOAUTH", _ASKS),
    ("Authentication required", _ASKS),
    ("HELLO must be called", _ASKS),  # how Redis 6 and later say the same at the first call
    ("WRONGPASS", _LOGIN),
    ("NOPERM", _DENIED),
    ("OOM command", _FULL),
    (
        "certificate verify failed",
        (
            "the service's certificate is not trusted; name who vouches for it: "
            "UNROLL_REDIS_URL=rediss://...?ssl_ca_certs=FILE"
        ),
    ),
    ("MISCONF", DISK_FULL),
)
_KINDS: Final[tuple[tuple[type[redis.RedisError], str], ...]] = (
    (redis.AuthenticationError, _LOGIN),
    (redis.exceptions.NoPermissionError, _DENIED),
    (redis.exceptions.OutOfMemoryError, _FULL),
    (redis.exceptions.ReadOnlyError, "the service is a replica, which takes no writes"),
    (redis.BusyLoadingError, "the service is still loading its data; try again in a moment"),
    (redis.TimeoutError, f"the service did not answer within {SOCKET_TIMEOUT:g} s"),
)
