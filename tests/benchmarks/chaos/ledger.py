"""What a run has come to, seen from the outside: by the records, the files and Redis's own log."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError
from jobs.job import Job, JobState, MetricPoint
from jobs.store import JobStore
from tests.benchmarks.chaos import aof
from tests.benchmarks.chaos.cluster import Cluster
from tests.benchmarks.chaos.drive import Happened, Story
from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.history import History, histories
from tests.benchmarks.chaos.plan import PlannedJob

#: The values of a run by name and step; how fast it went is no value.
Values = Mapping[tuple[str, int], float]
_SPEED: Final = "train/tokens_per_second"

#: What must be zero.
MUST_BE_ZERO: Final = (
    "lost",
    "failed",
    "doubled",
    "ended_twice",
    "overlapping_writes",
    "stale_accepted",
    "processes_left",
    "repeated_points",
    "missing_points",
    "max_loss_difference",
    "models_missing",
)


@dataclass
class Ledger:
    """The figures of a run."""

    submitted: int = 0
    ended: int = 0
    #: Jobs that were acknowledged and have not come to an end.
    lost: int = 0
    #: Jobs that ended otherwise than they do undisturbed.
    failed: int = 0
    #: Jobs that nobody asked for: a submission that counted twice.
    doubled: int = 0
    ended_twice: int = 0
    overlapping_writes: int = 0
    stale_accepted: int = 0
    processes_left: int = 0
    repeated_points: int = 0
    missing_points: int = 0
    max_loss_difference: float = 0.0
    #: Jobs whose best model is not in the store, or is not the one that the result speaks of.
    models_missing: int = 0
    recovery_p50: float | None = None
    recovery_p95: float | None = None
    faults: int = 0
    attempts: int = 0
    stale_tried: int = 0
    #: Seconds from a fault to the next step, by group and by kind of fault.
    recovery: dict[str, list[float]] = field(default_factory=dict)
    #: Lines on what is not as it must be.
    remarks: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything is as it must be."""
        zeros = all(not getattr(self, name) for name in MUST_BE_ZERO)
        return zeros and self.submitted == self.ended

    def figures(self) -> dict[str, Any]:
        """Return the figures as plain values, the times of recovery in short."""
        plain = asdict(self)
        plain["recovery"] = {name: spread(each) for name, each in self.recovery.items()}
        del plain["remarks"]
        return plain


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return the number, the median, the 95th percentile and the longest of some times."""
    return {
        "count": len(seconds),
        "p50": round(percentile(seconds, 50), 2),
        "p95": round(percentile(seconds, 95), 2),
        "longest": round(max(seconds), 2),
    }


def percentile(values: Sequence[float], share: int) -> float:
    """Return the value that `share` percent of the values do not exceed."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def values_of(points: Iterable[MetricPoint]) -> dict[tuple[str, int], float]:
    """Return the values that must be the same whenever a job runs."""
    return {(each.name, each.step): each.value for each in points if each.name != _SPEED}


class Bookkeeper:
    """Fill in a ledger."""

    def __init__(
        self, cluster: Cluster, story: Story, undisturbed: Mapping[tuple[str, int], Values]
    ) -> None:
        self._cluster = cluster
        self._story = story
        self._undisturbed = undisturbed
        self._ledger = Ledger(
            submitted=len(story.ids), faults=len(story.happened), stale_tried=story.tried
        )

    def read_records(self, store: JobStore, others: int) -> None:
        """Compare what stands in the records; `others` jobs were there before the plan's."""
        ledger, artifacts = self._ledger, ArtifactStore(self._cluster.store_root)
        ledger.doubled = len(store.list(limit=1_000_000)) - others - len(self._story.ids)
        for planned, job in self._story.ids.items():
            record = store.get(job)
            ledger.ended += record.state.ended
            ledger.attempts += record.attempt
            if not record.state.ended:
                self._remark("lost", f"{job} is {record.state}: {store.why(job)}")
            elif record.state is not JobState.SUCCEEDED:
                self._remark("failed", f"{job} {record.reason}: {record.message}")
            else:
                self._compare(planned, job, store.metrics(job), artifacts)
                self._look_for_model(record, artifacts)

    def _remark(self, figure: str, line: str, count: int = 1) -> None:
        setattr(self._ledger, figure, getattr(self._ledger, figure) + count)
        self._ledger.remarks.append(f"{figure}: {line}")

    def _compare(
        self, planned: PlannedJob, job: str, points: Sequence[MetricPoint], files: ArtifactStore
    ) -> None:
        expected = self._undisturbed[planned.shape, planned.seed]
        found = values_of(points)
        counted = [each for each in points if each.name != _SPEED]
        if repeated := len(counted) - len(found):
            self._remark("repeated_points", f"{repeated} of {job}", repeated)
        if missing := len(expected.keys() ^ found.keys()):
            self._remark("missing_points", f"{missing} of {job}", missing)
        with files.open(f"jobs/{job}/metrics.jsonl") as file:
            if missing := abs(len(points) - len(file.readlines())):
                self._remark("missing_points", f"{missing} in the file of {job}", missing)
        difference = max(
            (_difference(found[each], expected[each]) for each in expected.keys() & found.keys()),
            default=0.0,
        )
        if difference:
            self._ledger.remarks.append(f"{job} differs by {difference} from {planned}")
        self._ledger.max_loss_difference = max(self._ledger.max_loss_difference, difference)

    def _look_for_model(self, record: Job, artifacts: ArtifactStore) -> None:
        step, best = record.result.get("best_step"), record.best
        if best is None or best.step != step:
            self._remark("models_missing", f"{record.id}: of step {step}; the record has {best}")
            return
        try:
            artifacts.check(best.artifact, best.digest)
        except ArtifactError as error:
            self._remark("models_missing", f"{record.id}: {error}")

    def read_processes(self, left: Sequence[int]) -> None:
        """Count what was at work where nothing may be any more."""
        for each in (*self._story.stragglers, *map(str, left)):
            self._remark("processes_left", f"process {each}")

    def read_history(self) -> None:
        """Look through everything that Redis has ever written down."""
        found = histories(aof.read(self._cluster.redis_folder))
        for job in self._story.ids.values():
            history = found.get(job, History())
            if history.ends > 1:
                self._remark("ended_twice", f"{job}, {history.ends} times")
            if history.overlapping:
                self._remark("overlapping_writes", f"of {job}", history.overlapping)
            if history.forged:
                self._remark("stale_accepted", f"forged writes to {job}", history.forged)
        for accepted in self._story.accepted:
            self._remark("stale_accepted", accepted)

    def close(self) -> Ledger:
        """Return the ledger, with the times of recovery."""
        recovery = self._ledger.recovery
        for happened in self._story.happened:
            kind = happened.fault.kind
            for seconds in _recoveries(happened, self._cluster):
                recovery.setdefault(KINDS[kind].group, []).append(seconds)
                recovery.setdefault(kind, []).append(seconds)
                recovery.setdefault("all", []).append(seconds)
        if every := recovery.pop("all", []):
            self._ledger.recovery_p50 = round(percentile(every, 50), 2)
            self._ledger.recovery_p95 = round(percentile(every, 95), 2)
        return self._ledger


def _difference(one: float, other: float) -> float:
    return 0.0 if one == other or (math.isnan(one) and math.isnan(other)) else abs(one - other)


def _recoveries(happened: Happened, cluster: Cluster) -> Iterable[float]:
    """Yield, for each job that a fault disturbed, the seconds to its next step.

    Where another attempt followed, that is the step that counts: the one before may go on unheard.
    """
    replaces = KINDS[happened.fault.kind].group != "held up"
    for job, attempt in happened.hit.attempts:
        steps = {
            number: [each for each in times if each > happened.time]
            for number, times in _steps(cluster, job).items()
            if number >= attempt
        }
        later = [each[0] for number, each in steps.items() if number > attempt and each]
        same = steps.get(attempt, [])[:1]
        counting = later if replaces and later else later + same
        if counting:
            yield min(counting) - happened.time


def _steps(cluster: Cluster, job: str) -> Mapping[int, list[float]]:
    """Return when each attempt of a job took its steps, by its own events."""
    found: dict[int, list[float]] = {}
    for host in cluster.hosts:
        for path in (host.home / "attempts" / job).glob("*/events.jsonl"):
            found[int(path.parent.name)] = list(_step_times(path))
    return found


def _step_times(path: Path) -> Iterable[float]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line: it was killed over it
            continue
        if event.get("name") == "train/loss":
            yield event["time"]
