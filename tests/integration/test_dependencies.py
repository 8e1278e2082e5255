"""Jobs that need the model of a training which has none yet wait for it."""

from typing import TYPE_CHECKING

import pytest

from jobs.client import Client
from jobs.errors import NotAllowed
from jobs.job import JobState, Reason
from jobs.spec import Component, EvaluateSpec, PredictSpec, TrainSpec

if TYPE_CHECKING:
    from tests.integration.conftest import Hand

SPEC = TrainSpec(model=Component("m"), data=Component("d"))


def test_an_evaluation_of_a_training_that_has_no_model_yet_comes_after_it(
    person: Client, hand: "Hand"
) -> None:
    training = person.submit(SPEC)
    evaluation = person.submit(EvaluateSpec(job=training.id))
    assert evaluation.record.spec["after"] == [training.id]
    assert evaluation.state is JobState.BLOCKED
    assert hand.train(val_bleu=1).job == training.id
    hand.store.sweep(60)
    assert hand.take().job == evaluation.id


def test_a_chain_of_trainings_feeds_each_the_one_before(person: Client, hand: "Hand") -> None:
    first = person.submit(SPEC)
    second = person.submit(TrainSpec(model=SPEC.model, data=SPEC.data, resume_from=first.id))
    third = person.submit(PredictSpec(job=second.id, lines=("a",)))
    order = []
    for _ in range(3):
        order.append(hand.train(val_bleu=1).job)
        hand.store.sweep(60)
    assert order == [first.id, second.id, third.id]


def test_a_parent_that_failed_is_named_with_its_reason(person: Client, hand: "Hand") -> None:
    training = person.submit(SPEC)
    evaluation = person.submit(EvaluateSpec(job=training.id))
    hand.fail(Reason.NAN, "the loss was not a number at step 7")
    hand.store.sweep(60)
    record = evaluation.record
    assert record.state is JobState.FAILED
    assert record.message == (
        f"job {training.id}, which this one waited for, ended as failed (nan): "
        "the loss was not a number at step 7"
    )


def test_a_parent_that_was_removed_is_said_to_be(person: Client, hand: "Hand") -> None:
    training = person.submit(SPEC)
    evaluation = person.submit(EvaluateSpec(job=training.id))
    training.cancel()
    training.remove()
    hand.store.sweep(60)
    said = f"job {training.id}, which this one waited for, was removed"
    assert evaluation.record.message == said


def test_a_training_that_has_a_model_is_used_as_it_is(person: Client, hand: "Hand") -> None:
    training = person.submit(SPEC)
    hand.publish(hand.take())
    evaluation = person.submit(EvaluateSpec(job=training.id))
    assert "after" not in evaluation.record.spec
    later = person.submit(EvaluateSpec(job=training.id, after=(training.id,)))
    assert later.state is JobState.BLOCKED


def test_a_training_that_ended_without_a_model_is_refused(person: Client, hand: "Hand") -> None:
    training = person.submit(SPEC)
    training.cancel()
    with pytest.raises(NotAllowed, match="has no model"):
        person.submit(EvaluateSpec(job=training.id))
