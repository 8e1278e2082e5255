"""Dates: what CLDR writes, never twice readable, never on both sides of a split."""

import re
from collections import defaultdict
from datetime import date

import pytest
from babel.dates import format_date
from hypothesis import given
from hypothesis import strategies as st

from datamodules._base import Feed, Workspace
from datamodules._calendar import FORMATS, Calendar, dates_between
from datamodules._errors import DataError
from datamodules.dates import Dates

LOCALES = ["de", "en", "es", "ja"]
CALENDAR = Calendar(LOCALES)


def prepared(cache, **params):
    small = {"examples": 300, "held_out": 40, "locales": LOCALES, "unseen_locale": "pt"}
    dates = Dates(**{**small, **params})
    dates.feed = Feed(batch_tokens=500, seed=3)
    dates.prepare(Workspace(roots=(), cache=cache))
    return dates


@pytest.fixture(scope="module")
def dates(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cache"))


@given(when=st.dates(date(1000, 1, 1), date(9999, 12, 31)), style=st.sampled_from(FORMATS))
def test_a_date_is_written_as_babel_writes_it(when, style):
    for locale in LOCALES:
        text = format_date(when, style, locale=locale)
        assert CALENDAR.write(when, locale, style) == text


@pytest.mark.parametrize(("locale", "day", "year"), [("fa", "۲۱", "۲۰۱۹"), ("bn", "২১", "২০১৯")])
def test_numerals_are_those_of_the_language(locale, day, year):
    # How the month is spelt changes from one edition of CLDR to the next.
    words = Calendar([locale]).write(date(2019, 2, 21), locale, "long").split()
    assert (words[0], words[-1]) == (day, year)


def test_a_text_with_two_readings_is_left_out():
    # Portugal writes the day first, Panama the month.
    both, one = Calendar(["pt_PT", "es_PA"]), Calendar(["pt_PT"])
    assert one.write(date(2019, 2, 3), "pt_PT", "medium") == "03/02/2019"
    assert both.write(date(2019, 2, 3), "pt_PT", "medium") is None
    assert both.write(date(2019, 3, 2), "es_PA", "medium") is None
    assert both.write(date(2019, 2, 13), "pt_PT", "medium") == "13/02/2019"
    assert both.write(date(2019, 2, 3), "pt_PT", "long") is not None


def test_every_text_has_one_reading_among_all_dates_of_the_calendar(tmp_path):
    locales = ["pt_PT", "es_PA"]
    readings = defaultdict(set)
    for when in dates_between(2019, 2020):
        for locale in locales:
            for style in FORMATS:
                readings[format_date(when, style, locale=locale)].add(when)
    double = {text for text, days in readings.items() if len(days) > 1}
    written = prepared(
        tmp_path, locales=["pt_PT"], unseen_locale="es_PA", first_year=2019, last_year=2020
    )
    texts = {
        text for split in ("train", "val", "unseen", "test") for text in written.sources(split)
    }
    assert len(double) > 100
    assert not double & texts


def test_sizes_targets_and_splits(dates):
    seen = set()
    for split, size in (("train", 300), ("val", 40), ("unseen", 40), ("test", 40)):
        targets = [reference for (reference,) in dates.references(split)]
        assert len(dates.sources(split)) == len(targets) == size
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", target) for target in targets)
        assert not seen & set(targets)
        seen |= set(targets)


def test_every_row_is_its_date_in_a_trained_locale(dates):
    for text, (iso,) in zip(dates.sources("val"), dates.references("val"), strict=True):
        when = date.fromisoformat(iso)
        assert any(
            format_date(when, style, locale=locale) == text
            for locale in LOCALES
            for style in FORMATS
        )


def test_the_unseen_locale_shows_only_what_no_trained_one_writes(dates):
    for text, (iso,) in zip(dates.sources("unseen"), dates.references("unseen"), strict=True):
        when = date.fromisoformat(iso)
        assert not CALENDAR.writes(when, text, LOCALES)
        assert text in {format_date(when, style, locale="pt") for style in FORMATS}


def test_the_same_arguments_give_the_same_rows_and_another_seed_gives_others(dates, tmp_path):
    assert list(prepared(tmp_path).sources("train")) == list(dates.sources("train"))
    assert list(prepared(tmp_path, seed=1).sources("train")) != list(dates.sources("train"))


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"locales": ["de", "en_GBR"]}, "no locale 'en_GBR'; did you mean 'en_GB'?"),
        ({"locales": ["pt"]}, "'locales' must name some, and not 'pt'"),
        ({"locales": []}, "'locales' must name some"),
        ({"first_year": 2000, "last_year": 2000}, "2000 to 2000 have too few dates for 420 rows"),
        ({"first_year": 2001, "last_year": 2000}, "2001 to 2000 have too few dates"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(params, line, tmp_path):
    with pytest.raises(DataError, match=re.escape(line)) as refusal:
        prepared(tmp_path, **params)
    assert "\n" not in str(refusal.value)
