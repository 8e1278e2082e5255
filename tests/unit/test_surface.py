"""What people import: the public names, and what naming them does not load."""

import subprocess
import sys
from pathlib import Path

import pytest

import jobs

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "redis", "celery", "kombu", "rich", "numpy")


def loaded(code: str) -> set[str]:
    """Return which of the heavy packages a fresh interpreter has loaded after the code."""
    report = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(ended.stdout.splitlines()[-1].split() if ended.stdout.strip() else [])


@pytest.mark.parametrize("name", jobs.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(jobs, name).__name__ == name
    assert name in dir(jobs)


def test_the_public_names_are_a_decision() -> None:
    assert set(jobs.__all__) == {
        *("Client", "JobHandle", "Result", "Hypothesis"),
        *("TrainSpec", "EvaluateSpec", "PredictSpec", "Component"),
        *("TrainerOptions", "Resources", "Policy", "SearchOptions"),
        *("Job", "JobState", "MetricPoint", "Progress", "Reason"),
        *("UnrollError", "SpecError", "UnknownJob", "NotAllowed", "ServiceUnreachable"),
        *("WaitTimeout", "JobFailed", "ArtifactError", "SetupError"),
    }
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = jobs.Clinet


@pytest.mark.parametrize(
    "code",
    [
        "import jobs; jobs.Client; jobs.TrainSpec; jobs.JobHandle",
        "from jobs.cli import main; assert main(['--help']) == 0",
        "from jobs.cli import main; assert main(['submit', '--help']) == 0",
    ],
)
def test_naming_things_and_asking_for_help_load_nothing_heavy(code: str) -> None:
    assert loaded(code) == set()


def test_using_the_client_loads_no_torch(tmp_path: Path) -> None:
    code = (
        f"import os; os.environ['UNROLL_HOME'] = {str(tmp_path)!r}\n"
        "os.environ.pop('UNROLL_REDIS_URL', None)\n"
        "from jobs.cli import main; assert main(['ls']) == 3\n"
        "import jobs.store, jobs.broker, jobs.demo"
    )
    assert loaded(code) & {"torch", "lightning", "numpy"} == set()
