"""Two generations of a schedule on the real thing: nothing is played but the clock's patience."""

from collections.abc import Iterator

import pytest

from jobs import Client, Component, TrainSpec
from jobs.schedules import Generation, Outcome, Stage
from jobs.scheduling import ScheduleHandle
from jobs.spec import TrainerOptions
from tests.doubles.waiting import eventually


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client.embedded(slots=2) as client:
        assert client.catalog(timeout=120) is not None
        yield client


SPEC = TrainSpec(
    model=Component("attention_encoder_decoder", {"hidden_size": 24, "embedding_size": 12}),
    data=Component(
        "dates", {"examples": 400, "held_out": 60, "locales": ["en"], "unseen_locale": "de"}
    ),
    trainer=TrainerOptions(max_epochs=3, batch_tokens=800, precision="fp32", lr=1e-2),
)


def decided(schedule: ScheduleHandle, number: int) -> Generation:
    """Return the nth generation, from 1, once it is decided."""

    def look() -> Generation | None:
        history = schedule.history()
        there = len(history) >= number and history[number - 1].stage is Stage.DECIDED
        return history[number - 1] if there else None

    for _ in range(8):  # trainings take longer than what tests usually wait for
        try:
            return eventually(look)
        except AssertionError:
            continue
    raise AssertionError(f"generation {number} is not decided: {schedule.history()}")


@pytest.mark.timeout(600)
def test_two_generations_of_which_the_second_begins_warm(client: Client) -> None:
    schedule = client.schedule(
        "nightly",
        SPEC,
        model="dates",
        promote_if="accuracy",
        cron="0 3 * * *",
        warm=True,
        slices=["val", "length=short"],
    )
    schedule.run_now()
    first = decided(schedule, 1)
    assert (first.outcome, first.trigger) == (Outcome.PROMOTED, "asked")
    assert client.models["dates"].champion.id == first.train

    schedule.run_now()
    second = decided(schedule, 2)
    assert client.get(second.train).record.spec["warm_from"] == first.train
    assert second.evidence["test"]["champion"] == first.evidence["test"]["challenger"]
    for each in ("test", "val", "length=short"):
        found = second.evidence[each]
        assert found["challenger"] - found["champion"] == pytest.approx(found["difference"])
    for each in ("test", "val"):
        found = second.evidence[each]
        assert found["champion_digest"] == found["challenger_digest"] != ""
    wins = second.evidence["test"]["significant"] and second.evidence["test"]["difference"] > 0
    assert second.outcome is (Outcome.PROMOTED if wins else Outcome.KEPT), second.reason

    told = client.models["dates"].history()
    decisions = [(each.action, each.version) for each in told if each.action != "registered"]
    assert decisions == [("promoted", 1), (str(second.outcome), 2)]
    assert told[-1].by == "schedule nightly"
    assert client.models["dates"].version(2).version.parent == 1

    found = client.compare("dates@1", "dates@2", metric="accuracy", slice="length=short")
    assert found.difference == pytest.approx(second.evidence["length=short"]["difference"])
    assert " on length=short (" in found.verdict


@pytest.mark.timeout(600)
def test_a_slice_without_a_row_is_told_before_anything_is_trained(client: Client) -> None:
    schedule = client.schedule(
        "hopeless",
        SPEC,
        model="nothing",
        promote_if="accuracy",
        cron="0 3 * * *",
        slices=["length>900"],
    )
    schedule.run_now()
    generation = decided(schedule, 1)
    assert generation.outcome is Outcome.FAILED
    assert "(user_error): the slice length>900 has no row: the lengths of" in generation.reason
    assert list(client.get(generation.train).metrics()) == []
