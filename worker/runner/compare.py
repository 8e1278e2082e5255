"""Compare: say whether the second of two evaluations is better than the first, or chance."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jobs.comparing import less_is_better, require_comparable
from jobs.errors import NotAllowed, SpecError
from jobs.files import EXAMPLES_FILE
from jobs.slicing import row_slice
from jobs.spec import CompareSpec
from lightning_modules._row_scores import RowScores
from worker.folder import write_atomically
from worker.runner.resampling import (
    Finding,
    approximate_randomisation,
    mcnemar,
    paired_bootstrap,
)
from worker.runner.sentences import Sentences
from worker.runner.task import Task

#: Resamples where the spec does not say, as sacrebleu has them.
_RESAMPLES: Final = {"bootstrap": 1_000, "approximate_randomisation": 10_000}


def compare(task: Task, spec: CompareSpec) -> dict[str, Any]:
    """Return difference, interval, p and verdict; the rows that changed most go into a file.

    Raise SpecError for evaluations that cannot be compared.
    """
    task.reporter.phase("comparing")
    first, second = (Sentences.read(each) for each in task.folder.evaluations)
    metric = _metric(spec, first, second)
    rows = row_slice(spec.slice).of(first.properties) if spec.slice else range(len(first.texts))
    one, other = (each.scores[metric].of_rows(rows) for each in (first, second))
    found = _test(spec, one, other)
    examples = _examples(spec, metric, first, second, rows)
    write_atomically(
        task.folder.files / EXAMPLES_FILE, json.dumps(examples, ensure_ascii=False).encode()
    )
    significant = found.is_significant(spec.confidence)
    return {
        "metric": metric,
        "first": one.score(),
        "second": other.score(),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "significant": significant,
        "better": _better(metric, found, significant=significant),
        "verdict": _verdict(spec, metric, found, _names(spec, first, second), len(one)),
        "method": spec.method,
        "resamples": found.resamples,
        "seed": spec.seed,
        "confidence": spec.confidence,
        "rows": len(one),
        **({"slice": spec.slice} if spec.slice else {}),
        "split_digest": first.facts["split_digest"],
    }


def _metric(spec: CompareSpec, first: Sentences, second: Sentences) -> str:
    try:
        metric = require_comparable(
            first.facts,
            second.facts,
            metric=spec.metric,
            across=spec.across,
            names=(spec.first, spec.second),
        )
    except NotAllowed as error:
        raise SpecError(str(error)) from None
    return metric


def _test(spec: CompareSpec, one: RowScores, other: RowScores) -> Finding:
    if spec.method == "mcnemar":
        return mcnemar(one, other, spec.seed, spec.confidence)
    test = paired_bootstrap if spec.method == "bootstrap" else approximate_randomisation
    resamples = spec.resamples or _RESAMPLES[spec.method]
    return test(one, other, resamples, spec.seed, spec.confidence)


def _better(metric: str, found: Finding, *, significant: bool) -> str:
    """Return which of the two is better: "first", "second", or nothing that chance does not do."""
    if not significant:
        return ""
    return "second" if (found.difference > 0) != less_is_better(metric) else "first"


def _names(spec: CompareSpec, first: Sentences, second: Sentences) -> dict[str, str]:
    """Return what people call the two: versions or trainings; evaluations where those are one."""
    called = [each.facts.get("version", each.facts.get("job")) for each in (first, second)]
    if None in called or called[0] == called[1]:
        called = [spec.first, spec.second]
    return {"first": called[0], "second": called[1]}


def _verdict(
    spec: CompareSpec, metric: str, found: Finding, names: Mapping[str, str], rows: int
) -> str:
    where = f" on {spec.slice} ({rows:,} rows)" if spec.slice else ""
    numbers = (
        f"{found.difference:+.4g} {metric}, {spec.confidence:.0%} interval {found.low:+.4g} to "
        f"{found.high:+.4g}, p = {found.p:.4f}"
    )
    better = _better(metric, found, significant=found.is_significant(spec.confidence))
    if found.difference == found.low == found.high == 0:
        return f"no difference at all{where}: {rows:,} rows have the same {metric}"
    if not better:
        return f"no difference that chance does not explain{where}: {numbers}"
    return f"{names[better]} is better{where}: {numbers}"


def _examples(
    spec: CompareSpec, metric: str, first: Sentences, second: Sentences, rows: Sequence[int]
) -> list[dict[str, Any]]:
    """Return those of the rows whose score by itself changed most, if it changed at all."""
    before, after = first.scores[metric].each(), second.scores[metric].each()
    changed = sorted(rows, key=lambda row: -abs(after[row] - before[row]))
    return [
        {
            "row": row,
            "source": first.texts[row].source,
            "references": first.texts[row].references,
            "first": first.texts[row].output,
            "second": second.texts[row].output,
            "first_score": float(before[row]),
            "second_score": float(after[row]),
        }
        for row in changed[: spec.examples]
        if before[row] != after[row]
    ]
