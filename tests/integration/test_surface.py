"""What people import: the public names, and what naming them does not load."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jobs

ROOT = Path(__file__).parents[2]
ROOTS = ("jobs", "worker", "lightning_modules", "datamodules")
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
        *("TrainSpec", "EvaluateSpec", "ExportSpec", "PredictSpec", "GenerateSpec", "CompareSpec"),
        "Component",
        *("TrainerOptions", "Resources", "Policy", "SearchOptions"),
        *("Job", "JobState", "MetricPoint", "Progress", "Reason"),
        *("Registry", "Model", "Version", "Event"),
        *("UnrollError", "SpecError", "UnknownJob", "NotAllowed", "ServiceUnreachable"),
        *("UnknownModel", "UnknownSchedule", "WaitTimeout"),
        *("JobFailed", "ArtifactError", "SetupError"),
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


def run_alone(code: str) -> str:
    """Return what a new interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_a_verb_that_is_asked_for_is_alone_imported() -> None:
    code = (
        "import sys; from jobs.cli import main; assert main(['predict', '--help']) == 0\n"
        "print(sorted(each for each in sys.modules if each.startswith('jobs.verbs.')))"
    )
    said = run_alone(code).splitlines()[-1]
    assert "jobs.verbs.using" in said
    assert "jobs.verbs.schedules" not in said
    assert "jobs.verbs.comparing" not in said


def test_reaching_redis_leaves_its_asyncio_half_for_who_asks_for_it() -> None:
    code = (
        "import sys, jobs.connection, jobs.broker, jobs.store\n"
        "print('redis.asyncio.client' in sys.modules, 'celery' in sys.modules)\n"
        "import redis.asyncio\n"
        "print(redis.asyncio.Redis.__module__, redis.asyncio.client.Redis is redis.asyncio.Redis)\n"
        "from redis.asyncio import NoSuchName"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ended.stdout.split() == ["False", "False", "redis.asyncio.client", "True"]
    assert "cannot import name 'NoSuchName'" in ended.stderr


def test_using_the_client_loads_no_torch(tmp_path: Path) -> None:
    code = (
        f"import os; os.environ['UNROLL_HOME'] = {str(tmp_path)!r}\n"
        "os.environ.pop('UNROLL_REDIS_URL', None)\n"
        "from jobs.cli import main; assert main(['ls']) == 3\n"
        "import jobs.store, jobs.broker, jobs.demo"
    )
    assert loaded(code) & {"torch", "lightning", "numpy"} == set()


def asked_for(names: list[str]) -> set[str]:
    """Return the distributions that a light install brings, by what each asks for in turn."""
    found: set[str] = set()
    ahead = [Requirement(name) for name in names]
    while ahead:
        each = ahead.pop()
        name = canonicalize_name(each.name)
        wanted = each.marker is None or each.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            ahead += map(Requirement, metadata.requires(name) or [])
    return found


def test_the_light_client_does_with_what_it_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = asked_for(project["dependencies"])
    missing = [
        package
        for package, homes in metadata.packages_distributions().items()
        if package not in ROOTS and there.isdisjoint(map(canonicalize_name, homes))
    ]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"  # importing these now fails
        "import jobs.cli, jobs.client, jobs.demo, jobs.store, jobs.watching\n"
        "assert all(jobs.cli.cli.commands.values())\n"  # imports each verb
        "from jobs.broker import make_app\n"
        "make_app('redis://nowhere').connection().transport"  # what the first bell loads
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert {"torch", "lightning"} <= set(missing)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("module", ["worker.app", "worker.__main__", "worker.handback"])
def test_the_control_side_loads_no_torch(module: str) -> None:
    code = (
        f"import {module}, sys\n"
        "heavy = {'torch', 'lightning', 'numpy', 'worker.runner', 'lightning_modules'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.stderr == b""
