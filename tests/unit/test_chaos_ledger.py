"""The ledger of the proof under faults sees what it is there to see."""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.client import Client
from jobs.errors import StaleToken
from jobs.job import Job, JobState
from jobs.store import JobStore
from tests.benchmarks.chaos import aof
from tests.benchmarks.chaos.damage import alter, cut_short
from tests.benchmarks.chaos.history import History, histories
from tests.benchmarks.chaos.ledger import Ledger, percentile
from tests.benchmarks.chaos.probe import Probe

JOB = "unroll:default:run:job:j1"
POINTS = "unroll:default:run:points:j1"


def write_log(folder: Path, commands: Iterable[tuple[str, ...]]) -> None:
    """Write commands as Redis does, with the marks of time between them."""
    words = [
        [word.encode() for word in command] for command in (("SELECT", "0"), *commands, ("EXEC",))
    ]
    log = b"#TS:1700000000\r\n".join(
        b"*%d\r\n%b" % (len(each), b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in each))
        for each in words
    )
    (folder / "a.1.incr.aof").write_bytes(log)
    manifest = "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\n"
    (folder / "a.manifest").write_text(manifest)


def history_of(folder: Path, *commands: tuple[str, ...]) -> History:
    write_log(folder, commands)
    return histories(aof.read(folder)).get("j1", History())


def taken(attempt: int) -> tuple[str, ...]:
    return ("HSET", JOB, "state", "running", "attempt", str(attempt), "worker", "w")


def over(state: str, reason: str) -> tuple[str, ...]:
    return ("HSET", JOB, "state", state, "round", "1", "reason", reason, "message", "")


def points(*attempts: int) -> tuple[str, ...]:
    lines = [json.dumps(["train/loss", 0.5, 1, 1, attempt, 0.0]) for attempt in attempts]
    return ("XADD", POINTS, "1-0", "text", "\n".join(lines))


def published(attempt: int) -> tuple[str, ...]:
    artifact = f"jobs/j1/attempt-{attempt:04d}/checkpoints/x.ckpt"
    return ("HSET", JOB, "checkpoint", json.dumps({"artifact": artifact}))


def test_what_every_job_does_is_in_order(tmp_path: Path) -> None:
    history = history_of(
        tmp_path,
        *(taken(1), points(1, 1), published(1), over("queued", "lost")),
        *(taken(2), points(2), published(2), over("succeeded", "succeeded")),
    )
    assert history.reasons == [(1, "lost"), (2, "succeeded")]
    assert (history.ends, history.overlapping, history.forged) == (1, 0, 0)


@pytest.mark.parametrize(
    "late",
    [
        [taken(2), points(1)],
        [taken(2), published(1)],
        [over("queued", "lost"), points(1)],
        [over("succeeded", "succeeded"), published(1)],
    ],
)
def test_who_writes_after_the_end_of_an_attempt_is_seen(
    tmp_path: Path, late: list[tuple[str, ...]]
) -> None:
    assert history_of(tmp_path, taken(1), points(1), *late).overlapping == 1


def test_an_older_checkpoint_may_count_again(tmp_path: Path) -> None:
    history = history_of(
        tmp_path, taken(1), published(1), over("queued", "lost"), taken(2), published(1)
    )
    assert history.overlapping == 0


def test_two_ends_of_a_job_are_two(tmp_path: Path) -> None:
    ends = [over("succeeded", "succeeded"), over("failed", "infrastructure")]
    assert history_of(tmp_path, taken(1), *ends).ends == 2


def test_a_forged_write_is_found_wherever_it_stands(tmp_path: Path) -> None:
    history = history_of(
        tmp_path,
        taken(1),
        ("HSET", "unroll:default:run:files:j1", "forged", "content"),
        ("XADD", "unroll:default:run:log:j1", "1-0", "text", "a forged line"),
    )
    assert history.forged == 2


class Refusing(JobStore):
    """Note which scripts are run, and refuse them all."""

    def __init__(self) -> None:
        self.tried: set[str] = set()

    def _pack(self, *_: Any) -> None:
        """Read nothing: there is no Redis."""

    def _run(self, script: str, /, **_: Any) -> Any:
        self.tried.add(script)
        raise StaleToken("refused")


def test_the_probe_tries_every_script_that_looks_at_the_token() -> None:
    lua = resources.files("jobs.store").joinpath("lua")
    fenced = {
        each.name.removesuffix(".lua")
        for each in lua.iterdir()
        if "fence(A.id, A.attempt)" in each.read_text(encoding="utf-8")
    }
    store = Refusing()
    probe = Probe(cast(Client, SimpleNamespace(store=store)))
    probe.look(Job("j1", "train", JobState.RUNNING, {}, attempt=2))
    assert store.tried == fenced
    assert not probe.accepted


@pytest.mark.parametrize("figure", ["lost", "stale_accepted", "max_loss_difference"])
def test_a_ledger_is_clean_only_where_everything_is_zero(figure: str) -> None:
    assert Ledger(submitted=3, ended=3).clean
    assert not Ledger(submitted=3, ended=2).clean
    assert not Ledger(**{"submitted": 3, "ended": 3, figure: 1}).clean


def test_files_are_damaged_where_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(10))
    alter(file, 0.55)
    assert file.read_bytes() == bytes(5) + b"\xff" + bytes(4)
    cut_short(file, 0.3)
    assert file.read_bytes() == bytes(3)


def test_a_percentile_of_one_is_that_one() -> None:
    assert percentile([2.5], 95) == 2.5
    assert percentile(list(range(101)), 95) == 95
