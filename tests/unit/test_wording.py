"""Text of any script reaches people; what acts on their terminal does not."""

import json
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from jobs.errors import SpecError
from jobs.intake import checked
from jobs.job import MetricPoint
from jobs.spec import Component, TrainSpec
from jobs.verbs.common import print_json, print_table
from jobs.verbs.looking import point_line
from jobs.wording import escaped, one_line, printable

NAMES = [
    "naïve Übersetzung",
    "nai\u0308ve with a combining mark",
    "مترجم\u200cها",  # noqa: RUF001 - Persian, with a joiner
    "תרגום",
    "अनुवाद \u0915\u094d\u200d\u0937",  # Hindi, likewise
    "翻訳\u3000二",  # an ideographic space
    "перевод",
    "👩\u200d🔬 \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\u200eleft to right",
]


def spec(name: str) -> TrainSpec:
    return TrainSpec(model=Component("m"), data=Component("d"), name=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_may_be_called_so_in_any_script(name: str) -> None:
    assert checked(spec(name)).name == name
    assert printable(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "a\rb",
        "\x1b[31mred",
        "a\tb",
        "\x9b31m",
        "a\u2028b",
        "\u202egnp.exe",
        "\u2066a",
        "\x7f",
    ],
)
def test_a_name_that_acts_on_a_terminal_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"name: .* holds a character that cannot be printed"):
        checked(spec(name))


@given(st.text())
def test_what_is_printed_controls_nothing(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(each) for each in shown if each != "\t"} <= ALLOWED
    assert len(one_line(text).splitlines()) <= 1


ALLOWED = {
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Zs", "Cf", "Co", "Cn"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"),
}


@given(st.text())
def test_json_says_the_same_and_controls_nothing(text: str) -> None:
    said = escaped(json.dumps(text, ensure_ascii=False))
    assert json.loads(said) == text
    assert printable(said) == said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_shown_and_its_json_is_strict(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    point = MetricPoint("train/loss", value, 3, 1, 1, 0.0, 7)
    print_json([point, {"nested": [value]}])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert (read[0]["value"], read[1]) == (None, {"nested": [None]})
    assert str(value) in point_line(point)


def test_tables_stay_straight_in_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "STATE"], [[name, "queued"] for name in ("abc", "翻訳", "nai\u0308ve")])
    lines = capsys.readouterr().out.splitlines()
    places = {cell_len(line[: line.index(line.split()[-1])]) for line in lines}
    assert places == {7}
