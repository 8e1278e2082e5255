"""docs/lease-protocol.md says what the code does: its tables are held to the scripts."""

import re
from importlib import resources
from pathlib import Path

import pytest

from jobs.job import COUNTED_RETRIES, FREE_RETRIES, TRANSITIONS, Reason
from jobs.keys import KEYS
from jobs.spec import Policy
from jobs.store.scripts import load
from worker.settings import Clocks

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "lease-protocol.md").read_text(encoding="utf-8")
FOLDER = resources.files("jobs.store") / "lua"
#: Of models, schedules, sweeps and webhooks, which hold no lease.
_OTHERS = ("common", "model_", "schedule_", "generation_", "sweep_", "hook_")
SCRIPTS = sorted(file.name for file in FOLDER.iterdir() if not file.name.startswith(_OTHERS))
#: Groups that a role may write to; a looker writes nothing.
GROUPS = {"submitter": {"ask"}, "worker": {"ask", "run"}, "looker": set()}


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    section = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def body(script: str) -> str:
    return (FOLDER / script).read_text(encoding="utf-8")


def test_the_transitions_are_those_of_the_code() -> None:
    told = {(before, after) for before, after, _, _ in table("Transitions")}
    assert told == {(str(a), str(b)) for a, after in TRANSITIONS.items() for b in after}


def test_a_transition_is_made_by_scripts_that_name_its_state() -> None:
    for _, after, by, _ in table("Transitions"):
        for script in words(by):
            # Ends and queueing are shared; what leads to a state says its word, or calls who does.
            called = "".join(re.findall(r"\b(?:settle|conclude|enqueue)\b", body(script)))
            assert f"'{after}'" in body(script) or called, (after, script)


def test_every_script_is_there_with_its_role_and_its_fence() -> None:
    rows = table("Who may write what")
    assert sorted(words(row[0])[0] for row in rows) == SCRIPTS
    groups = {key.name: key.group for key in KEYS}
    for cell, role, fenced, _ in rows:
        script = words(cell)[0]
        source = load(script.removesuffix(".lua"))
        assert {groups[key] for key in source.written} <= GROUPS[role], script
        is_fenced = "fence(A.id, A.attempt)" in body(script)
        assert is_fenced == ("attempt" in source.arguments) == (fenced == "yes"), script


INVARIANTS = table("Invariants")


@pytest.mark.parametrize("row", INVARIANTS, ids=[row[0][:50] for row in INVARIANTS])
def test_an_invariant_stands_in_its_script_and_has_its_test(row: list[str]) -> None:
    _, script, line, test = row
    assert words(line)[0] in body(words(script)[0])
    machine = re.search(r"`M` is\n`([^`]+)`", DOCUMENT)
    assert machine is not None
    file, _, name = (machine[1] if test == "M" else words(test)[0]).partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_script_that_writes_keeps_some_invariant() -> None:
    kept = {script for row in INVARIANTS for script in words(row[1])}
    shared = {"renew.lua", "put_file.lua"}  # the fence is all that they keep
    alone = {"announce.lua", "withdraw.lua", "offer.lua"}  # of workers, not of jobs
    writes = {each for each in SCRIPTS if load(each.removesuffix(".lua")).written}
    assert writes - shared - alone <= kept


def test_the_clocks_are_those_of_a_worker() -> None:
    for cell, seconds, _ in table("Time"):
        assert getattr(Clocks(), words(cell)[0]) == float(seconds)


def test_the_indices_are_keys() -> None:
    names = {key.name for key in KEYS}
    assert {words(row[0])[0] for row in table("What is kept")} <= names


def test_the_retries_are_those_of_the_reasons() -> None:
    free, counted, none, _ = table("Retries")
    reasons = set(Reason) - {Reason.SUCCEEDED, Reason.CANCELLED}
    assert {Reason(word) for word in free[0].split(", ")} == FREE_RETRIES
    assert {Reason(word.split()[0]) for word in counted[0].split(", ")} == COUNTED_RETRIES
    final = {Reason(word) for word in none[0].split(", ")}
    assert final == reasons - FREE_RETRIES - COUNTED_RETRIES | {Reason.NAN}
    policy = Policy()
    assert f"({policy.retry_seconds:g} s)" in counted[1]
    assert f"({policy.retry_max_seconds:g} s)" in counted[1]
