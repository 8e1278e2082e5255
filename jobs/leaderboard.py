"""Evaluations of one dataset in order, those alone together that can be compared."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.comparing import Comparable, interval_of, less_is_better, metric_of
from jobs.errors import NotAllowed
from jobs.job import Job

#: Letters of a digest by which a test set can be named.
_DIGEST: Final = 8


@dataclass(frozen=True)
class Standing:
    """One evaluation in its place."""

    #: `NAME@NUMBER` of a version, else the id of the training.
    model: str
    value: float
    #: Bounds of the interval, where the evaluation has one.
    interval: tuple[float, float] | None
    #: Id of the evaluation, and when it ended, in seconds since 1970.
    evaluation: str
    ended: float


@dataclass(frozen=True)
class Group:
    """Evaluations that may be ranked together, the best first."""

    metric: str
    #: What they have in common.
    common: Comparable
    standings: Sequence[Standing]

    @property
    def title(self) -> str:
        """Return what they have in common, as a line."""
        decoding = json.loads(self.common.decoding)
        search = f", beam {decoding['beam']}" if "beam" in decoding else ""
        signature = f", {self.common.signature}" if self.common.signature else ""
        digest = self.common.split_digest[:12]
        return f"test set {digest} ({self.common.rows} rows){search}{signature}"


@dataclass(frozen=True)
class Leaderboard:
    """All evaluations of one dataset."""

    #: The group with the newest evaluation first.
    groups: Sequence[Group]
    #: Evaluations that cannot be ranked at all, each with the reason.
    left_out: Mapping[str, str]


def rank(
    evaluations: Iterable[Job],
    dataset: str,
    metric: str = "",
    labels: Mapping[str, str] | None = None,
) -> Leaderboard:
    """Order the evaluations of a dataset: a kind of data, its root or the end of that, or a digest.

    Without a metric each goes by the one that its model was chosen by. Of several evaluations of
    one model in one group the newest stands. `labels` are what trainings are registered as, by
    their ids. Raise NotAllowed where there is none of the dataset, or none that has the metric.
    """
    found: dict[tuple[str, Comparable], dict[str, Standing]] = {}
    left_out: dict[str, str] = {}
    known: set[str] = set()
    for job in sorted(evaluations, key=lambda job: job.ended):
        row = job.result
        names = _names_of(row)
        known |= names
        if dataset not in names and not _begins(row, dataset):
            continue
        name = metric or str(row.get("metric", ""))
        try:
            key = name, Comparable.of(row, name)
            standing = _standing(job, name, labels or {})
        except NotAllowed as error:
            left_out[job.id] = str(error)
            continue
        group = found.pop(key, {})  # the group with the newest comes last
        group[row.get("checkpoint", job.id)] = standing
        found[key] = group
    if not found and not left_out:
        hint = f" (evaluated so far: {', '.join(sorted(known))})" if known else ""
        raise NotAllowed(f"nothing was evaluated on {dataset!r}{hint}; see `unroll evaluate`")
    if metric and not found:
        newest, why = [*left_out.items()][-1]
        raise NotAllowed(f"no evaluation on {dataset!r} ranks by {metric!r}: of {newest}, {why}")
    groups = [_group(*key, group.values()) for key, group in reversed(found.items())]
    return Leaderboard(groups, left_out)


def _names_of(row: Mapping[str, Any]) -> set[str]:
    """Return what people may call the data: its kind, its root, the last part of that."""
    data = row.get("data", {})
    root = str(data.get("root", "")).rstrip("/")
    return {each for each in (data.get("name"), root, root.rpartition("/")[2]) if each}


def _begins(row: Mapping[str, Any], dataset: str) -> bool:
    return len(dataset) >= _DIGEST and str(row.get("split_digest", "")).startswith(dataset)


def _standing(job: Job, metric: str, labels: Mapping[str, str]) -> Standing:
    row = job.result
    trained = row.get("job", job.id)
    return Standing(
        model=row.get("version") or labels.get(trained, trained),
        value=metric_of(row, metric),
        interval=interval_of(row, metric),
        evaluation=job.id,
        ended=job.ended,
    )


def _group(metric: str, common: Comparable, standings: Iterable[Standing]) -> Group:
    sign = 1 if less_is_better(metric) else -1
    ordered = sorted(standings, key=lambda each: (sign * each.value, -each.ended))
    return Group(metric, common, ordered)
