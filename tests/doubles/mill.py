"""Workers whose jobs take no time: they train nothing, and evaluate and compare in earnest.

What a training has come to is said by the test, row by row, as sacrebleu counts the rows of a test
set; scores, resampling and the whole way of the jobs are the real ones.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.errors import SpecError
from jobs.job import Checkpoint, Job, Lease, Reason
from jobs.slicing import PROPERTIES_FACT, row_slice
from jobs.spec import CompareSpec, EvaluateSpec, TrainSpec, spec_from_dict
from jobs.store import JobStore
from jobs.workers import Worker
from lightning_modules._row_scores import RowScores
from worker.runner.resampling import paired_bootstrap

#: Returns what the model of a training says to each row of a set, as sacrebleu counts it.
Says = Callable[[Job, str], RowScores]

ROWS = 200
#: Numbers of a row: symbols said, symbols wanted, n-grams right (1 to 4), n-grams said (1 to 4).
LENGTH = 12


def system(share: float, seed: int = 0, rows: int = ROWS) -> RowScores:
    """Return a made-up system that gets this share of its words right."""
    rng = np.random.default_rng(seed)
    said = LENGTH - np.arange(4)
    right = np.array([rng.binomial(said[n], share ** (n + 1), rows) for n in range(4)])
    lengths = np.full((2, rows), LENGTH)
    return RowScores("bleu", np.vstack([lengths, right, np.tile(said[:, None], rows)]).T * 1.0)


@dataclass
class Mill:
    """Take every job that is queued, and end it."""

    store: JobStore
    says: Says
    #: What the test set holds, in words; another text is another digest.
    test_set: str = "frozen"
    #: Ends of trainings that do not succeed, by job; and so many resamples.
    failing: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    resamples: int = 200
    #: Of each row of any set, what slices go by.
    properties: dict[str, list[Any]] = field(
        default_factory=lambda: {"length": [1 + row % 30 for row in range(ROWS)]}
    )
    worker: Worker = field(default_factory=lambda: Worker(id="mill", store="store"))

    def turn(self) -> int:
        """End every job that is queued; return how many there were."""
        ended = 0
        while found := self.store.acquire(self.worker, ttl=60):
            self.end(*found)
            ended += 1
        return ended

    def end(self, job: Job, lease: Lease) -> None:
        """End one job."""
        if job.id in self.failing:
            reason, message = self.failing[job.id]
            self.store.finish(lease, reason, message=message)
            return
        spec = spec_from_dict(job.spec)
        if isinstance(spec, TrainSpec):
            self.store.publish(lease, Checkpoint(f"{job.id}.ckpt", "0" * 64, 10, 1), best=True)
        try:
            result = self.result(spec)
        except SpecError as error:
            self.store.finish(lease, Reason.USER_ERROR, message=str(error))
        else:
            self.store.finish(lease, Reason.SUCCEEDED, result=result)

    def result(self, spec: Any) -> dict[str, Any]:
        """Return what a job comes to."""
        if isinstance(spec, EvaluateSpec):
            digest = hashlib.sha256(f"{self._set(spec)} {self.test_set}".encode()).hexdigest()
            score = self.rows(spec).score()
            scores = {f"{spec.split}/bleu": score, f"{spec.split}/loss": 1.0}
            return {**scores, "split_digest": digest, PROPERTIES_FACT: list(self.properties)}
        if isinstance(spec, CompareSpec):
            first, second = (self._evaluated(job) for job in (spec.first, spec.second))
            if spec.slice:
                rows = row_slice(spec.slice).of(self.properties)
                first, second = first.of_rows(rows), second.of_rows(rows)
            found = paired_bootstrap(first, second, self.resamples, spec.seed, spec.confidence)
            significant = found.is_significant(spec.confidence)
            figures = {name: getattr(found, name) for name in ("difference", "low", "high", "p")}
            scores = {"first": first.score(), "second": second.score(), "rows": len(first)}
            return {**figures, **scores, "significant": significant}
        return {"val/bleu": 1.0}

    def rows(self, spec: EvaluateSpec) -> RowScores:
        """Return what an evaluation finds."""
        return self.says(self.store.get(spec.job), self._set(spec))

    def _evaluated(self, job: str) -> RowScores:
        spec = spec_from_dict(self.store.get(job).spec)
        assert isinstance(spec, EvaluateSpec)
        return self.rows(spec)

    @staticmethod
    def _set(spec: EvaluateSpec) -> str:
        return f"{spec.split} {spec.data.get('test', '')}".strip()
