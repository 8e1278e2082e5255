"""The proof under faults in its short form; `make chaos` is the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.chaos.faults import KINDS
from tests.benchmarks.chaos.plan import draw
from tests.benchmarks.chaos.specs import SHAPES

ROOT = Path(__file__).parents[2]
#: One of each, but for those that differ by length only, or wait for long.
SHORT = (
    "worker killed",
    "worker stopped",
    "worker stopped, then killed",
    "host vanished",
    "host cut off",
    "replies cut",
    "guard killed",
    "runner killed",
    "rank killed",
    "redis killed",
    "client killed",
    "published checkpoint altered",
)
ZERO = (
    "lost",
    "ended_twice",
    "overlapping_writes",
    "stale_accepted",
    "processes_left",
    "repeated_points",
    "missing_points",
    "max_loss_difference",
)


@pytest.mark.timeout(900)  # a minute where nothing else runs
def test_nothing_is_lost_doubled_or_left_behind() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.chaos", "--jobs", "20"]
    command += ["--faults", str(len(SHORT)), "--kinds", *SHORT]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as chaos:
        try:
            said, _ = chaos.communicate()
        finally:
            chaos.terminate()
    figures = json.loads(said.splitlines()[-1])
    assert (figures["submitted"], figures["ended"]) == (20, 20), said
    assert {name: figures[name] for name in ZERO} == dict.fromkeys(ZERO, 0), said
    assert figures["faults"] == len(SHORT), said
    assert figures["stale_tried"] > 0
    assert chaos.returncode == 0, said


def test_a_plan_is_its_seed_s() -> None:
    def plan(seed: int) -> object:
        return draw(seed, 300, 200, kinds=list(KINDS), shapes=list(SHAPES))

    assert plan(7) == plan(7)
    assert plan(7) != plan(8)
