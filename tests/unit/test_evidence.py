"""What is told of how an attempt ended, and how a person sees it."""

from pathlib import Path

import pytest

from jobs.evidence import Evidence
from jobs.job import Reason
from jobs.verbs.attempts import seen
from worker.events import EndEvent
from worker.evidence import gather
from worker.process import Exit


def test_the_guard_the_runner_and_the_log_each_tell_their_part(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_text("first\nlast words\n")
    exited = Exit("exited", 1, None, 2, 3, 400_000_000)
    end = EndEvent(Reason.OUT_OF_MEMORY, peak_gpu_memory=7_000_000_000)
    told = gather(exited, log, end)
    assert told == Evidence(
        *("exited", 1, None, 3, 2, 400_000_000, 7_000_000_000), log="first\nlast words"
    )
    assert gather(Exit("unseen"), tmp_path / "nothing") == Evidence("unseen")


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence(), "-"),
        (Evidence("exited", 0, peak_memory=412_345_678), "status 0 412 MB"),
        (Evidence("exited", None, "SIGSEGV", 1), "SIGSEGV of rank 1"),
        (Evidence("exited", 1, peak_gpu_memory=7_000_000_000), "status 1 7000 MB on its GPU"),
    ],
)
def test_an_end_is_shown_in_a_few_words(evidence: Evidence, words: str) -> None:
    assert seen(evidence) == words


def test_what_nobody_saw_takes_no_room() -> None:
    assert Evidence("unseen").to_dict() == {"cause": "unseen"}
    assert Evidence("exited", 0).to_dict() == {"cause": "exited", "status": 0}
