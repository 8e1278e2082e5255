"""When a silent runner counts as hung, by a clock of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.job import Reason
from jobs.spec import Policy
from worker.events import CheckpointEvent, EndEvent, Event, PhaseEvent, ProgressEvent
from worker.hangs import HangWatch

POLICY = Policy(hang_seconds=60.0, hang_factor=10.0, quiet_seconds=1800.0)
TICK = 0.25


class Runner:
    """Say things to a watch whose clock stands still between two looks."""

    def __init__(self, folder: Path, policy: Policy = POLICY) -> None:
        self._events = folder / "events.jsonl"
        self._events.unlink(missing_ok=True)
        self._now = 0.0
        self._watch = HangWatch(self._events, policy, lambda: self._now)

    def say(self, *events: Event) -> None:
        with self._events.open("a") as file:
            file.writelines(event.to_json() + "\n" for event in events)

    def step(self, step: int) -> None:
        self.say(ProgressEvent(step, 100, 1, 1))

    def passes(self, seconds: float, tick: float = TICK) -> str:
        """Look until so much time has passed, or something is found."""
        until = self._now + seconds
        while self._now < until:
            self._now += tick
            if found := self._watch.look():
                return found
        return ""

    def train(self, steps: int = 5, each: float = 0.5) -> None:
        self.say(PhaseEvent("training"))
        self.step(0)
        for step in range(1, steps + 1):
            assert not self.passes(each)
            self.step(step)
        assert not self.passes(TICK)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_a_step_that_takes_a_minute_where_others_took_a_moment_is_a_hang(runner: Runner) -> None:
    runner.train()
    assert not runner.passes(58)
    assert runner.passes(3).startswith("no step for 60 s after step 5; a step usually takes 0.5 s")


def test_slow_steps_are_waited_for(runner: Runner) -> None:
    runner.train(each=20.0)
    assert not runner.passes(195)
    assert "usually takes 20 s" in runner.passes(20)


def test_before_its_first_step_a_training_is_given_long(runner: Runner) -> None:
    runner.say(PhaseEvent("training"))
    runner.step(0)
    assert not runner.passes(1790)
    assert "while training" in runner.passes(20)


def test_what_has_gone_on_from_a_checkpoint_has_no_step_of_its_own_yet(runner: Runner) -> None:
    runner.say(PhaseEvent("training"))
    runner.step(700)
    assert not runner.passes(1790)


@pytest.mark.parametrize("phase", ["preparing", "validating", "saving", "evaluating"])
def test_other_phases_are_given_long_but_not_for_ever(runner: Runner, phase: str) -> None:
    runner.train()
    runner.say(PhaseEvent(phase))
    assert not runner.passes(1790)
    assert runner.passes(20) == f"no sign of life for 1800 s while {phase}"


def test_each_validation_batch_is_a_sign_of_life(runner: Runner) -> None:
    runner.train()
    runner.say(PhaseEvent("validating"))
    for _ in range(4):
        assert not runner.passes(1500)
        runner.step(5)
    runner.say(PhaseEvent("training"))
    assert not runner.passes(58)
    assert runner.passes(3)


def test_who_never_speaks_is_ended(runner: Runner) -> None:
    assert not runner.passes(1790)
    assert runner.passes(20) == "no sign of life for 1800 s while starting"


def test_what_has_ended_hangs_no_more(runner: Runner) -> None:
    runner.train()
    runner.say(EndEvent(Reason.SUCCEEDED))
    assert not runner.passes(5000)


@pytest.mark.parametrize("sleep", [100.0, 1e6])
def test_time_in_which_nobody_looked_does_not_count(runner: Runner, sleep: float) -> None:
    runner.train()
    for _ in range(5):
        assert not runner.passes(1, tick=sleep)
    runner.step(6)
    assert not runner.passes(58)


def test_a_line_that_is_no_event_hides_nothing(runner: Runner, tmp_path: Path) -> None:
    runner.train()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write("no event\n")
    runner.step(6)
    runner.passes(TICK)
    assert not runner.passes(50)
    assert runner.passes(60)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pace=st.floats(0.01, 30),
    stretches=st.lists(st.floats(0.1, 1.0), min_size=1, max_size=10),
    checkpoints=st.booleans(),
)
def test_no_step_that_stays_within_the_factor_is_a_hang_and_silence_always_is(
    tmp_path: Path, pace: float, stretches: list[float], checkpoints: bool
) -> None:
    runner = Runner(tmp_path)
    tick = max(TICK, pace / 20)
    say: Callable[[int], Event] = lambda step: ProgressEvent(step, 100, 1, 1)  # noqa: E731
    runner.say(PhaseEvent("training"), say(0))
    for step in range(1, 4):
        assert not runner.passes(pace, tick)
        runner.say(say(step))
    for step, stretch in enumerate(stretches, start=4):
        assert not runner.passes(stretch * 0.8 * max(60, 8 * pace), tick)
        runner.say(
            CheckpointEvent("f", "d", step, 1) if checkpoints and step % 3 == 0 else say(step)
        )
    assert runner.passes(1e5, tick)
