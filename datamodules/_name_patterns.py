"""What a file's name says of what is in it: `7_theo_12` is `{label}_{speaker}_{index}`."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from datamodules._errors import DataError, DataFormatError

#: The part of a name that is what the model is to answer.
LABEL: Final = "label"


class NamePattern:
    """How a name holds several parts. Each is as short as the rest of the pattern allows.

    Raise DataError for what is no pattern, or has no part {label}.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        pieces = re.split(r"\{(.*?)\}", pattern)
        self.names: Sequence[str] = pieces[1::2]
        named = all(name.isidentifier() for name in self.names)
        if not named or LABEL not in self.names or len(set(self.names)) < len(self.names):
            raise DataError(
                f"'pattern' is {pattern!r}: it must name each part once, one of them {{label}};"
                " for 7_theo_12.wav it is '{label}_{speaker}_{index}'"
            )
        pieces[::2] = map(re.escape, pieces[::2])
        pieces[1::2] = [f"(?P<{name}>.+?)" for name in self.names]
        self._expression = re.compile("".join(pieces))

    def parts(self, name: str, where: str) -> dict[str, str]:
        """Return the parts of a name without its suffix. Raise DataFormatError if it is another."""
        if match := self._expression.fullmatch(name):
            return match.groupdict()
        raise DataFormatError(f"{where} is not named like {self._pattern!r} ('pattern')")


class NameRule:
    """Which names belong to a split: `index=0-4`, `speaker=theo,lucas`.

    Raise DataError, in the name of `parameter`, for what is no rule about one of `names`.
    """

    def __init__(self, rule: str, names: Sequence[str], parameter: str) -> None:
        self._part, _, values = rule.partition("=")
        if not values or self._part not in names:
            raise DataError(
                f"{parameter!r} is {rule!r}: it must be PART=VALUES with a part of 'pattern'"
                f" ({', '.join(names)}), such as index=0-4 or speaker=theo,lucas"
            )
        self._values = frozenset(values.split(","))
        bounds = [re.fullmatch(r"(\d{1,18})-(\d{1,18})", value) for value in self._values]
        self._ranges = [range(int(found[1]), int(found[2]) + 1) for found in bounds if found]

    def __call__(self, parts: Mapping[str, str]) -> bool:
        """Say whether a name of these parts belongs to the split."""
        value = parts[self._part]
        number = int(value) if re.fullmatch(r"\d{1,18}", value) else -1
        return value in self._values or any(number in each for each in self._ranges)
