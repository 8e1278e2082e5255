"""What an attempt starts from."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError, SpecError, UnknownJob
from jobs.job import Checkpoint, Job, JobState
from jobs.spec import AnySpec, CompareSpec, Component, EvaluateSpec, PredictSpec, TrainSpec
from worker.devices import Share
from worker.folder import Attempt, AttemptFolder
from worker.inputs import Inputs, Unusable
from worker.settings import Settings

TRAIN = TrainSpec(model=Component("m"), data=Component("d", {"root": "here", "test": "one"}))


class Bench:
    def __init__(self, path: Path) -> None:
        self.artifacts = ArtifactStore(path / "store")
        self.path = path
        self.jobs: dict[str, Job] = {}
        self.settings = Settings(home=path, roots=(path / "data",), url="")

    def checkpoint(self, step: int, *, torn: bool = False) -> Checkpoint:
        file = self.path / "file"
        file.unlink(missing_ok=True)
        file.write_text(f"torn {step}" if torn else f"step {step}")
        key = f"jobs/any/step-{step}.ckpt"
        self.artifacts.put(key, file)
        digest = hashlib.sha256(f"step {step}".encode()).hexdigest()
        return Checkpoint(key, digest, step, 1)

    def job(self, spec: AnySpec, job: str = "job", **fields: object) -> Job:
        record = Job(job, spec.kind, JobState.RUNNING, spec.to_dict())
        self.jobs[job] = replace(record, **fields)  # type: ignore[arg-type]
        return self.jobs[job]

    def get(self, job: str) -> Job:
        if job not in self.jobs:
            raise UnknownJob(job)
        return self.jobs[job]

    def lay(
        self, job: Job, get: Callable[[str], Job] | None = None, **more: Any
    ) -> tuple[AttemptFolder, Attempt, list[str]]:
        inputs = Inputs(job, 3, get=get or self.get, artifacts=self.artifacts, **more)
        folder, attempt = inputs.lay(self.settings, Share((2,), 1, 4))
        return folder, attempt, inputs.notes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def start_of(attempt: Attempt) -> str:
    assert attempt.checkpoint is not None
    return Path(attempt.checkpoint).read_text()


def test_a_first_attempt_starts_from_nothing(bench: Bench) -> None:
    folder, attempt, notes = bench.lay(bench.job(TRAIN))
    assert folder.path == bench.path / "attempts" / "job" / "0003"
    assert folder.read_attempt() == attempt
    assert folder.read_spec() == TRAIN
    assert attempt == Attempt(
        "job", 3, (str(bench.path / "data"),), str(bench.path / "cache"), 4, 1, (2,)
    )
    assert not notes


def test_an_attempt_is_laid_once(bench: Bench) -> None:
    bench.lay(bench.job(TRAIN))
    with pytest.raises(FileExistsError):
        bench.lay(bench.job(TRAIN))


def test_a_later_attempt_goes_on_from_the_newest_checkpoint(bench: Bench) -> None:
    job = bench.job(TRAIN, best=bench.checkpoint(1), checkpoint=bench.checkpoint(2))
    _, attempt, _ = bench.lay(job)
    assert start_of(attempt) == "step 2"


def test_of_earlier_attempts_only_what_is_small_is_kept(bench: Bench) -> None:
    job = bench.job(TRAIN, checkpoint=bench.checkpoint(2))
    earlier = AttemptFolder(bench.settings.attempts / "job" / "0001")
    earlier.lay(TRAIN, Attempt("job", 1, roots=(), cache=""))
    for large in (earlier.start_checkpoint, earlier.checkpoints / "step-1.ckpt"):
        large.write_text("large")
    earlier.log_file.write_text("small")
    _, attempt, _ = bench.lay(job)
    assert not list(earlier.path.rglob("*.ckpt"))
    assert earlier.log_file.exists()
    assert start_of(attempt) == "step 2"


def test_what_it_starts_from_stays_when_the_job_lets_go_of_it(bench: Bench) -> None:
    newest = bench.checkpoint(2)
    _, attempt, _ = bench.lay(bench.job(TRAIN, checkpoint=newest))
    bench.artifacts.remove(newest.artifact)
    assert start_of(attempt) == "step 2"


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_a_damaged_checkpoint_is_told_of_and_an_older_one_serves(bench: Bench, how: str) -> None:
    best, before = bench.checkpoint(1), bench.checkpoint(3)
    newest = bench.checkpoint(4, torn=how == "torn")
    if how == "gone":
        bench.artifacts.remove(newest.artifact)
    job = bench.job(TRAIN, best=best, previous=before, checkpoint=newest)
    _, attempt, notes = bench.lay(job)
    assert start_of(attempt) == "step 3"
    assert "the checkpoint of step 4 (jobs/any/step-4.ckpt) is" in notes[0]
    assert notes[1] == "going on from the checkpoint of step 3"


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_what_remembers_a_best_model_that_is_damaged_is_not_gone_on_from(
    bench: Bench, how: str
) -> None:
    before, best = bench.checkpoint(1), bench.checkpoint(3, torn=how == "torn")
    if how == "gone":
        bench.artifacts.remove(best.artifact)
    newest = bench.checkpoint(4)
    inputs = Inputs(
        bench.job(TRAIN, best=best, previous=before, checkpoint=newest),
        3,
        get=bench.get,
        artifacts=bench.artifacts,
    )
    _, attempt = inputs.lay(bench.settings, Share((2,), 1, 4))
    assert start_of(attempt) == "step 1"
    assert inputs.unusable == [newest, best]
    assert "step 3 (jobs/any/step-3.ckpt) is gone or damaged: it was the best" in inputs.notes[0]


@pytest.mark.parametrize("with_best", [False, True])
def test_a_store_that_is_away_costs_no_checkpoint(bench: Bench, with_best: bool) -> None:
    newest, best = bench.checkpoint(2), bench.checkpoint(1)
    bench.artifacts.root.rename(bench.path / "unmounted")
    job = bench.job(TRAIN, checkpoint=newest, best=best if with_best else None)
    with pytest.raises(ArtifactError, match="the store is not there") as error:
        bench.lay(job)
    assert not isinstance(error.value, Unusable)


def test_with_all_of_its_checkpoints_damaged_a_job_starts_anew(bench: Bench) -> None:
    torn = bench.checkpoint(2, torn=True)
    folder, attempt, notes = bench.lay(bench.job(TRAIN, best=torn, checkpoint=torn))
    assert attempt.checkpoint is None
    assert not folder.start_checkpoint.exists()
    assert notes


def test_a_job_may_go_on_from_another_s_newest(bench: Bench) -> None:
    bench.job(TRAIN, "old", best=bench.checkpoint(5), checkpoint=bench.checkpoint(9))
    spec = replace(TRAIN, resume_from="old")
    assert start_of(bench.lay(bench.job(spec))[1]) == "step 9"


def test_a_job_may_begin_with_the_best_model_of_another(bench: Bench) -> None:
    bench.job(TRAIN, "old", best=bench.checkpoint(5), checkpoint=bench.checkpoint(9))
    warm = replace(TRAIN, warm_from="old")
    assert start_of(bench.lay(bench.job(warm))[1]) == "step 5"
    begun = bench.job(warm, "begun", checkpoint=bench.checkpoint(12))
    assert start_of(bench.lay(begun)[1]) == "step 12"


def test_its_own_progress_comes_before_what_it_went_on_from(bench: Bench) -> None:
    bench.job(TRAIN, "old", checkpoint=bench.checkpoint(9))
    job = bench.job(replace(TRAIN, resume_from="old"), checkpoint=bench.checkpoint(12))
    assert start_of(bench.lay(job)[1]) == "step 12"


def test_an_evaluation_uses_the_best_model_and_its_spec_with_what_is_said_otherwise(
    bench: Bench,
) -> None:
    bench.job(TRAIN, "old", best=bench.checkpoint(5), checkpoint=bench.checkpoint(9))
    _, attempt, _ = bench.lay(bench.job(EvaluateSpec(job="old", data={"test": "two"})))
    assert start_of(attempt) == "step 5"
    assert attempt.trained == {
        **TRAIN.to_dict(),
        "data": {"name": "d", "root": "here", "test": "two"},
    }


def test_without_a_best_one_the_newest_model_is_used(bench: Bench) -> None:
    bench.job(TRAIN, "old", checkpoint=bench.checkpoint(9))
    _, attempt, _ = bench.lay(bench.job(PredictSpec(job="old", lines=["x"])))
    assert start_of(attempt) == "step 9"
    assert attempt.trained == TRAIN.to_dict()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "was removed"),
        (TRAIN, "has no checkpoint"),
        (EvaluateSpec(job="x"), "is no training"),
    ],
)
def test_a_job_that_leaves_no_model_is_refused_in_one_line(
    bench: Bench, other: AnySpec | None, words: str
) -> None:
    if other is not None:
        bench.job(other, "old")
    for spec in (EvaluateSpec(job="old"), replace(TRAIN, resume_from="old")):
        job = bench.job(spec, f"new-{spec.kind}")
        with pytest.raises(SpecError, match=words) as caught:
            bench.lay(job)
        assert "\n" not in str(caught.value)


def test_a_model_that_is_replaced_while_it_is_fetched_is_asked_for_again(bench: Bench) -> None:
    gone, there = bench.checkpoint(1), bench.checkpoint(2)
    bench.artifacts.remove(gone.artifact)
    bench.job(TRAIN, "old", checkpoint=gone)
    asked: list[str] = []

    def get(job: str) -> Job:
        asked.append(job)
        if len(asked) > 2:
            bench.job(TRAIN, "old", checkpoint=there)
        return bench.get(job)

    _, attempt, _ = bench.lay(bench.job(EvaluateSpec(job="old")), get)
    assert start_of(attempt) == "step 2"


def test_a_model_that_stays_away_is_told_of(bench: Bench) -> None:
    gone = bench.checkpoint(1)
    bench.artifacts.remove(gone.artifact)
    bench.job(TRAIN, "old", checkpoint=gone)
    with pytest.raises(ArtifactError, match="is gone"):
        bench.lay(bench.job(EvaluateSpec(job="old")))


def test_a_spec_that_cannot_be_read_is_refused(bench: Bench) -> None:
    job = replace(bench.job(TRAIN), spec={"kind": "dance"})
    with pytest.raises(SpecError, match="dance"):
        bench.lay(job)


def attempt_notes(bench: Bench, number: int) -> list[str]:
    inputs = Inputs(bench.job(TRAIN), number, get=bench.get, artifacts=bench.artifacts)
    inputs.lay(bench.settings, Share((), 1, 1))
    return inputs.notes


def test_data_that_changes_between_two_attempts_is_told_of_once(bench: Bench) -> None:
    folder = bench.path / "data" / "here"
    folder.mkdir(parents=True)
    for name in ("train.de", "val.de"):
        (folder / name).write_text("one")
    assert attempt_notes(bench, 1) == attempt_notes(bench, 2) == []
    (folder / "train.de").write_text("three")
    (folder / "test.de").write_text("new")
    assert attempt_notes(bench, 4) == [
        (
            f"the data in {folder} changed since attempt 2: test.de, train.de; "
            "what was learned before is of the old data"
        )
    ]
    assert attempt_notes(bench, 5) == []
    for number in range(9):
        (folder / f"{number}.de").write_text("new")
    assert ": 0.de, 1.de, 2.de, 3.de, 4.de and 4 more; " in attempt_notes(bench, 6)[0]


def test_data_outside_the_roots_is_not_looked_at(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.path / "data").mkdir()
    (bench.path / "data" / "here").symlink_to(outside)
    assert attempt_notes(bench, 1) == []
    (outside / "secret").write_text("x")
    assert attempt_notes(bench, 2) == []
    assert not list((bench.path / "attempts").rglob("data.json"))


COMPARE = CompareSpec(first="one", second="other")


def evaluation(bench: Bench, job: str, **fields: Any) -> None:
    bench.job(EvaluateSpec(job="t"), job, **{"state": JobState.SUCCEEDED, "attempt": 2, **fields})


def test_a_comparison_starts_from_the_rows_of_two_evaluations(bench: Bench) -> None:
    evaluation(bench, "one")
    evaluation(bench, "other")
    file = bench.path / "rows"
    file.write_text("rows of one")
    bench.artifacts.put("jobs/one/attempt-0002/files/sentences.jsonl", file)
    asked: list[tuple[str, str]] = []

    def read_file(job: str, name: str) -> bytes:  # what another store has comes through Redis
        asked.append((job, name))
        return b"rows of another"

    folder, attempt, _ = bench.lay(bench.job(COMPARE), read_file=read_file)
    assert [each.read_text() for each in folder.evaluations] == ["rows of one", "rows of another"]
    assert asked == [("other", "sentences.jsonl")]
    assert (attempt.checkpoint, attempt.trained) == (None, None)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "evaluation other was removed"),
        ({"state": JobState.FAILED}, r"job other \(evaluate, failed\) is no evaluation that has"),
        ({"kind": "train"}, r"job other \(train, succeeded\) is no evaluation that has succeeded"),
        ({}, "evaluation other keeps no rows to compare"),
    ],
)
def test_what_cannot_be_compared_is_said(
    bench: Bench, other: dict[str, Any] | None, message: str
) -> None:
    evaluation(bench, "one")
    if other is not None:
        evaluation(bench, "other", **other)
    (bench.path / "rows").write_text("rows")
    key = "jobs/one/attempt-0002/files/sentences.jsonl"
    bench.artifacts.put(key, bench.path / "rows")
    with pytest.raises(SpecError, match=message):
        bench.lay(bench.job(COMPARE))
