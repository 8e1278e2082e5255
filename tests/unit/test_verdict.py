"""How an attempt's end is decided."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobs.job import Reason
from worker.events import EndEvent
from worker.process import Exit
from worker.verdict import HANDED_BACK, Ending, Order, conclude, name_the_disk

CLEAN = Exit("exited", 0)
KILLED = Exit("killed", None, "SIGKILL")
orders = st.none() | st.sampled_from(Order)
exits = st.builds(
    Exit,
    st.sampled_from(["exited", "killed", "abandoned", "deadline", "unseen"]),
    st.none() | st.integers(0, 255),
    st.none() | st.sampled_from(["SIGKILL", "SIGSEGV"]),
    st.integers(0, 3),
)
ends = st.builds(EndEvent, st.sampled_from(Reason), st.text(), st.text())


@given(orders, exits)
def test_no_exit_status_and_no_order_undoes_a_success_that_was_said(
    order: Order | None, exited: Exit
) -> None:
    ending = conclude(order, EndEvent(Reason.SUCCEEDED, result={"x": 1}), exited, "tail")
    assert (ending.reason, ending.result) == (Reason.SUCCEEDED, {"x": 1})
    assert not ending.handed_back


@given(orders, exits)
def test_nothing_succeeds_that_did_not_say_so(order: Order | None, exited: Exit) -> None:
    assert conclude(order, None, exited, "").reason is not Reason.SUCCEEDED


@given(ends, exits)
def test_without_an_order_the_runner_s_word_counts(end: EndEvent, exited: Exit) -> None:
    assume(end.reason is not Reason.INFRASTRUCTURE or not exited.oom_kills)
    ending = conclude(None, end, exited, "tail")
    assert (ending.reason, ending.message) == (end.reason, end.message)
    assert not ending.handed_back


def test_the_kernel_knows_better_than_a_rank_that_misses_the_one_it_killed() -> None:
    end = EndEvent(Reason.INFRASTRUCTURE, "connection closed by peer")
    killed = Exit("exited", None, "SIGKILL", 1)
    assert conclude(None, end, killed, "").reason is Reason.OUT_OF_MEMORY
    assert conclude(None, EndEvent(Reason.NAN), killed, "").reason is Reason.NAN
    second = Exit("exited", None, "SIGKILL", rank=1)
    assert "SIGKILL" in conclude(None, end, second, "").message
    assert conclude(None, end, Exit("exited", 1), "").message == end.message


@pytest.mark.parametrize(
    ("order", "reason"), [(Order.CANCEL, Reason.CANCELLED), (Order.TIMEOUT, Reason.TIMED_OUT)]
)
@pytest.mark.parametrize("end", [None, EndEvent(Reason.PREEMPTED), EndEvent(Reason.NAN)])
def test_who_was_stopped_ends_for_the_reason_it_was_stopped_for(
    order: Order, reason: Reason, end: EndEvent | None
) -> None:
    assert conclude(order, end, KILLED, "").reason is reason


@pytest.mark.parametrize("end", [None, EndEvent(Reason.PREEMPTED, "told to stop")])
def test_a_drained_job_goes_back(end: EndEvent | None) -> None:
    assert conclude(Order.HAND_BACK, end, KILLED, "") == HANDED_BACK


def test_a_hang_is_told_with_what_was_found() -> None:
    ending = conclude(Order.HUNG, None, Exit("hung", None, "SIGKILL"), "stacks", "no step for 60 s")
    assert (ending.reason, ending.message) == (Reason.HUNG, "no step for 60 s")
    assert ending.traceback == "stacks"


def test_who_ended_by_itself_before_it_was_killed_did_not_hang() -> None:
    said = conclude(Order.HUNG, EndEvent(Reason.NAN, "no number"), KILLED, "", "no step for 60 s")
    assert said.reason is Reason.NAN
    died = conclude(Order.HUNG, None, Exit("exited", None, "SIGSEGV"), "", "no step for 60 s")
    assert died.reason is Reason.INFRASTRUCTURE


def test_a_job_that_fails_while_it_drains_has_failed() -> None:
    end = EndEvent(Reason.USER_ERROR, "no such thing")
    assert conclude(Order.HAND_BACK, end, CLEAN, "").reason is Reason.USER_ERROR


@pytest.mark.parametrize(
    ("exited", "reason", "words"),
    [
        (Exit("exited", 0), Reason.INFRASTRUCTURE, "status 0"),
        (Exit("exited", 1), Reason.INFRASTRUCTURE, "status 1"),
        (Exit("exited", None, "SIGSEGV"), Reason.INFRASTRUCTURE, "SIGSEGV"),
        (Exit("exited", None, "SIGKILL"), Reason.INFRASTRUCTURE, "SIGKILL"),
        (Exit("exited", None, "SIGBUS", rank=1), Reason.INFRASTRUCTURE, "rank 1 of the runner"),
        (Exit("exited", None, "SIGKILL", 1), Reason.OUT_OF_MEMORY, "memory"),
        (Exit("exited", 1, None, 1), Reason.INFRASTRUCTURE, "status 1"),
        (Exit("deadline", None, "SIGKILL", 1), Reason.INFRASTRUCTURE, "not answered"),
        (Exit("unseen"), Reason.INFRASTRUCTURE, "guard"),
    ],
)
def test_a_death_without_a_word_is_told_with_what_is_known(
    exited: Exit, reason: Reason, words: str
) -> None:
    ending = conclude(None, None, exited, "the tail")
    assert ending.reason is reason
    assert words in ending.message
    assert ending.traceback == "the tail"


@pytest.mark.parametrize("full", [True, False])
def test_an_end_for_want_of_room_names_the_disk_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setattr("worker.verdict.is_full", lambda folder: full)
    ending = Ending(Reason.INFRASTRUCTURE, "OSError: [Errno 28] No space left on device")
    where = f"the disk of {tmp_path} is" if full else f"the disk of {tmp_path}, or of TMPDIR, was"
    told = name_the_disk(ending, CLEAN, tmp_path)
    assert told.message == f"{where} full; free some of it: {ending.message}"
    other = Ending(Reason.USER_ERROR, "ValueError: no such thing")
    assert name_the_disk(other, CLEAN, tmp_path) == other
    lost = Ending(Reason.INFRASTRUCTURE, "the runner's guard was killed")
    told = name_the_disk(lost, Exit("unseen"), tmp_path)
    assert told.message == (f"{where} full; free some of it" if full else lost.message)
