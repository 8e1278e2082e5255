"""Pictures of attention, whatever the symbols are."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.runner.picture import draw_attention, printable


@pytest.mark.parametrize(
    "symbols",
    [
        ["a"],
        list("21. février"),
        list("二〇一九年"),
        list("٢١ فبراير"),
        ["▁Haus", "boot", "</s>"],
        ["$x_", "^{2}$", "\\frac"],
        ["🙂", "\u0301", "\x00", "\n", " "],
    ],
)
def test_a_picture_is_drawn_for_any_script(symbols: list[str]) -> None:
    weights = [[1 / len(symbols)] * len(symbols)] * 2
    png = draw_attention(symbols, ["a", "b"], weights)
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 100 <= height


def test_a_longer_input_makes_a_wider_picture() -> None:
    widths = []
    for length in (4, 40):
        png = draw_attention(["x"] * length, ["y"], [[1 / length] * length])
        widths.append(struct.unpack(">I", png[16:20])[0])
    assert widths[0] < widths[1]


@given(st.text(min_size=1, max_size=6))
def test_a_label_is_one_visible_line(symbol: str) -> None:
    shown = printable(symbol)
    assert len(shown) == len(symbol)
    assert shown.strip()
    assert len(shown.splitlines()) == 1
