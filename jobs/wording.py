"""How values are worded for people, and which text may reach their terminal."""

import time
import unicodedata
from itertools import pairwise
from typing import Final

#: Joins and parts letters inside words: Persian and Indic scripts and composed emoji need them.
_JOINERS: Final = "\u200c\u200d"
#: Says of a letter how it is drawn, or is a space of another width.
_HARMLESS: Final = frozenset({"Mn", "Mc", "Me", "Zs"})


def is_plain(character: str) -> bool:
    """Return whether a character is text, of any script, and does nothing to a terminal.

    Escapes, line breaks, and the marks that turn the direction of what stands around them do.
    """
    if character.isprintable() or character in _JOINERS:
        return True
    return unicodedata.category(character) in _HARMLESS


def printable(text: str) -> str:
    """Return the text without what would act on a terminal: escapes, carriage returns, bells."""
    return "".join(each for each in text if each == "\t" or is_plain(each))


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
