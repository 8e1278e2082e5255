"""Sweeps: each trial of each rung is one job, whoever moves it on, and the best come first."""

import json
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from jobs.cli import main
from jobs.client import Client
from jobs.errors import NotAllowed, SpecError
from jobs.job import JobState, Reason
from jobs.spec import Component, Policy, TrainerOptions, TrainSpec
from jobs.store import JobStore
from jobs.sweeps import Sweep, Sweeps
from jobs.verbs.sweeping import _reported
from tests.unit.test_catalog import CATALOG

if TYPE_CHECKING:
    from tests.integration.conftest import Hand

Meanwhile = Callable[[Callable[[], Any]], AbstractContextManager[None]]
SPEC = TrainSpec(
    model=Component("m", {"size": 1}), data=Component("d"), trainer=TrainerOptions(max_epochs=9)
)


def end_with(hand: "Hand", losses: dict[int, float]) -> list[dict[str, Any]]:
    """End the jobs that wait, each with the loss of its size; return their specs."""
    specs = []
    while taken := hand.store.acquire(hand.worker, 60):
        job, lease = taken
        specs.append(dict(job.spec))
        hand.publish(lease)
        loss = losses[job.spec["model"]["size"]]
        if math.isnan(loss):
            hand.store.finish(lease, Reason.USER_ERROR, message="it failed")
        else:
            hand.store.finish(lease, Reason.SUCCEEDED, result={"val/loss": loss})
    return specs


def test_a_grid_is_a_set_of_jobs_with_a_tag_and_a_table(person: Client, hand: "Hand") -> None:
    begun = person.sweep(SPEC, ["model.size=1,2,3"])
    jobs = person.list()
    assert [job.tags for job in jobs] == [(f"sweep:{begun.id}",)] * 3
    end_with(hand, {1: 0.5, 2: 0.2, 3: math.nan})
    found = person.sweeps.advance(begun.id)
    assert found.closed
    rows = person.sweeps.rows(found)
    assert [row.values["model.size"] for row in rows] == [2, 1, 3]
    assert [row.score for row in rows[:2]] == [0.2, 0.5]
    assert math.isnan(rows[2].score)
    assert [row.job.state for row in rows if row.job] == ["succeeded", "succeeded", "failed"]


def test_halving_lets_the_best_go_on_from_their_checkpoints(person: Client, hand: "Hand") -> None:
    losses = {size: 1.0 / size for size in range(1, 10)}
    axes = [f"model.size={','.join(map(str, losses))}"]
    begun = person.sweep(SPEC, axes, halving=True)
    assert begun.stops == [1, 3, 9]
    first = end_with(hand, losses)
    assert [each["trainer"] for each in first] == [{"max_epochs": 9, "stop_after": 1}] * 9
    assert not any("resume_from" in each for each in first)
    second = person.sweeps.advance(begun.id)
    specs = end_with(hand, losses)
    assert [each["model"]["size"] for each in specs] == [7, 8, 9]
    assert [each["resume_from"] for each in specs] == [begun.rungs[0][n] for n in ("6", "7", "8")]
    assert {each["trainer"]["stop_after"] for each in specs} == {3}
    person.sweeps.advance(begun.id)
    (last,) = end_with(hand, losses)
    assert last["resume_from"] == second.rungs[1]["8"]
    assert last["trainer"] == {"max_epochs": 9, "stop_after": 9}
    over = person.sweeps.advance(begun.id)
    assert over.closed
    rows = person.sweeps.rows(over)
    assert [(row.trial, row.rung) for row in rows[:4]] == [(8, 3), (7, 2), (6, 2), (5, 1)]


def test_a_rung_waits_for_its_last_trial_and_leaves_failures_behind(
    person: Client, hand: "Hand"
) -> None:
    begun = person.sweep(SPEC, ["model.size=1,2,3"], halving=True, eta=2)
    assert begun.stops == [1, 2, 4, 9]
    lease = hand.take()
    end_with(hand, {1: math.nan, 2: math.nan, 3: math.nan})
    assert len(person.sweeps.advance(begun.id).rungs) == 1
    hand.publish(lease)
    hand.store.finish(lease, Reason.SUCCEEDED, result={"val/loss": 1.0})
    assert list(person.sweeps.advance(begun.id).rungs[1]) == ["0"]


def test_a_sweep_whose_trials_all_failed_is_over(person: Client, hand: "Hand") -> None:
    begun = person.sweep(SPEC, ["model.size=1,2,3"], halving=True)
    end_with(hand, {1: math.nan, 2: math.nan, 3: math.nan})
    assert person.sweeps.advance(begun.id).closed


def test_many_that_move_a_sweep_on_at_once_begin_each_trial_once(
    person: Client, hand: "Hand"
) -> None:
    losses = {size: float(size) for size in range(1, 10)}
    begun = person.sweep(SPEC, [f"model.size={','.join(map(str, losses))}"], halving=True)
    end_with(hand, losses)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: person.sweeps.advance(begun.id), range(16)))
    assert all(each == found[0] for each in found)
    assert len(person.list()) == 9 + 3


@pytest.mark.parametrize("dies_at", range(4))
def test_whoever_goes_on_after_a_death_repeats_nothing(
    person: Client, hand: "Hand", monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    begun = 0
    create = type(person.store).create

    def mortal(store: Any, spec: Any, **more: Any) -> Any:
        nonlocal begun
        if begun == dies_at:
            raise KeyboardInterrupt
        begun += 1
        return create(store, spec, **more)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.store.submitting.Submitter.create", mortal)
        if dies_at == 3:
            patch.setattr(Sweeps, "_put", _put_once())
        with pytest.raises(KeyboardInterrupt):
            person.sweep(SPEC, ["model.size=1,2,3"])
    (found,) = person.sweeps.list()
    person.sweeps.advance_all()
    person.sweeps.advance_all()
    assert len(person.list()) == 3
    assert len(person.sweeps.get(found.id).jobs) == 3


def _put_once() -> Callable[[Sweeps, str, Sweep], bool]:
    put, times = Sweeps._put, 0

    def mortal(sweeps: Sweeps, before: str, after: Sweep) -> bool:
        nonlocal times
        times += 1
        if times == 2:
            raise KeyboardInterrupt
        return put(sweeps, before, after)

    return mortal


def test_a_sweep_that_is_cancelled_begins_nothing_more(person: Client, hand: "Hand") -> None:
    begun = person.sweep(SPEC, ["model.size=1,2,3"], halving=True)
    assert person.sweeps.cancel(begun.id).closed
    assert {job.state for job in person.list()} == {JobState.CANCELLED}
    assert len(person.sweeps.advance(begun.id).rungs) == 1


def test_one_combination_that_cannot_be_built_lets_nothing_be_queued(
    person: Client, hand: "Hand"
) -> None:
    hand.offer(CATALOG)
    spec = TrainSpec(model=Component("attention"), data=Component("text", {"root": "/d"}))
    with pytest.raises(SpecError, match=r"^model.hidden_size=0, model.cell=gru: .*at least 1"):
        person.sweep(spec, ["model.hidden_size=12,0", "model.cell=gru,lstm"])
    assert person.list() == []
    assert person.sweeps.list() == []


def test_halving_needs_trials_of_one_length(person: Client, hand: "Hand") -> None:
    with pytest.raises(SpecError, match="trials of one length"):
        person.sweep(SPEC, ["trainer.max_epochs=9,27"], halving=True)
    with pytest.raises(SpecError, match="no worker has said its default"):
        person.sweep(
            TrainSpec(model=Component("m"), data=Component("d")), ["model.size=1,2"], halving=True
        )
    assert person.list() == []


@pytest.mark.parametrize("metric", ["bleu", "test/bleu"])
def test_trials_are_ranked_by_what_a_training_reports(person: Client, metric: str) -> None:
    with pytest.raises(SpecError, match=f"write val/bleu, not '{metric}'"):
        person.sweep(SPEC, ["model.size=1,2"], metric=metric)
    assert person.sweeps.list() == []


def test_a_metric_that_no_trial_reports_is_said_beside_the_table(
    person: Client, hand: "Hand"
) -> None:
    begun = person.sweep(SPEC, ["model.size=1,2"], metric="val/blue")
    assert _reported(person.sweeps.rows(begun)) == "", "none has ended"
    end_with(hand, {1: 0.5, 2: 0.2})
    assert _reported(person.sweeps.rows(begun)) == "val/loss"
    other = person.sweep(SPEC, ["model.size=1,2"])
    end_with(hand, {1: 0.5, 2: math.nan})
    assert _reported(person.sweeps.rows(other)) == ""


def test_a_sweep_is_ranked_anew_by_another_metric(
    person: Client,
    hand: "Hand",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun = person.sweep(SPEC, ["model.size=1,2"], metric="val/blue")
    end_with(hand, {1: 0.5, 2: 0.2})
    monkeypatch.setattr("jobs.verbs.sweeping.Client", lambda home: nullcontext(person))
    assert main(["sweep", "show", begun.id, "--metric", "val/loss", "--json"]) == 0
    assert [each["trial"] for each in json.loads(capsys.readouterr().out)["rows"]] == [1, 0]


def test_a_trial_that_failed_comes_last_however_far_it_came(person: Client, hand: "Hand") -> None:
    begun = person.sweep(SPEC, ["model.size=1,2,3"], halving=True)
    end_with(hand, {1: 3.0, 2: 2.0, 3: 1.0})
    second = person.sweeps.advance(begun.id)
    assert [row.trial for row in person.sweeps.rows(second)] == [2, 1, 0], "it may yet be the best"
    end_with(hand, {3: math.nan})
    rows = person.sweeps.rows(person.sweeps.advance(begun.id))
    assert [(row.trial, row.rung) for row in rows] == [(1, 1), (0, 1), (2, 2)]


def test_a_sweep_that_is_refused_leaves_nothing_and_holds_up_no_other(
    person: Client, hand: "Hand"
) -> None:
    failed = person.submit(SPEC).id
    hand.fail(Reason.USER_ERROR)
    with pytest.raises(SpecError, match=f"job {failed}, .* ended as failed"):
        person.sweep(replace(SPEC, after=(failed,)), ["model.size=1,2"])
    assert person.sweeps.list() == []
    assert [job.id for job in person.list()] == [failed]


def test_a_sweep_that_cannot_begin_any_more_is_over_and_says_why(
    person: Client,
    hand: "Hand",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = person.submit(SPEC).id
    hand.fail(Reason.USER_ERROR)
    # Its client left between the record and the first job, and meanwhile another job failed.
    late = replace(SPEC, after=(failed,)).to_dict()
    person.sweeps._put("", Sweep("00000000", [{"model.size": 1}], [late], "val/loss"))
    healthy = person.sweep(SPEC, ["model.size=1,2,3"], halving=True)
    end_with(hand, {1: 1.0, 2: 2.0, 3: 3.0})
    person.sweeps.advance_all()
    assert len(person.sweeps.get(healthy.id).rungs) == 2
    refused = person.sweeps.get("00000000")
    assert refused.closed
    assert f"job {failed}, which this one would wait for, ended as failed" in refused.refusal
    monkeypatch.setattr("jobs.verbs.sweeping.Client", lambda home: nullcontext(person))
    assert main(["sweep", "show", refused.id]) == 0
    assert refused.refusal in capsys.readouterr().err


@pytest.mark.parametrize("record", ["[]", '{"id": 1}', "no JSON"])
def test_a_sweep_that_cannot_be_read_holds_up_no_other(
    person: Client, hand: "Hand", caplog: pytest.LogCaptureFixture, record: str
) -> None:
    person.sweeps._put("", Sweep("00000000", [], [], "val/loss"))
    person.sweeps._client.hset(person.sweeps.keys("sweeps"), "00000000", record)
    begun = person.sweep(SPEC, ["model.size=1,2,3"], halving=True)
    end_with(hand, {1: 1.0, 2: 2.0, 3: 3.0})
    with caplog.at_level(logging.ERROR):
        person.sweeps.advance_all()
    assert "sweep 00000000: a step failed" in caplog.text
    assert len(person.sweeps.get(begun.id).rungs) == 2


def test_what_a_later_version_says_of_a_sweep_is_passed_over(person: Client) -> None:
    begun = person.sweep(SPEC, ["model.size=1,2"])
    key = person.sweeps.keys("sweeps")
    said = person.sweeps._client.hget(key, begun.id).decode()
    person.sweeps._client.hset(key, begun.id, said[:-1] + ',"colour":"red"}')
    assert person.sweeps.get(begun.id) == begun


@pytest.mark.parametrize("how", ["after", "after_ended", "resume_from", "warm_from"])
def test_a_rung_that_goes_on_needs_nothing_but_the_one_before(
    person: Client, hand: "Hand", how: str
) -> None:
    first = person.submit(SPEC).id
    spec = replace(SPEC, **{how: (first,) if how.startswith("after") else first})
    begun = person.sweep(spec, ["model.size=1,2,3"], halving=True)
    hand.train()
    hand.store.sweep(60)
    begins = end_with(hand, {1: 1.0, 2: 2.0, 3: 3.0})
    assert all(how in each for each in begins)
    person.get(first).remove()
    assert len(person.sweeps.advance(begun.id).rungs) == 2


def test_what_is_over_is_read_no_more_and_forgotten_with_its_jobs(
    person: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = 1_000_000
    store = JobStore(person.store._client, person.store.keys.namespace, lambda: time)
    sweeps = store.beside(Sweeps)
    specs = [replace(SPEC, policy=Policy(keep_days=days)) for days in (1.0, 2.0)]
    going = sweeps.create([{"model.size": 1}], specs[:1], "val/loss")
    over = sweeps.cancel(sweeps.create([{"a": 1}, {"a": 2}], specs, "val/loss").id)
    assert over.closed
    assert not over.specs
    assert len(over.trials) == 2
    advanced: list[str] = []
    monkeypatch.setattr(Sweeps, "advance", lambda _, sweep: advanced.append(sweep))
    time += 2 * 86_400_000 - 1
    sweeps.advance_all()
    assert advanced == [going.id]
    assert {each.id for each in sweeps.list()} == {going.id, over.id}
    time += 1
    sweeps.advance_all()
    assert [each.id for each in sweeps.list()] == [going.id]


def test_a_sweep_that_is_not_there_says_so(person: Client) -> None:
    with pytest.raises(NotAllowed, match="there is no sweep 'nobody'"):
        person.sweeps.get("nobody")
