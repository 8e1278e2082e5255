"""What may be compared and ranked together, and what the refusals say."""

from typing import Any

import pytest

from jobs.comparing import Comparable, less_is_better, require_comparable
from jobs.errors import NotAllowed
from jobs.job import Job, JobState
from jobs.leaderboard import rank

ROW: dict[str, Any] = {
    "split": "test",
    "test/bleu": 30.0,
    "test/wer": 0.5,
    "test/perplexity": 4.0,
    "rows": 1000,
    "metric": "bleu",
    "row_metrics": ["bleu", "wer"],
    "split_digest": "ab" * 32,
    "decoding": {"beam": 1, "min_length": 0},
    "signatures": {"bleu": "tok:13a", "wer": "case:lc"},
    "intervals": {"test/bleu": [29.0, 31.0]},
    "checkpoint": "c" * 64,
    "data": {"name": "parallel_text", "root": "/data/multi30k/"},
    "job": "1trained",
}


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **{name.replace("__", "/"): value for name, value in changes.items()}}


def job(number: int, **changes: Any) -> Job:
    given = {"checkpoint": str(number) * 64, **changes}
    return Job(
        f"e{number}", "evaluate", JobState.SUCCEEDED, {}, result=row(**given), ended=float(number)
    )


def test_alike_is_comparable_by_what_the_model_was_chosen_by() -> None:
    assert require_comparable(ROW, row(test__bleu=31.0, checkpoint="d" * 64), metric="") == "bleu"
    assert require_comparable(ROW, ROW, metric="wer") == "wer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_digest": "cd" * 32}, "test sets differ (split_digest abababababababab and cdcd"),
        ({"rows": 999}, "numbers of rows differ (rows 1000 and 999)"),
        ({"decoding": {"beam": 5, "min_length": 0}}, "differ (decoding beam=1 and beam=5); eval"),
        ({"signatures": {"bleu": "tok:zh"}}, "signatures of bleu differ (signature tok:13a and"),
        ({"split_digest": ""}, "evaluation B cannot be compared: its kind of data does not say"),
    ],
)
def test_a_refusal_says_which_field_differs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        require_comparable(ROW, row(**changes), metric="", names=("A", "B"))
    assert message in str(caught.value)


def test_another_signature_matters_to_its_own_metric_alone() -> None:
    other = row(signatures={"bleu": "tok:zh", "wer": "case:lc"})
    assert require_comparable(ROW, other, metric="wer") == "wer"


def test_decoding_may_be_what_is_compared() -> None:
    other = row(decoding={"beam": 5})
    assert require_comparable(ROW, other, metric="", across=("decoding",)) == "bleu"
    with pytest.raises(NotAllowed, match="say `--across decoding`"):
        require_comparable(ROW, other, metric="")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("blue", "it has no metric 'blue'; did you mean 'bleu'"),
        ("perplexity", r"does not follow from the rows that were kept \(of these do: bleu, wer\)"),
    ],
)
def test_a_metric_that_cannot_be_compared_is_named(metric: str, message: str) -> None:
    with pytest.raises(NotAllowed, match=message):
        require_comparable(ROW, ROW, metric=metric)


def test_an_evaluation_of_an_older_version_is_to_be_repeated() -> None:
    with pytest.raises(NotAllowed, match="evaluate the model again"):
        Comparable.of({"test/bleu": 3.0, "split": "test"}, "bleu")


def test_the_best_comes_first_and_errors_count_the_other_way() -> None:
    jobs = [job(1, test__bleu=29.0), job(2, test__bleu=31.0, version="m@2"), job(3)]
    (group,) = rank(jobs, "multi30k").groups
    assert [(each.model, each.value) for each in group.standings] == [
        ("m@2", 31.0),
        ("1trained", 30.0),
        ("1trained", 29.0),
    ]
    assert group.standings[0].interval == (29.0, 31.0)
    (group,) = rank([job(1, test__wer=0.6), job(2, test__wer=0.4)], "multi30k", "wer").groups
    assert [each.value for each in group.standings] == [0.4, 0.6]
    assert (less_is_better("wer"), less_is_better("bleu")) == (True, False)


@pytest.mark.parametrize(
    "changes",
    [{"split_digest": "cd" * 32}, {"decoding": {"beam": 5}}, {"signatures": {"bleu": "tok:zh"}}],
)
def test_unlike_rows_are_never_ranked_together(changes: dict[str, Any]) -> None:
    found = rank([job(1), job(2, **changes), job(3)], "parallel_text")
    assert [[each.evaluation for each in group.standings] for group in found.groups] == [
        ["e3", "e1"],
        ["e2"],
    ]


def test_of_one_model_the_newest_evaluation_stands() -> None:
    jobs = [job(1, checkpoint="x"), job(2, checkpoint="x")]
    (group,) = rank(jobs, "abababababab").groups
    assert [each.evaluation for each in group.standings] == ["e2"]


def test_what_cannot_be_ranked_is_said() -> None:
    found = rank([job(1), job(2, split_digest="")], "/data/multi30k", "bleu")
    assert list(found.left_out) == ["e2"]
    with pytest.raises(
        NotAllowed, match=r"nothing was evaluated on 'dates' \(evaluated so far: /d"
    ):
        rank([job(1)], "dates")
    with pytest.raises(NotAllowed, match="nothing was evaluated on 'dates'; see"):
        rank([], "dates")
