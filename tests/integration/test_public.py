"""The public names are a list, and reaching for one costs only what it needs."""

import subprocess
import sys

import pytest

import jobs

NAMES = """
ArtifactError Client CompareSpec Component EvaluateSpec Event ExportSpec GenerateSpec Hypothesis
Job JobFailed JobHandle JobState MetricPoint Model NotAllowed Policy PredictSpec Progress Reason
Registry Resources Result SearchOptions ServiceUnreachable SetupError SpecError TrainSpec
TrainerOptions UnknownJob UnknownModel UnknownSchedule UnrollError Version WaitTimeout
"""
PUBLIC = NAMES.split()


def test_the_public_names_are_these() -> None:
    assert sorted(jobs.__all__) == PUBLIC
    assert set(dir(jobs)) >= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(jobs, name).__name__ == name


def test_what_is_not_public_is_missed_as_usual() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Jobs'"):
        jobs.Jobs  # noqa: B018 - looking is the test


def loaded_after(code: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after some code."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import jobs", {"redis", "celery", "kombu", "annotated_types"}),
        ("import jobs; jobs.TrainSpec; jobs.Reason; jobs.SpecError", {"redis", "celery", "kombu"}),
        ("import jobs; jobs.Client; jobs.JobHandle", {"celery", "kombu"}),
        ("import jobs.store, jobs.artifacts, jobs.broker", {"celery", "kombu"}),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(code: str, absent: set[str]) -> None:
    loaded = loaded_after(code)
    assert "jobs" in loaded
    heavy = {"torch", "lightning", "torchmetrics", "numpy", "lightning_modules", "datamodules"}
    assert loaded & (absent | heavy) == set()
