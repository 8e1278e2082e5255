"""Move the generations of schedules on: train, register, evaluate, compare, decide.

Every worker does this for all generations, at the same time and without a leader. A step queues
jobs under keys of its own and then moves the generation by compare-and-set, so that it may be done
twice or be cut off anywhere: whoever comes next finds the same jobs and goes on. What is written
into the model's audit trail carries the generation's name, and who writes it claims that first.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from jobs.artifacts import ArtifactStore
from jobs.errors import (
    NotAllowed,
    ServiceUnreachable,
    UnknownJob,
    UnknownModel,
    UnrollError,
)
from jobs.gate import Finding, Verdict
from jobs.handle import failure_line
from jobs.job import Job, JobState
from jobs.registry import Registry, Version
from jobs.schedules import Generation, Outcome, Schedule, Stage, set_of
from jobs.slicing import is_row_slice, require_property, row_slice
from jobs.spec import CompareSpec, EvaluateSpec, Resources, TrainSpec
from jobs.store import JobStore
from jobs.store.scheduling import ScheduleStore

#: Milliseconds after which somebody else carries a verdict out that was not.
_CLAIM: Final = 30_000
_CHAMPION, _CHALLENGER = "champion", "challenger"
#: Parameters of a kind of data that say where a split lies, and nothing of how it is read.
_WHERE: Final = ("root", "train", "val", "test")
#: What a comparison finds, by the names that it has in the job's result.
_FIGURES: Final = ("difference", "low", "high", "p", "significant")
#: Characters of a reason in the model's audit trail.
_MAX_REASON: Final = 1_000


class _Failed(UnrollError):
    """A generation cannot go on."""


class Retraining:
    """Move generations on; versions whose files lie in `artifacts` are promoted only if whole."""

    def __init__(self, store: JobStore, artifacts: ArtifactStore | None = None) -> None:
        self._store = store
        self._schedules = store.beside(ScheduleStore)
        self._registry = store.beside(Registry, artifacts=artifacts)
        self._steps: Mapping[Stage, Callable[[Generation], None]] = {
            Stage.WAITING: self._begin,
            Stage.TRAINING: self._after_training,
            Stage.EVALUATING: self._after_evaluations,
            Stage.COMPARING: self._after_comparisons,
            Stage.DECIDING: self._take_over,
            Stage.CANCELLING: self._cancel,
        }

    def spec_of(self, schedule: Schedule) -> TrainSpec:
        """Return the training of a generation that begins now."""
        spec = schedule.train_spec
        spec = replace(
            spec,
            name=spec.name or schedule.name,
            tags=(*spec.tags, schedule.name),
            evaluated_on=(schedule.split, *schedule.slices),
        )
        champion = self._champion(schedule)
        return replace(spec, warm_from=champion.job) if schedule.warm and champion else spec

    def advance(self, generation: Generation) -> None:
        """Do what can be done now. Raise ServiceUnreachable."""
        try:
            self._steps[generation.stage](generation)
        except ServiceUnreachable:
            raise
        except UnrollError as failure:
            self._end(generation, Outcome.FAILED, str(failure))

    def withdraw(self, generation: Generation, reason: str) -> None:
        """Bring a generation to its end; a verdict that is there is carried out first."""
        if generation.stage in (Stage.DECIDING, Stage.CANCELLING):
            self.advance(generation)
        else:
            moved = self._schedules.move(generation, Stage.CANCELLING, reason=reason)
            if moved:
                self.advance(moved)

    def _begin(self, generation: Generation) -> None:
        self._schedules.begin(generation, self.spec_of(generation.plan))

    def _after_training(self, generation: Generation) -> None:
        trained = self._ended(generation.train, "the training")
        if trained is None:
            return
        plan = generation.plan
        champion = self._champion(plan)
        version = self._register(plan, trained)
        generation = replace(generation, version=version.number)
        if champion and champion.number == version.number:
            said = "promoted by hand before it was compared"
            self._schedules.move(generation, Stage.DECIDED, outcome=Outcome.PROMOTED, reason=said)
            return
        contenders = {_CHALLENGER: version, **({_CHAMPION: champion} if champion else {})}
        evaluations = {
            each: {
                role: self._evaluate(generation, each, role, contender)
                for role, contender in contenders.items()
            }
            for each in plan.sets
        }
        self._schedules.move(
            generation,
            Stage.EVALUATING,
            champion=champion.number if champion else None,
            evaluations=evaluations,
        )

    def _register(self, plan: Schedule, trained: Job) -> Version:
        origin = trained.spec.get("warm_from")
        parent = None
        if origin:
            versions = self._registry.get(plan.model).versions
            parent = next((each.number for each in versions if each.job == origin), None)
        note = trained.spec.get("name", "")
        return self._registry.register(
            plan.model, trained.id, by=_by(plan), parent=parent, note=note
        )

    def _evaluate(self, generation: Generation, each: str, role: str, contender: Version) -> str:
        plan = generation.plan
        spec = plan.train_spec
        split, data = set_of(each, plan.split)
        where = {name: spec.data.params[name] for name in _WHERE if name in spec.data.params}
        asked = EvaluateSpec(
            job=contender.job,
            version=contender.label,
            split=split,
            data={**where, **data},
            **_like(spec, f"{plan.name}: {role} on {each}"),
        )
        # The version is part of the key: the champion may be another when this is done again.
        key = generation.key("evaluate", each, str(contender.number))
        return self._store.create(asked, key=key).id

    def _after_evaluations(self, generation: Generation) -> None:
        plan = generation.plan
        scores: dict[str, dict[str, Any]] = {}
        for each, role, job in _evaluations(generation):
            ended = self._ended(job, f"the evaluation of the {role} on {each}")
            if ended is None:
                return
            scores.setdefault(each, {})[role] = _score(plan, each, ended)
            scores[each][f"{role}_digest"] = str(ended.result.get("split_digest", ""))
            if each == plan.split and role == _CHALLENGER:
                for name in plan.row_slices:
                    require_property(ended.result, row_slice(name), job)
        generation = replace(generation, evidence=_evidence(generation, scores))
        if fault := self._other_test_set(plan, scores[plan.split]):
            self._decide(generation, Verdict(False, fault))
        elif generation.champion is None:
            self._decide(generation, plan.gate.first(scores[plan.split][_CHALLENGER]))
        else:
            self._schedules.move(
                generation,
                Stage.COMPARING,
                comparisons={
                    each: self._compare(generation, each) for each in (*scores, *plan.row_slices)
                },
            )

    def _other_test_set(self, plan: Schedule, scores: Mapping[str, Any]) -> str:
        digest = scores[f"{_CHALLENGER}_digest"]
        pinned = self._schedules.pin(plan, digest)
        for each in (digest, scores.get(f"{_CHAMPION}_digest", digest)):
            if each != pinned:
                return (
                    f"the test set changed: its digest is {each[:12]}, and {pinned[:12]} was "
                    "pinned by the first generation; remove the schedule and add it again to pin "
                    "the new one"
                )
        return ""

    def _compare(self, generation: Generation, each: str) -> str:
        plan, rows = generation.plan, each if is_row_slice(each) else ""
        pair = generation.evaluations[plan.split if rows else each]
        asked = CompareSpec(
            first=pair[_CHAMPION],
            second=pair[_CHALLENGER],
            metric=plan.gate.metric,
            confidence=plan.gate.confidence,
            slice=rows,
            **_like(plan.train_spec, f"{plan.name}: {each}"),
        )
        return self._store.create(asked, key=generation.key("compare", each)).id

    def _after_comparisons(self, generation: Generation) -> None:
        plan, evidence = generation.plan, dict(generation.evidence)
        found = {}
        for each, job in generation.comparisons.items():
            ended = self._ended(job, f"the comparison on {each}")
            if ended is None:
                return
            figures = {name: ended.result.get(name) for name in _FIGURES}
            begun = evidence.get(each) or _of_rows(ended.result)
            evidence[each] = {**begun, **figures, "comparison": job}
            found[each] = _finding(evidence[each])
        test = found.pop(plan.split)
        generation = replace(generation, evidence=evidence)
        self._decide(generation, plan.gate.judge(test, found))

    def _decide(self, generation: Generation, verdict: Verdict) -> None:
        self._claim(generation, promote=verdict.promote, reason=verdict.reason)

    def _claim(self, generation: Generation, **changes: Any) -> None:
        now = self._schedules.now()
        if claimed := self._schedules.move(generation, Stage.DECIDING, claimed=now, **changes):
            self._carry_out(claimed)

    def _take_over(self, generation: Generation) -> None:
        """Carry out a verdict that somebody else has not: they must have died over it."""
        if self._schedules.now() - generation.claimed >= _CLAIM:
            self._claim(generation)

    def _carry_out(self, generation: Generation) -> None:
        plan, reason = generation.plan, _one_line(generation.reason)
        action = self._told(generation)
        if action is None and generation.version is not None:
            about: dict[str, Any] = {"by": _by(plan), "evidence": _flat(generation)}
            number = generation.version
            try:
                if generation.promote:
                    seen = generation.champion
                    self._registry.promote(plan.model, number, expect=seen, reason=reason, **about)
                    action = "promoted"
            except NotAllowed as error:  # somebody moved the champion, or its files are gone
                reason = _one_line(str(error))
            if action is None:
                self._registry.keep(plan.model, number, reason=reason, **about)
        outcome = Outcome.PROMOTED if action == "promoted" else Outcome.KEPT
        self._schedules.move(
            generation, Stage.DECIDED, outcome=generation.outcome or outcome, reason=reason
        )

    def _told(self, generation: Generation) -> str | None:
        """Return what the audit trail says was done for this generation; None for nothing."""
        for event in reversed(self._registry.history(generation.plan.model)):
            if event.evidence.get("generation") == generation.id:
                return event.action
        return None

    def _cancel(self, generation: Generation) -> None:
        stopped = [self._stop(job) for job in _jobs(generation)]
        if all(stopped):
            self._end(generation, Outcome.CANCELLED, generation.reason)

    def _end(self, generation: Generation, outcome: Outcome, reason: str) -> None:
        """End a generation without a verdict; of what became a version the trail is told."""
        for job in _jobs(generation):
            self._stop(job)
        if generation.version is None:
            self._schedules.move(generation, Stage.DECIDED, outcome=outcome, reason=reason)
        else:
            self._claim(generation, outcome=outcome, reason=reason, promote=False)

    def _stop(self, job: str) -> bool:
        """Cancel a job, and return whether it has ended."""
        found = self._find(job)
        if found is None or found.state.ended:
            return True
        try:
            self._store.cancel(job)
        except (NotAllowed, UnknownJob):  # it ended, or was removed, meanwhile
            return True
        found = self._find(job)
        return found is None or found.state.ended

    def _ended(self, job: str, what: str) -> Job | None:
        """Return a job that succeeded; None while it goes on. Raise _Failed."""
        found = self._find(job)
        if found is None:
            raise _Failed(f"{what} was removed (job {job})")
        if not found.state.ended:
            return None
        if found.state is not JobState.SUCCEEDED:
            raise _Failed(f"{what} failed: {failure_line(found)}")
        return found

    def _find(self, job: str) -> Job | None:
        try:
            return self._store.get(job)
        except UnknownJob:
            return None

    def _champion(self, plan: Schedule) -> Version | None:
        try:
            model = self._registry.get(plan.model)
        except UnknownModel:
            return None
        return model.version(model.champion) if model.champion else None


def _by(plan: Schedule) -> str:
    return f"schedule {plan.name}"


def _one_line(reason: str) -> str:
    """Return a reason as the audit trail takes it, whatever a failed job had to say."""
    words = "".join(each if each.isprintable() else " " for each in reason).split()
    return " ".join(words)[:_MAX_REASON]


def _like(spec: TrainSpec, name: str) -> dict[str, Any]:
    """Return what the further jobs of a generation have from its training."""
    where = Resources(queue=spec.resources.queue, labels=list(spec.resources.labels))
    return {
        "name": name[:100],
        "tags": spec.tags,
        "priority": spec.priority,
        "retries": spec.retries,
        "policy": spec.policy,
        "resources": where,
    }


def _jobs(generation: Generation) -> Iterator[str]:
    if generation.train:
        yield generation.train
    for _, _, job in _evaluations(generation):
        yield job
    yield from generation.comparisons.values()


def _evaluations(generation: Generation) -> Iterator[tuple[str, str, str]]:
    """Yield the set, the role and the job of each evaluation."""
    for each, roles in generation.evaluations.items():
        for role, job in roles.items():
            yield each, role, job


def _score(plan: Schedule, each: str, evaluation: Job) -> float:
    split, _ = set_of(each, plan.split)
    name = f"{split}/{plan.gate.metric}"
    value = evaluation.result.get(name)
    if isinstance(value, int | float):
        return float(value)
    reported = sorted(key for key in evaluation.result if key.startswith(f"{split}/"))
    raise _Failed(
        f"the model reports no {name!r} (it reports {', '.join(reported) or 'nothing'}): "
        "choose one of these for the gate"
    )


def _evidence(
    generation: Generation, scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {
        each: {**found, "evaluations": dict(generation.evaluations[each])}
        for each, found in scores.items()
    }


def _of_rows(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores on rows of the test set, which only their comparison knows."""
    names = {_CHAMPION: "first", _CHALLENGER: "second", "rows": "rows"}
    return {own: comparison.get(name) for own, name in names.items()}


def _flat(generation: Generation) -> dict[str, Any]:
    """Return the evidence as one level of names and values, for lines that people read."""
    flat: dict[str, Any] = {"generation": generation.id}
    for each, found in generation.evidence.items():
        for name, value in found.items():
            parts = value if isinstance(value, Mapping) else {"": value}
            for part, inner in parts.items():
                flat[".".join(filter(None, (each, name, part)))] = inner
    return flat


def _finding(figures: Mapping[str, Any]) -> Finding:
    needed = (_CHAMPION, _CHALLENGER, *_FIGURES)
    missing = [name for name in needed if figures.get(name) is None]
    if missing:
        raise _Failed(f"the comparison reports no {missing[0]}")
    names = (field.name for field in dataclasses.fields(Finding))
    return Finding(**{name: figures[name] for name in names})
