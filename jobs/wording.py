"""How values are worded for people, and which text may reach their terminal."""

import re
import time
import unicodedata
from itertools import pairwise
from typing import Final

#: Controls, halves of characters, and what parts lines and paragraphs.
_ACTS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Turn the direction of all that follows: a name could make the rest of its line read otherwise.
_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


#: What JSON leaves as it is and a terminal need not: C1 controls above all.
_UNESCAPED: Final = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def is_plain(character: str) -> bool:
    """Return whether a character is text, of any script, and does nothing to a terminal.

    Joiners are text (Persian, Hindi, composed emoji); escapes, line breaks and the marks that turn
    the direction of what stands around them are not.
    """
    return unicodedata.category(character) not in _ACTS and character not in _TURNS


def printable(text: str) -> str:
    """Return the text without what would act on a terminal: escapes, carriage returns, bells."""
    return "".join(each for each in text if each == "\t" or is_plain(each))


def escaped(text: str) -> str:
    """Return JSON text in which what would act on a terminal is written as an escape."""
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return the text as one line that can be printed."""
    return printable(" ".join(text.split()))


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: `2h 05m`, `3m 10s`, `4s`."""
    whole = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (large, size), (small, part) in pairwise(units):
        if whole >= size:
            return f"{whole // size}{large} {whole % size // part:02d}{small}"
    return f"{whole}s"


def clock(seconds: float, now: float) -> str:
    """Return a moment (seconds since 1970) as this machine's clock shows it, with its zone.

    The day is left out where it is the one of `now`.
    """
    moment, today = time.localtime(seconds), time.localtime(now)
    form = "%H:%M:%S %Z" if moment[:3] == today[:3] else "%Y-%m-%d %H:%M:%S %Z"
    return time.strftime(form, moment)
