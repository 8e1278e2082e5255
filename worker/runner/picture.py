"""Pictures of attention: what each written symbol looked at."""

import io
import unicodedata
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Families that complete DejaVu Sans where the machine has them; others' symbols become boxes.
_FALLBACKS: Final = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Thai",
    "Noto Sans Bengali",
    "Noto Sans Devanagari",
    "WenQuanYi Zen Hei",
    "Unifont",
)
_INCHES_PER_SYMBOL: Final = 0.28
_LARGEST_INCHES: Final = 60.0


def draw_attention(
    source: Sequence[str], target: Sequence[str], weights: Sequence[Sequence[float]]
) -> bytes:
    """Return a PNG of the matrix: target symbols down, source symbols across."""
    # Imported here: it takes half a second, and only this one needs it.
    from matplotlib.figure import Figure  # noqa: PLC0415 (see above)

    figure = Figure(figsize=(_inches(len(source)), _inches(len(target))), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    _label(axes, source, target)
    png = io.BytesIO()
    with warnings.catch_warnings():
        # A symbol that no font here has is drawn as a box; the JSON beside the picture has it.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support \w+ nat")
        warnings.filterwarnings("ignore", message=r"constrained_layout not applied")
        figure.savefig(png, format="png")
    return png.getvalue()


def _inches(symbols: int) -> float:
    return min(1.5 + _INCHES_PER_SYMBOL * symbols, _LARGEST_INCHES)


def _label(axes: "Axes", source: Sequence[str], target: Sequence[str]) -> None:
    families = ["DejaVu Sans", *_installed()]
    axes.set_xticks(range(len(source)), [printable(symbol) for symbol in source])
    axes.set_yticks(range(len(target)), [printable(symbol) for symbol in target])
    axes.xaxis.tick_top()
    if max(map(len, source), default=0) > 2:
        axes.tick_params(axis="x", labelrotation=90)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)  # a dollar is a dollar
        label.set_fontfamily(families)


def _installed() -> list[str]:
    from matplotlib import font_manager  # noqa: PLC0415 (as above)

    names = {font.name for font in font_manager.fontManager.ttflist}
    return [family for family in _FALLBACKS if family in names]


def printable(symbol: str) -> str:
    """Return the symbol with what would be invisible, or break the line, made visible."""
    if symbol.isspace():
        return "␣" * len(symbol)
    return "".join(
        "·" if unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else each
        for each in symbol
    )
