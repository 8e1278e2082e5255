"""What was measured, as tables for people: a short one in README.md, all of it in docs/results."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from jobs import SetupError
from tests.benchmarks.rows import PLAIN, Metric, Row

BEGIN: Final = "<!-- results: begin (written by `make results`) -->"
END: Final = "<!-- results: end -->"
#: What was measured of a row, as its file holds it.
Measured = Mapping[str, Any]
#: Values of a learning curve that are shown; of a longer one, as many evenly spaced.
_SHOWN: Final = 12


def rewrite(file: Path, text: str) -> None:
    """Put the text between the file's two markers. Raise SetupError where they are missing."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SetupError(f"{file} lacks the lines {BEGIN} and {END} around its table")
    file.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def short(rows: Mapping[str, Row], measured: Mapping[str, Measured]) -> str:
    """Return the tables of the README."""
    main = [row for row in rows.values() if not row.beside and not row.comparison]
    lines = _table(
        ("row", "data and task", "topology", "reached", "mark", "beside it"),
        (
            (
                f"`{row.name}`",
                row.title,
                str(measured[row.name]["topology"]),
                _reached(row, measured[row.name]),
                _marks(row, measured[row.name]),
                _beside(row, rows, measured),
            )
            for row in main
            if row.name in measured
        ),
    )
    for name in dict.fromkeys(row.comparison for row in rows.values() if row.comparison):
        compared = [each for each in rows.values() if each.comparison == name]
        lines += ["", f"{name}:", "", *_comparison(compared, measured)]
    return "".join(f"{line}\n" for line in lines)


def full(rows: Mapping[str, Row], measured: Mapping[str, Measured]) -> str:
    """Return all that was measured, a section a row."""
    found = [(row, measured[row.name]) for row in rows.values() if row.name in measured]
    return "".join(f"{line}\n" for row, values in found for line in _section(row, values))


def _comparison(rows: Sequence[Row], measured: Mapping[str, Measured]) -> list[str]:
    there = [row for row in rows if row.name in measured]
    body = [
        (
            f"`{row.name}`",
            row.title,
            _reached(row, measured[row.name]),
            f"{_total(measured[row.name], 'seconds') / len(row.seeds):.0f} s",
            f"{measured[row.name]['parameters']:,}",
        )
        for row in there
    ]
    return _table(("row", "", "reached", "a training took", "parameters"), body)


def _section(row: Row, values: Measured) -> list[str]:
    seeds = values["seeds"]
    lines = [f"## `{row.name}`: {row.title}", ""]
    facts = [
        ("spec", _spec(row)),
        ("topology", f"{values['topology']}, {values['parameters']:,} parameters"),
        ("reached", _reached(row, values)),
        ("mark", _marks(row, values)),
        ("seeds", ", ".join(seeds)),
        ("epochs", ", ".join(str(each["epochs"]) for each in seeds.values())),
        ("seconds of training", ", ".join(f"{each['seconds']:.0f}" for each in seeds.values())),
        ("baselines", _baselines(row, values)),
        ("published", row.published),
        ("note", row.note),
        ("measured", f"{values['date']}, {values['machine']}, Unroll {values['version']}"),
        ("earlier readings of test", _earlier(row, values)),
    ]
    lines += [f"- {name}: {said}" for name, said in facts if said]
    lines += [f"- {line}" for line in _curves(row, values)]
    return [*lines, ""]


def _spec(row: Row) -> str:
    said = f"[{row.spec}](../specs/{row.spec})"
    return said + "".join(f", `{each}`" for each in row.set)


def value_of(metric: Metric, values: Measured) -> float | None:
    """Return the mean over the seeds; None where the evaluation did not give it."""
    found = _each(metric, values)
    return mean(found) if found else None


def _each(metric: Metric, values: Measured) -> list[float]:
    scores = [each["evaluations"][metric.of] for each in values["seeds"].values()]
    return [each[metric.name] for each in scores if metric.name in each]


def _reached(row: Row, values: Measured) -> str:
    said = []
    for metric in row.metrics:
        found = _each(metric, values)
        if found:
            name = "" if metric.of == PLAIN else f"{metric.of}: "
            field = re.findall(r"{.*?}", metric.show)[0]  # without the words around it
            spread = f" ({', '.join(map(field.format, found))})" if len(found) > 1 else ""
            said.append(f"{name}{metric.show.format(mean(found))}{spread}")
    return "; ".join(said)


def _marks(row: Row, values: Measured) -> str:
    said = []
    for metric in row.metrics:
        value = value_of(metric, values)
        if metric.target and value is not None:
            said.append(f"{metric.target} {'✓' if metric.reached(value) else '**missed**'}")
    return "; ".join(said)


def _beside(row: Row, rows: Mapping[str, Row], measured: Mapping[str, Measured]) -> str:
    others = [each for each in rows.values() if each.beside == row.name and each.name in measured]
    said = [
        f"{measured[each.name]['topology']}: {_reached(each, measured[each.name])}"
        for each in others
    ]
    said += filter(None, [_baselines(row, measured[row.name]), row.published])
    return "; ".join(said)


def _baselines(row: Row, values: Measured) -> str:
    metrics = [each for each in row.metrics if each.of == PLAIN]
    said = []
    for name, scores in values.get("baselines", {}).items():
        shown = [each.show.format(scores[each.name]) for each in metrics if each.name in scores]
        said.append(f"{name}: {', '.join(shown)}")
    return "; ".join(said)


def _earlier(row: Row, values: Measured) -> str:
    """Say what earlier recipes got: a test split that was read before is not read once."""
    said = []
    for each in values.get("earlier", ()):
        shown = [
            metric.show.format(each["mean"][metric.name])
            for metric in row.metrics
            if metric.name in each["mean"]
        ]
        said.append(f"{each['date']}: {', '.join(shown)}")
    return "; ".join(said)


def _curves(row: Row, values: Measured) -> Iterable[str]:
    for name in dict.fromkeys(metric.name.replace("test/", "val/") for metric in row.metrics):
        for seed, each in values["seeds"].items():
            if curve := each["curves"].get(name):
                shown = " ".join(f"{value:.4g}" for value in _evenly(curve))
                yield f"`{name}` by epoch, seed {seed}: {shown}"


def _evenly(curve: Sequence[float]) -> Sequence[float]:
    if len(curve) <= _SHOWN:
        return curve
    return [curve[round(at * (len(curve) - 1) / (_SHOWN - 1))] for at in range(_SHOWN)]


def _total(values: Measured, name: str) -> float:
    return sum(float(each[name]) for each in values["seeds"].values())


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in lines
    ]
