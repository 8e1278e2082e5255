"""The registry on a real Redis: a model of it in plain Python, and who comes at the same time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from jobs.artifacts import ArtifactStore
from jobs.errors import NotAllowed, SpecError, UnknownJob, UnknownModel
from jobs.job import Checkpoint, Reason
from jobs.registry import Registry
from jobs.spec import Component, EvaluateSpec, TrainSpec
from jobs.store import JobStore
from jobs.workers import Worker

SPEC = TrainSpec(model=Component("m", {"size": 3}), data=Component("d"), seed=7)
CHECKPOINT = Checkpoint("jobs/x/a.ckpt", "0" * 64, step=10, epoch=1, score=0.5)
TTL = 10.0


def trained(store: JobStore, checkpoint: Checkpoint | None = CHECKPOINT, place: str = "s") -> str:
    """Return a training that has succeeded."""
    job = store.create(SPEC)
    found = store.acquire(Worker(id="w", slots=9, free_slots=9, store=place), TTL)
    assert found is not None
    assert found[0].id == job.id
    if checkpoint:
        store.publish(found[1], checkpoint, best=True)
    store.finish(found[1], Reason.SUCCEEDED, result={"data_digest": "d" * 64})
    return job.id


@pytest.fixture
def registry(store: JobStore) -> Registry:
    return store.beside(Registry)


def test_a_version_is_what_was_trained(store: JobStore, registry: Registry) -> None:
    job = trained(store)
    first = registry.register("de-en", job, by="ann", note="a try")
    assert (first.number, first.job, first.label) == (1, job, "de-en@1")
    assert first.checkpoint == CHECKPOINT
    assert (first.by, first.note, first.parent, first.store) == ("ann", "a try", None, "s")
    assert first.data_digest == "d" * 64
    assert len(first.spec_digest) == 64
    second = registry.register("de-en", trained(store), by="ann", parent=1)
    assert (second.number, second.parent) == (2, 1)
    assert second.spec_digest == first.spec_digest
    assert registry.get("de-en").versions == (first, second)
    assert [each.name for each in registry.list()] == ["de-en"]


def test_the_same_job_again_is_the_same_version(store: JobStore, registry: Registry) -> None:
    job = trained(store)
    first = registry.register("de-en", job, by="ann")
    assert registry.register("de-en", job, by="bob", note="again") == first
    assert len(registry.history("de-en")) == 1
    assert registry.register("other", job, by="bob").number == 1


def test_the_first_version_is_no_champion_until_it_is_promoted(
    store: JobStore, registry: Registry
) -> None:
    registry.register("de-en", trained(store), by="ann")
    found = registry.get("de-en")
    assert (found.champion, found.challenger) == (None, 1)
    with pytest.raises(NotAllowed, match=r"de-en has no champion; name .* \(de-en@1\)"):
        registry.resolve("de-en")
    assert registry.resolve("de-en@challenger").number == registry.resolve("de-en@1").number == 1
    found = registry.promote("de-en", 1, expect=None, by="ann", reason="the only one")
    assert (found.champion, found.challenger) == (1, None)
    assert registry.resolve("de-en") == registry.resolve("de-en@champion") == found.version(1)


def test_the_trail_says_who_did_what_and_on_what_evidence(
    store: JobStore, registry: Registry
) -> None:
    for _ in range(3):
        registry.register("de-en", trained(store), by="night")
    registry.promote("de-en", 1, expect=None, by="ann")
    evidence = {"test/bleu": 31.25, "low": 30.1, "digests": ["a", "b"], "none": None, "n": 10**15}
    registry.promote("de-en", 2, expect=1, by="bob", reason="better", evidence=evidence)
    registry.keep("de-en", 3, by="night", reason="not significant", evidence={"p": 0.3})
    registry.rollback("de-en", by="ann", reason="it stutters")
    told = registry.history("de-en")
    assert [(each.by, each.action, each.version, each.before) for each in told] == [
        ("night", "registered", 1, None),
        ("night", "registered", 2, None),
        ("night", "registered", 3, None),
        ("ann", "promoted", 1, None),
        ("bob", "promoted", 2, 1),
        ("night", "kept", 3, 2),
        ("ann", "rolled_back", 1, 2),
    ]
    assert told[4].evidence == {**evidence, "files": "unchecked"}
    assert [each.reason for each in told[4:]] == ["better", "not significant", "it stutters"]
    assert registry.get("de-en").challenger is None
    assert [each.time for each in told] == sorted(each.time for each in told)


def test_rolling_back_again_goes_further_back(store: JobStore, registry: Registry) -> None:
    for number in range(1, 4):
        registry.register("m", trained(store), by="ann")
        registry.promote("m", number, expect=number - 1 or None, by="ann")
    assert registry.rollback("m", by="ann").champion == 2
    assert registry.rollback("m", by="ann").champion == 1
    with pytest.raises(NotAllowed, match="m has had no champion before version 1"):
        registry.rollback("m", by="ann")
    assert registry.promote("m", 3, expect=1, by="ann").champion == 3
    assert registry.rollback("m", by="ann").champion == 1


def test_of_two_promotions_one_is_refused_and_told_who_was_faster(
    store: JobStore, registry: Registry
) -> None:
    for _ in range(2):
        registry.register("m", trained(store), by="ann")
    registry.promote("m", 1, expect=None, by="ann@desk")
    with pytest.raises(
        NotAllowed,
        match=r"version 2 was not promoted: ann@desk promoted version 1 of m on 20.* UTC; look at",
    ):
        registry.promote("m", 2, expect=None, by="bob")
    with pytest.raises(NotAllowed, match="m@1 is the champion already"):
        registry.promote("m", 1, expect=1, by="bob")
    assert registry.get("m").champion == 1
    registry.register("n", trained(store), by="ann")
    with pytest.raises(NotAllowed, match="n has no champion yet, and version 1 was taken for it"):
        registry.promote("n", 1, expect=1, by="bob")


def test_of_twenty_promotions_at_once_one_counts(store: JobStore, registry: Registry) -> None:
    for _ in range(20):
        registry.register("m", trained(store), by="ann")
    together = threading.Barrier(20)

    def promote(number: int) -> bool:
        together.wait()
        try:
            registry.promote("m", number, expect=None, by=f"person {number}")
        except NotAllowed:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(promote, range(1, 21)))
    assert sum(won) == 1
    promoted = [each for each in registry.history("m") if each.action == "promoted"]
    assert [each.version for each in promoted] == [won.index(True) + 1]
    assert registry.get("m").champion == won.index(True) + 1


def test_of_two_roll_backs_at_once_one_counts(store: JobStore, registry: Registry) -> None:
    for number in range(1, 4):
        registry.register("m", trained(store), by="ann")
        registry.promote("m", number, expect=number - 1 or None, by="ann")
    other = store.beside(Registry)
    meet = threading.Barrier(2)
    for each in (registry, other):
        run = each._run
        # Both have seen the champion before either moves it.
        each._run = lambda *said, run=run, **more: (meet.wait(), run(*said, **more))[1]  # type: ignore[method-assign]

    def roll(one: Registry) -> str:
        try:
            one.rollback("m", by="ann")
        except NotAllowed as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(roll, (registry, other)))
    assert first == ""
    assert second.startswith("nothing was rolled back: ann rolled back to version 2 of m on")
    assert registry.get("m").champion == 2


def test_a_call_that_is_sent_twice_is_one_call(store: JobStore, registry: Registry) -> None:
    # A connection that breaks before the answer sends the same again.
    run = registry._scripts.run
    registry._scripts.run = lambda *said, **more: [run(*said, **more) for _ in range(2)][-1]  # type: ignore[method-assign]
    for number in range(1, 4):
        registry.register("m", trained(store), by="ann")
        registry.promote("m", number, expect=number - 1 or None, by="ann")
    registry.rollback("m", by="ann")
    registry.keep("m", 3, by="ann", reason="no")
    assert registry.get("m").champion == 2
    assert len(registry.history("m")) == 8


def test_versions_are_never_cleared_nor_removed(client: Any, tmp_path: Path) -> None:
    now = 1_800_000_000_000
    store = JobStore(client, uuid4().hex, clock=lambda: now)
    registry = store.beside(Registry)
    kept, lost = trained(store), trained(store)
    registry.register("de-en", kept, by="ann")
    registry.register("second", kept, by="ann")
    with pytest.raises(NotAllowed, match=rf"job {kept} is de-en@1 and second@1, and versions of"):
        store.remove(kept)
    now += 400 * 86_400_000
    store.sweep(TTL)
    assert [each.id for each in store.list()] == [kept]
    assert store.get(kept).best == CHECKPOINT
    assert store.cleared()[0] == [lost]
    assert not client.zscore(store.keys("clearing"), kept)


def test_a_job_without_a_model_is_no_version(store: JobStore, registry: Registry) -> None:
    waiting = store.create(SPEC).id
    with pytest.raises(NotAllowed, match=r"\(train, queued\) cannot be a version: only a training"):
        registry.register("m", waiting, by="ann")
    store.cancel(waiting)
    with pytest.raises(NotAllowed, match="cannot be a version"):
        registry.register("m", trained(store, checkpoint=None), by="ann")
    evaluation = store.create(EvaluateSpec(job=waiting)).id
    with pytest.raises(NotAllowed, match=r"\(evaluate, queued\)"):
        registry.register("m", evaluation, by="ann")
    with pytest.raises(UnknownJob):
        registry.register("m", "nojob", by="ann")
    assert registry.list() == []


def test_what_there_is_not_is_named(store: JobStore, registry: Registry) -> None:
    registry.register("de-en", trained(store), by="ann")
    for target, match in (
        ("de-em", "no model is called 'de-em'; did you mean 'de-en'?"),
        ("de-en@2", "de-en has no version 2: they are 1 to 1"),
        ("de-en@0", "de-en has no version 0"),
        ("de-en@newest", "behind the @ stands a number, champion or challenger"),
        ("de-en@", "behind the @ stands a number, champion or challenger"),
    ):
        with pytest.raises(UnknownModel, match=match.replace("?", r"\?")):
            registry.resolve(target)
    for act in (
        lambda: registry.promote("de-en", 2, expect=None, by="ann"),
        lambda: registry.keep("de-en", 2, by="ann", reason=""),
        lambda: registry.register("de-en", trained(store), by="ann", parent=2),
        lambda: registry.register("new", trained(store), by="ann", parent=1),
        lambda: registry.rollback("new", by="ann"),
        lambda: registry.history("new"),
    ):
        with pytest.raises(UnknownModel):
            act()
    assert (registry.knows("de-en"), registry.knows("de"), registry.knows("x@1")) == (1, 0, 1)


@pytest.mark.parametrize("name", ["", "1st", "de en", "a/b", "a@1", "ü", "-x", "a" * 65, "a\n"])
def test_a_name_that_cannot_be_one_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(SpecError, match="it begins with a letter of a to z"):
        registry.register(name, "job", by="ann")


def test_what_is_written_into_the_trail_has_bounds(store: JobStore, registry: Registry) -> None:
    registry.register("m", trained(store), by="ann")
    with pytest.raises(SpecError, match="reason: a line of at most 1000"):
        registry.keep("m", 1, by="ann", reason="two\nlines")
    with pytest.raises(SpecError, match="the evidence has"):
        registry.keep("m", 1, by="ann", reason="", evidence={"x": "y" * 70_000})
    assert len(registry.history("m")) == 1


def test_a_version_whose_files_are_gone_is_not_promoted(store: JobStore, tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "store")
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    digest = artifacts.put("jobs/x/a.ckpt", file)
    registry = store.beside(Registry, artifacts=artifacts)
    for place in (artifacts.id, artifacts.id, "elsewhere"):
        job = trained(store, Checkpoint("jobs/x/a.ckpt", digest, step=1, epoch=1), place)
        registry.register("m", job, by="ann")
    registry.promote("m", 1, expect=None, by="ann")
    registry.promote("m", 3, expect=1, by="ann")
    told = registry.history("m")[-2:]
    assert [each.evidence["files"] for each in told] == ["checked", "unchecked"]
    artifacts.path("jobs/x/a.ckpt").unlink()
    with pytest.raises(NotAllowed, match=r"m@2 cannot be the champion: the file .* is missing"):
        registry.promote("m", 2, expect=3, by="ann")
    with pytest.raises(NotAllowed, match="m@1 cannot be the champion"):
        registry.rollback("m", by="ann")
    assert registry.get("m").champion == 3


def test_a_released_version_is_cleared_as_any_job(client: Any) -> None:
    now = 1_800_000_000_000
    store = JobStore(client, uuid4().hex, clock=lambda: now)
    registry = store.beside(Registry)
    jobs = [trained(store) for _ in range(3)]
    for number, job in enumerate(jobs, start=1):
        registry.register("m", job, by="ann")
        registry.promote("m", number, expect=number - 1 or None, by="ann")
    registry.register("other", jobs[1], by="ann")
    with pytest.raises(NotAllowed, match="m@3 is the champion: promote another before"):
        registry.release("m", 3, by="ann")
    for number in (1, 2, 2):
        registry.release("m", number, by="ann", reason="room")
    found = registry.get("m")
    assert [each.released for each in found.versions] == [True, True, False]
    assert [each.action for each in registry.history("m")][-2:] == ["released", "released"]
    now += 400 * 86_400_000
    store.sweep(TTL)
    assert {each.id for each in store.list()} == {jobs[1], jobs[2]}, "one is a version of another"
    with pytest.raises(NotAllowed, match="m@2 was released: its files are kept no more"):
        registry.promote("m", 2, expect=3, by="ann")
    with pytest.raises(NotAllowed, match="m has had no champion before version 3"):
        registry.rollback("m", by="ann")
    registry.release("other", 1, by="ann")
    store.remove(jobs[1])


def test_an_older_version_is_no_challenger_again(store: JobStore) -> None:
    registry = store.beside(Registry)
    for number in (1, 2, 3):
        assert registry.register("m", trained(store), by="ann").number == number
    registry.promote("m", 3, expect=None, by="ann")
    assert registry.get("m").challenger is None, "2 was never decided on, and 3 is newer"


class Trail(RuleBasedStateMachine):
    """Any row of calls: what the registry says is what plain Python would."""

    store: JobStore

    @initialize()
    def begin(self) -> None:
        self.registry = self.store.beside(Registry)
        self.name = f"m{uuid4().hex[:12]}"
        self.count = 0
        self.champion: int | None = None
        self.challenger: int | None = None
        self.before: list[int] = []
        self.told: list[tuple[str, int, int | None]] = []
        self.register()

    @contextmanager
    def refused(self, when: bool) -> Iterator[None]:
        if not when:
            yield
            return
        with pytest.raises((NotAllowed, UnknownModel)):
            yield

    @rule()
    def register(self) -> None:
        self.count += 1
        version = self.registry.register(self.name, trained(self.store), by="x")
        assert version.number == self.challenger_is(self.count)
        self.told.append(("registered", self.count, self.champion))

    def challenger_is(self, number: int) -> int:
        self.challenger = number
        return number

    @rule(number=st.integers(1, 4), expect=st.sampled_from([None, 1, 2, 3, "seen"]))
    def promote(self, number: int, expect: Any) -> None:
        expect = self.champion if expect == "seen" else expect
        no = number > self.count or expect != self.champion or number == self.champion
        with self.refused(no):
            self.registry.promote(self.name, number, expect=expect, by="x")
        if not no:
            self.told.append(("promoted", number, self.champion))
            self.before += [self.champion] if self.champion else []
            self.champion = number
            self.challenger = None if self.challenger == number else self.challenger

    @rule()
    def rollback(self) -> None:
        with self.refused(not self.before):
            self.registry.rollback(self.name, by="x")
        if self.before:
            earlier = self.before.pop()
            self.told.append(("rolled_back", earlier, self.champion))
            self.champion = earlier
            self.challenger = None if self.challenger == earlier else self.challenger

    @rule(number=st.integers(1, 4))
    def keep(self, number: int) -> None:
        with self.refused(number > self.count):
            self.registry.keep(self.name, number, by="x", reason="")
        if number <= self.count:
            self.told.append(("kept", number, self.champion))
            self.challenger = None if self.challenger == number else self.challenger

    @invariant()
    def what_is_read_is_what_was_done(self) -> None:
        found = self.registry.get(self.name)
        assert (found.champion, found.challenger) == (self.champion, self.challenger)
        assert [each.number for each in found.versions] == list(range(1, self.count + 1))
        history = self.registry.history(self.name)
        assert [(each.action, each.version, each.before) for each in history] == self.told


def test_any_row_of_calls(store: JobStore) -> None:
    machine = type("OnThisStore", (Trail,), {"store": store})
    quick = settings(
        max_examples=25,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=quick)
