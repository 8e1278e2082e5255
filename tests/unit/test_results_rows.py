"""The rows of `make results`: what they may say, what makes one stale, and the tables of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import SetupError, SpecError
from tests.benchmarks.results import ROOT, Places, chosen, rewrite_tables, state_of, write
from tests.benchmarks.rows import Metric, Row, read_rows
from tests.benchmarks.tables import BEGIN, END, full, short

SPEC = """
[model]
name = "many_to_one"

[data]
name = "labelled_text"
root = "data/letters/small"
"""
LETTERS = {
    "title": "letters",
    "spec": "letters.toml",
    "seeds": [1, 2],
    "metrics": [
        {"name": "test/bleu", "show": "{:.1f} BLEU", "mark": 20},
        {"name": "test/loss", "show": "{:.2f} nats", "mark": 1, "better": "less"},
        {"name": "test/bleu", "show": "{:.1f} BLEU", "of": "beam"},
    ],
    "evaluations": {"beam": {"search": {"beam": 5}}},
    "published": "99 BLEU | elsewhere",
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path)
    for folder in (places.specs, places.results):
        folder.mkdir(parents=True)
    (places.specs / "letters.toml").write_text(SPEC)
    for file in (tmp_path / "README.md", places.results / "README.md"):
        file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return places


def seed(bleu: float, loss: float, beam: float, key: str = "one") -> dict[str, Any]:
    """Return what came of one seed."""
    return {
        "key": key,
        "epochs": 2,
        "seconds": 3.0,
        "attempts": 1,
        "training": {"parameters": 1234567},
        "evaluations": {
            "test": {"test/bleu": bleu, "test/loss": loss, "step": 7},
            "beam": {"test/bleu": beam},
        },
        "curves": {"val/bleu": [1.0, bleu]},
    }


def row(**changes: Any) -> Row:
    return Row.read("letters", {**LETTERS, **changes})


def test_the_rows_of_the_project_can_all_be_read() -> None:
    places = Places(ROOT)
    rows = read_rows(places.rows)
    assert {"tinyshakespeare", "names", "trec", "snips", "multi30k-attention"} <= rows.keys()
    for each in rows.values():
        assert len(each.digest(places.specs)) == 16
        assert all(metric.show.format(0.5) for metric in each.metrics)
        for training in each.trainings(places.specs):
            assert (
                training.on(Path("/somewhere"))
                .data.params.get("root", "/somewhere")
                .startswith("/somewhere")
            )


def test_the_root_of_a_spec_lies_below_the_folder_of_data(places: Places) -> None:
    training = row().trainings(places.specs)[1]
    assert training.spec.seed == 2
    assert training.on(Path("/sets")).data.params["root"] == "/sets/letters/small"


def test_a_key_is_made_of_what_the_spec_says_and_of_nothing_else(places: Places) -> None:
    one, two = (each.key for each in row().trainings(places.specs))
    assert one != two
    spec = places.specs / "letters.toml"
    spec.write_text(f"# said otherwise\n{SPEC}")
    assert row(title="other words").trainings(places.specs)[0].key == one
    assert row(set=["model.layers=2"]).trainings(places.specs)[0].key != one


def test_what_decides_the_figures_decides_whether_a_row_is_done(places: Places) -> None:
    digest = row().digest(places.specs)
    assert row(title="other words", published="").digest(places.specs) == digest
    changes: list[dict[str, Any]] = [
        {"seeds": [1]},
        {"set": ["trainer.lr=0.1"]},
        {"evaluations": {"beam": {"search": {"beam": 6}}}},
    ]
    for change in changes:
        assert row(**change).digest(places.specs) != digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a]\ntitel = 'x'", "row a takes no titel"),
        ("[a]\ntitle = 'x'", "row a: 'metrics'"),
        ("[a]\ntitle='x'\nspec='s'\nmetrics=[{nam='b'}]", "unexpected keyword argument 'nam'"),
        (
            "[a]\ntitle='x'\nspec='s'\nbeside='b'\nmetrics=[{name='t'}]",
            "row a stands beside 'b', which is no row",
        ),
        (
            "[a]\ntitle='x'\nspec='s'\nmetrics=[{name='t', of='b'}]",
            "row a has no evaluation 'b'",
        ),
        ("[a", "rows.toml: "),
    ],
)
def test_a_bad_row_is_one_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "rows.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        read_rows(tmp_path / "rows.toml")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_chosen_by_name() -> None:
    rows = {"letters": row()}
    assert chosen(rows, []) == [rows["letters"]] == chosen(rows, ["letters"])
    with pytest.raises(SpecError, match="no row is called 'leters'; did you mean 'letters'"):
        chosen(rows, ["leters"])


@pytest.mark.parametrize(
    ("metric", "reached", "missed", "target"),
    [
        (Metric(name="a", mark=0.5, show="{:.0%} right"), 0.5, 0.49, "≥ 50% right"),
        (Metric(name="a", mark=1.5, better="less"), 1.5, 1.51, "≤ 1.5000"),
    ],
)
def test_a_mark_is_reached_or_missed(
    metric: Metric, reached: float, missed: float, target: str
) -> None:
    assert metric.reached(reached)
    assert not metric.reached(missed)
    assert metric.target == target


def test_what_was_measured_stands_in_both_tables(places: Places) -> None:
    seeds = {"1": seed(30.0, 1.0, 31.0), "2": seed(10.0, 1.5, 33.0)}
    assert state_of(places, row()) == "open"
    write(places, row(), seeds, {"copying": {"test/bleu": 5.25}})
    assert state_of(places, row()) == "done"
    rewrite_tables(
        places, {"letters": row(), "open": Row.read("open", {**LETTERS, "title": "not yet"})}
    )
    readme = (places.root / "README.md").read_text().splitlines()
    assert (readme[0], readme[-1]) == ("before", "after")
    (line,) = [line for line in readme if "`letters`" in line]
    cells = [cell.strip() for cell in line.replace(r"\|", "/").split("|")[1:-1]]
    assert cells == [
        "`letters`",
        "letters",
        "many_to_one",
        "20.0 BLEU (30.0, 10.0); 1.25 nats (1.00, 1.50); beam: 32.0 BLEU (31.0, 33.0)",
        "≥ 20.0 BLEU ✓; ≤ 1.00 nats **missed**",
        "copying: 5.2 BLEU; 99 BLEU / elsewhere",
    ]
    section = (places.results / "README.md").read_text()
    assert "1,234,567 parameters" in section
    assert "`val/bleu` by epoch, seed 2: 1 10" in section
    assert "not yet" not in section + "".join(readme)


def test_a_recipe_that_changes_remembers_what_it_had_read_of_test(places: Places) -> None:
    write(places, row(), {"1": seed(30.0, 1.0, 31.0)}, {})
    more = {"1": seed(30.0, 1.0, 31.0), "2": seed(31.0, 1.0, 31.0, "two")}
    write(places, row(), more, {})
    assert json.loads(places.of(row()).read_text())["earlier"] == []
    other = row(set=["model.layers=2"])
    assert state_of(places, other) == "changed"
    write(places, other, {"1": seed(33.0, 1.0, 31.0, "other")}, {})
    found = json.loads(places.of(other).read_text())
    assert [each["mean"]["test/bleu"] for each in found["earlier"]] == [30.5]
    assert "earlier readings of test: " in full({"letters": other}, {"letters": found})


def test_rows_beside_another_and_comparisons_have_their_own_places(places: Places) -> None:
    write(places, row(), {"1": seed(30.0, 1.0, 31.0)}, {})
    found = json.loads(places.of(row()).read_text())
    rows = {
        "letters": row(published=""),
        "bag": Row.read("bag", {**LETTERS, "beside": "letters"}),
        "rnn": Row.read("rnn", {**LETTERS, "title": "tanh RNN", "comparison": "Cells"}),
    }
    lines = short(rows, dict.fromkeys(rows, found)).splitlines()
    assert len([line for line in lines if line.startswith("| `letters`")]) == 1
    assert not any(line.startswith("| `bag`") for line in lines)
    assert any("many_to_one: 30.0 BLEU; 1.00 nats; beam: 31.0 BLEU |" in line for line in lines)
    assert "Cells:" in lines
    assert any(line.startswith("| `rnn` | tanh RNN | 30.0 BLEU") for line in lines)


def test_a_file_without_a_place_for_the_table_is_told(places: Places) -> None:
    (places.root / "README.md").write_text("nothing")
    with pytest.raises(SetupError, match="lacks the lines"):
        rewrite_tables(places, {})
