"""What makes two evaluations comparable, read off their results; knows neither Redis nor torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.errors import NotAllowed, did_you_mean

#: An evaluation's result as it stands in its record.
Row = Mapping[str, Any]

#: Metrics of which less is better; of all others more is.
LESS_IS_BETTER: Final = frozenset(
    {"loss", "perplexity", "bits", "ter", "wer", "cer", "mse", "mae", "mse_original"}
    | {"mae_original", "label_loss", "step_loss", "slot_error"}
)
#: What rows of one comparison must have in common, and what people call it.
_COMMON: Final[Mapping[str, str]] = {
    "split_digest": "test sets",
    "rows": "numbers of rows",
    "decoding": "ways of decoding",
}
SENTENCES_FILE: Final = "sentences.jsonl"


@dataclass(frozen=True)
class Comparable:
    """What rows that may be ranked together have in common."""

    split_digest: str
    rows: int
    #: JSON of the search's options; `{}` where nothing is searched for.
    decoding: str
    #: How the metric was computed.
    signature: str

    @classmethod
    def of(cls, row: Row, metric: str) -> "Comparable":
        """Return what a row has. Raise NotAllowed where it does not say, or lacks the metric."""
        if "split_digest" not in row:
            raise NotAllowed("it does not say what it was scored on: evaluate the model again")
        if not row["split_digest"]:
            raise NotAllowed("its kind of data does not say what it holds, so that nobody knows")
        metric_of(row, metric)
        if metric not in row.get("row_metrics", [metric]):
            raise NotAllowed(
                f"{metric} does not follow from the rows that were kept (of these do: "
                f"{', '.join(row['row_metrics'])}); a newer evaluation may keep more"
            )
        decoding = json.dumps(row.get("decoding", {}), sort_keys=True)
        signature = row.get("signatures", {}).get(metric, "")
        return cls(row["split_digest"], row["rows"], decoding, signature)


def less_is_better(metric: str) -> bool:
    """Return whether the lower value of a metric, `loss` or `val/loss`, is the better one."""
    return metric.rpartition("/")[2] in LESS_IS_BETTER


def metric_of(row: Row, metric: str) -> float:
    """Return a metric of a row by its name without the split. Raise NotAllowed."""
    names = metrics_in(row)
    if metric not in names:
        raise NotAllowed(
            f"it has no metric {metric!r}{did_you_mean(metric, names)} (it has: {', '.join(names)})"
        )
    return float(row[f"{row['split']}/{metric}"])


def metrics_in(row: Row) -> Sequence[str]:
    """Return the names of all metrics of a row, without the split."""
    begin = f"{row.get('split', '')}/"
    return sorted(name.removeprefix(begin) for name in row if name.startswith(begin))


def interval_of(row: Row, metric: str) -> tuple[float, float] | None:
    """Return the interval of a metric, if the evaluation has one."""
    found = row.get("intervals", {}).get(f"{row['split']}/{metric}")
    return (float(found[0]), float(found[1])) if found else None


def require_comparable(
    first: Row, second: Row, *, metric: str, across: Sequence[str] = (), names: Sequence[str] = ()
) -> str:
    """Return the metric that two evaluations are compared by: the one given, or the first one's.

    Raise NotAllowed where they are not of one kind; the sentence says which field differs, and
    calls the two by their `names`.
    """
    names = names or ("the first", "the second")
    metric = metric or str(first.get("metric", ""))
    found = []
    for name, row in zip(names, (first, second), strict=True):
        try:
            found.append(Comparable.of(row, metric))
        except NotAllowed as error:
            raise NotAllowed(f"evaluation {name} cannot be compared: {error}") from None
    one, other = found
    for field, words in {**_COMMON, "signature": f"signatures of {metric}"}.items():
        values = getattr(one, field), getattr(other, field)
        if values[0] != values[1] and field not in across:
            raise NotAllowed(_refusal(names, field, words, values))
    return metric


def _refusal(names: Sequence[str], field: str, words: str, values: Sequence[Any]) -> str:
    shown = [str(each)[:16] if field == "split_digest" else str(each) for each in values]
    mend = "evaluate both alike"
    if field == "decoding":
        shown = list(_only_differences(*map(json.loads, values)))
        mend += ", or say `--across decoding` where that is what is to be compared"
    return (
        f"evaluations {names[0]} and {names[1]} cannot be compared: their {words} differ "
        f"({field} {shown[0]} and {shown[1]}); {mend}"
    )


def _only_differences(one: Row, other: Row) -> tuple[str, str]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    first, second = (
        ", ".join(f"{name}={row.get(name)}" for name in sorted(names)) for row in (one, other)
    )
    return first, second
