"""The rules of jobs: every state and reason has its place in each table."""

import pytest

from jobs.errors import JobFailed, UnrollError, did_you_mean
from jobs.job import COUNTED_RETRIES, ENDED, FREE_RETRIES, TRANSITIONS, JobState, Reason

REASONS = (
    "succeeded user_error bad_data out_of_memory nan hung preempted infrastructure cancelled "
    "timed_out lost"
)
STATES = "blocked queued running paused succeeded failed cancelled"


def test_the_words_are_those_of_the_design() -> None:
    assert [state.value for state in JobState] == STATES.split()
    assert [reason.value for reason in Reason] == REASONS.split()


def test_every_state_has_its_moves_and_none_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert [state for state, moves in TRANSITIONS.items() if state in moves] == []


def test_every_state_can_be_reached_and_every_job_can_end() -> None:
    reached = {JobState.QUEUED, JobState.BLOCKED}  # as they are created
    for _ in JobState:
        reached |= {move for state in reached for move in TRANSITIONS[state]}
    assert reached == set(JobState)
    ending = set(ENDED)
    for _ in JobState:
        ending |= {state for state, moves in TRANSITIONS.items() if moves & ending}
    assert ending == set(JobState)


def test_an_ended_job_only_ever_goes_back_to_the_queue() -> None:
    for state in JobState:
        assert state.ended == (state in ENDED)
    again = {JobState.QUEUED, JobState.BLOCKED}
    assert {move for state in ENDED for move in TRANSITIONS[state]} == again
    assert TRANSITIONS[JobState.SUCCEEDED] == frozenset()


def test_no_end_is_both_free_and_counted_and_a_success_is_neither() -> None:
    assert not FREE_RETRIES & COUNTED_RETRIES
    final = set(Reason) - FREE_RETRIES - COUNTED_RETRIES
    assert final == {"succeeded", "user_error", "bad_data", "cancelled", "timed_out"}


def test_a_failed_job_carries_what_happened_there() -> None:
    error = JobFailed("no loss", reason=Reason.NAN, traceback="Traceback ...")
    assert isinstance(error, UnrollError)
    assert (str(error), error.reason, error.traceback) == ("no loss", "nan", "Traceback ...")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("hiden", "; did you mean 'hidden'?"), ("hidden", "; did you mean 'hidden'?"), ("zzz", "")],
)
def test_a_near_word_is_offered(word: str, hint: str) -> None:
    assert did_you_mean(word, ["hidden", "cell"]) == hint
