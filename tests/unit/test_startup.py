"""What a worker makes sure of before it takes a job."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.errors import ServiceUnreachable, SetupError
from jobs.store import JobStore
from jobs.store.base import Memory
from jobs.workers import Worker
from worker.startup import refuse_a_name_in_use, refuse_eviction


def with_memory(policy: str, bound: int) -> JobStore:
    return cast(JobStore, SimpleNamespace(memory=lambda: Memory(policy, bound)))


@pytest.mark.parametrize("policy", ["", "noeviction", "volatile-lru", "volatile-ttl"])
def test_a_redis_that_keeps_what_it_has_is_taken(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_eviction(with_memory(policy, 1_000_000))
    assert not caplog.text


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_redis_that_throws_jobs_away_is_refused_and_warned_of_where_it_has_no_bound(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SetupError, match=rf"{policy}\); set it to noeviction: redis-cli CONFIG"):
        refuse_eviction(with_memory(policy, 1_000_000))
    refuse_eviction(with_memory(policy, 0))
    assert policy in caplog.text
    assert "set it to noeviction" in caplog.text


def test_a_redis_that_does_not_say_how_it_is_set_up_is_taken_as_it_is() -> None:
    def refuse() -> Memory:
        raise ServiceUnreachable("this user of the service may not do that")

    refuse_eviction(cast(JobStore, SimpleNamespace(memory=refuse)))


class Register:
    """Answer who lives, one list after the other; the last one stays."""

    def __init__(self, *answers: list[Worker]) -> None:
        self._answers = list(answers)

    def workers(self) -> list[Worker]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


ME = Worker(id="w3", host="here", pid=2)


def said(seen: float, **fields: Any) -> list[Worker]:
    other = Worker(id="other", seen=seen)
    return [other, Worker(**{"id": "w3", "host": "there", "pid": 7, "seen": seen, **fields})]


@pytest.mark.parametrize("answers", [[[]], [said(1.0)], [said(1.0), said(1.0), []]])
def test_a_name_that_nobody_answers_to_any_more_is_free(answers: list[list[Worker]]) -> None:
    refuse_a_name_in_use(cast(JobStore, Register(*answers)), ME, patience=0.1)


def test_a_name_that_another_worker_answers_to_is_refused() -> None:
    store = cast(JobStore, Register(said(1.0), said(1.0), said(2.0)))
    with pytest.raises(SetupError, match=r"'w3' runs already, on there \(pid 7\); give .* --name"):
        refuse_a_name_in_use(store, ME, patience=20)
