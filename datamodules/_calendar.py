"""Dates in the words of CLDR, the Unicode consortium's collection of how languages write them.

Rendered by Babel, with the numerals that CLDR gives the language.

No text may have two readings. The check is complete and yet cheap, because a text holds its year
exactly once, as its only run of four digits: two dates with one text share their year, so it is
enough to compare texts from which the year was taken out.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from babel import Locale
from babel.core import UnknownLocaleError
from babel.dates import format_date
from babel.localedata import locale_identifiers

from datamodules._errors import DataError

#: The formats of CLDR that write all four digits of a year.
FORMATS: Final = ("full", "long", "medium")

#: Stands for the year in a text without one.
_YEAR: Final = "\0"
#: The digit zero of the numbering systems that languages use by default; 1 to 9 follow it.
_ZERO: Final = {
    "latn": 0x30,
    "arab": 0x660,
    "arabext": 0x6F0,
    "deva": 0x966,
    "beng": 0x9E6,
    "tibt": 0xF20,
    "mymr": 0x1040,
    "olck": 0x1C50,
    "mtei": 0xABF0,
    "cakm": 0x11136,
    "adlm": 0x1E950,
}

_QUOTED: Final = re.compile(r"'[^']*'")
#: The letters of CLDR's patterns that write a weekday.
_WEEKDAY: Final = re.compile(r"[Eec]")

#: Month, day and weekday: all that a text says beside the year.
Day = tuple[int, int, int]


class Calendar:
    """Write dates in several locales and know which texts can be read in two ways."""

    def __init__(self, locales: Iterable[str]) -> None:
        self._texts = {locale: _texts(locale) for locale in locales}
        readings = defaultdict(set)
        for texts in self._texts.values():
            for (_, (month, day, _)), text in texts.items():
                readings[text].add((month, day))
        self._ambiguous = {text for text, days in readings.items() if len(days) > 1}

    def write(self, when: date, locale: str, style: str) -> str | None:
        """Return the text of a date, or None where it could be another date's."""
        text = self._texts[locale][style, _day(when)]
        if text in self._ambiguous:
            return None
        return text.replace(_YEAR, f"{when.year:04d}".translate(_numerals(locale)))

    def writes(self, when: date, text: str, locales: Iterable[str]) -> bool:
        """Say whether one of these locales writes the date so, in any format."""
        return any(
            self.write(when, locale, style) == text for locale in locales for style in FORMATS
        )


@lru_cache(maxsize=256)
def _texts(locale: str) -> dict[tuple[str, Day], str]:
    """Return every format of every day on every weekday, the year taken out."""
    found = parse_locale(locale)
    texts = {}
    for style in FORMATS:
        # A format without the weekday is the same on all seven: rendering is what takes the time.
        parts = 3 if _WEEKDAY.search(_QUOTED.sub("", found.date_formats[style].pattern)) else 2
        written: dict[tuple[int, ...], str] = {}
        for when in _cycle():
            key = _day(when)[:parts]
            if key not in written:
                written[key] = _without_year(when, style, found)
            texts[style, _day(when)] = written[key]
    return texts


def _without_year(when: date, style: str, locale: Locale) -> str:
    numerals = _numerals(str(locale))
    text = str(format_date(when, style, locale=locale)).translate(numerals)
    year = str(when.year).translate(numerals)
    if text.count(year) != 1:
        raise DataError(f"CLDR's {style} date of locale '{locale}' holds no four-digit year")
    return text.replace(year, _YEAR)


def parse_locale(identifier: str) -> Locale:
    """Return CLDR's locale of this name. Raise DataError if there is none."""
    try:
        return Locale.parse(identifier)
    except (UnknownLocaleError, ValueError, TypeError) as error:
        near = get_close_matches(identifier, locale_identifiers(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"CLDR knows no locale {identifier!r}{hint}") from error


@lru_cache(maxsize=256)
def _numerals(locale: str) -> dict[int, int]:
    system = parse_locale(locale).default_numbering_system
    if system not in _ZERO:
        raise DataError(f"locale {locale!r} writes numbers in a way that is not known: {system!r}")
    return {ord("0") + digit: _ZERO[system] + digit for digit in range(10)}


@lru_cache(maxsize=1)
def _cycle() -> tuple[date, ...]:
    """Return one date of each `Day`: 28 years hold every day of the year on every weekday."""
    return tuple({_day(when): when for when in dates_between(2000, 2027)}.values())


def dates_between(first_year: int, last_year: int) -> Iterator[date]:
    """Yield every date of these years."""
    first, last = date(first_year, 1, 1), date(last_year, 12, 31)
    return (first + timedelta(days) for days in range((last - first).days + 1))


def _day(when: date) -> Day:
    return when.month, when.day, when.weekday()
