"""Dates as people write them in many languages, to be turned into ISO 8601.

Portuguese is kept out of training: its months and weekdays are near to those of Spanish, Italian
and Romanian, so that a model which has learned more than lists reads most of its dates (some 90 %)
but not all ("outubro").
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Final

import babel
import numpy as np
from annotated_types import Ge, Interval

from datamodules._base import TextFamily, TextScoring, Workspace
from datamodules._calendar import FORMATS, Calendar, dates_between
from datamodules._encoded import Encoded, PairSplit, TextRows, Vocabularies
from datamodules._errors import DataError
from datamodules._text import TextPairs
from datamodules._vocab import Characters

_LOCALES: Final = [
    *("ar", "bn", "cs", "da", "de", "el", "en", "en_GB", "es", "fa", "fi", "fr", "he", "hi", "hu"),
    *("id", "it", "ja", "ko", "nb", "nl", "pl", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"),
]

#: Part of the cache's key: to be raised when the same arguments give other texts.
_VERSION: Final = 1

#: Return the text of a date, or None where it may not be used.
_Write = Callable[[date], str | None]
#: Texts and, line for line, their ISO dates.
_Pairs = tuple[list[str], list[str]]


class Dates(TextPairs):
    """Dates in the words of many languages, to be written as YYYY-MM-DD.

    The texts are those of CLDR's full, long and medium formats. No text has two readings, and no
    date is in two splits. The split `unseen` holds a locale of which training has nothing, and of
    it only what no trained locale writes the same.

    Args:
        examples: dates to train on, each written once
        held_out: dates in each of the splits val, unseen and test
        locales: CLDR locales that are trained on
        unseen_locale: the locale of the split unseen
        first_year: first year of the dates
        last_year: last year of the dates
        seed: what chooses dates, locales and formats

    """

    trainer_defaults: ClassVar[Mapping[str, Any]] = {"batch_tokens": 3000, "max_epochs": 5}
    validation_splits = ("val", "unseen")
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "unseen", "test")
    scoring = TextScoring(tokenize="char")
    families: ClassVar[tuple[TextFamily, ...] | str | None] = ("bleu", "chrf")

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        examples: Annotated[int, Ge(1)] = 20_000,
        held_out: Annotated[int, Ge(1)] = 1000,
        locales: list[str] = _LOCALES,
        unseen_locale: str = "pt",
        first_year: Annotated[int, Interval(ge=1000, le=9999)] = 1900,
        last_year: Annotated[int, Interval(ge=1000, le=9999)] = 2099,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__()
        if not locales or unseen_locale in locales:
            raise DataError(f"'locales' must name some, and not {unseen_locale!r}, the unseen one")
        self._locales = tuple(dict.fromkeys(locales))
        self._unseen_locale = unseen_locale
        self._years = first_year, last_year
        self._counts = {"train": examples, "val": held_out, "unseen": held_out, "test": held_out}
        self._seed = seed

    def prepare(self, workspace: Workspace) -> None:
        """Write the dates of all splits; the same arguments give the same texts everywhere."""
        settings = {
            "version": _VERSION,
            "babel": babel.__version__,
            "locales": [*self._locales, self._unseen_locale],
            "years": self._years,
            "counts": self._counts,
            "seed": self._seed,
        }
        self._origins = {split: [settings, split] for split in self._counts}
        self._keep(workspace, settings, self._encoded)

    def _encoded(self, loaded: Vocabularies | None) -> Encoded:
        written = self._written()
        texts, isos = written["train"]
        vocabularies = loaded or Vocabularies(Characters.train(texts), Characters.train(isos))
        splits = {
            split: PairSplit.encode(
                TextRows.of((text, [iso]) for text, iso in zip(*pairs, strict=True)), vocabularies
            )
            for split, pairs in written.items()
        }
        return Encoded(splits, vocabularies)

    def _written(self) -> dict[str, _Pairs]:
        """Return the texts and the ISO dates of every split."""
        chance = np.random.default_rng(self._seed)
        writers = self._writers(chance)
        dates = self._shuffled_dates(chance)
        return {
            split: self._draw(writers[split], dates, count) for split, count in self._counts.items()
        }

    def _writers(self, chance: np.random.Generator) -> dict[str, _Write]:
        calendar = Calendar((*self._locales, self._unseen_locale))

        def seen(when: date) -> str | None:
            locale, style = chance.integers(len(self._locales)), chance.integers(len(FORMATS))
            return calendar.write(when, self._locales[locale], FORMATS[style])

        def unseen(when: date) -> str | None:
            style = FORMATS[chance.integers(len(FORMATS))]
            text = calendar.write(when, self._unseen_locale, style)
            return None if text is None or calendar.writes(when, text, self._locales) else text

        return {"train": seen, "val": seen, "unseen": unseen, "test": seen}

    def _shuffled_dates(self, chance: np.random.Generator) -> Iterator[date]:
        dates = list(dates_between(*self._years))
        return (dates[place] for place in chance.permutation(len(dates)))

    def _draw(self, write: _Write, dates: Iterator[date], count: int) -> _Pairs:
        """Take dates until there are `count` rows; one that cannot be used is used nowhere."""
        texts: list[str] = []
        isos: list[str] = []
        for when in dates:
            if (text := write(when)) is not None:
                texts.append(text)
                isos.append(when.isoformat())
            if len(texts) == count:
                return texts, isos
        first, last = self._years
        raise DataError(
            f"the years {first} to {last} have too few dates for {sum(self._counts.values())} rows:"
            " widen 'first_year' and 'last_year', or lower 'examples' and 'held_out'"
        )
