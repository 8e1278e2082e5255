"""Spans and what a split adds up to, held to conlleval's own way of counting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules._scoring_tags import SpanCounts, Sums, each_step, have_marks, spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O O", set()),
        ("", set()),
        ("B-x I-x O B-y", {("x", 0, 2), ("y", 3, 4)}),
        ("B-x B-x I-x", {("x", 0, 1), ("x", 1, 3)}),
        ("O I-x I-x O", {("x", 1, 3)}),  # no B: the first step inside begins a span
        ("I-x I-y", {("x", 0, 1), ("y", 1, 2)}),  # so does another kind
        ("B-x I-y", {("x", 0, 1), ("y", 1, 2)}),
        ("B-x O I-x", {("x", 0, 1), ("x", 2, 3)}),
        ("B-a-b I-a-b", {("a-b", 0, 2)}),  # a kind may hold a hyphen
        ("B-a_b I-a.b", {("a_b", 0, 1), ("a.b", 1, 2)}),
        ("B-x I-x E-x B-x", {("x", 0, 3), ("x", 3, 4)}),
        ("S-x S-x I-x", {("x", 0, 1), ("x", 1, 2), ("x", 2, 3)}),
        ("B I O", {("", 0, 2)}),  # one kind only needs no name
        ("NOUN VERB", set()),
    ],
)
def test_spans_are_those_of_conlleval(tags: str, expected: set[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == expected


@pytest.mark.parametrize(
    ("truth", "found", "counts", "f1"),
    [
        # processed 5 tokens with 2 phrases; found: 2 phrases; correct: 1. FB1: 50.00
        ("B-x I-x O B-y I-y", "B-x I-x O B-y O", (1, 2, 2), 0.5),
        ("B-x I-x", "B-y I-y", (0, 1, 1), 0.0),  # the kind counts
        ("B-x I-x I-x", "B-x I-x B-x", (0, 2, 1), 0.0),  # half a span is none
        ("B-x O", "I-x O", (1, 1, 1), 1.0),  # a mark alone does not
        ("B-x I-x O O B-x", "B-x I-x O B-y B-x", (2, 3, 2), 0.8),
        ("O O", "O O", (0, 0, 0), 0.0),
        ("O O", "B-x O", (0, 1, 0), 0.0),
        ("B-x O", "O O", (0, 0, 1), 0.0),
    ],
)
def test_f1_is_that_of_conlleval(
    truth: str, found: str, counts: tuple[int, int, int], f1: float
) -> None:
    counted = SpanCounts.of(spans(found.split()), spans(truth.split()))
    assert (counted.correct, counted.found, counted.true) == counts
    assert counted.f1 == pytest.approx(f1)


def conlleval(truth: list[str], found: list[str]) -> tuple[int, int, int]:
    """Count step by step, with the rules of the Perl script: correct, found, true."""

    def ends(last: list[str], now: list[str]) -> bool:
        same = (last[0], now[0]) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")}
        return same or (last[0] != "O" and last[1] != now[1])

    def starts(last: list[str], now: list[str]) -> bool:
        same = (last[0], now[0]) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")}
        return same or (now[0] != "O" and last[1] != now[1])

    right = found_spans = true_spans = 0
    inside = False
    last_true = last_found = ["O", ""]
    for one, other in zip([*truth, "O"], [*found, "O"], strict=True):
        now_true, now_found = ([*tag.split("-"), ""][:2] for tag in (one, other))
        end_true, end_found = ends(last_true, now_true), ends(last_found, now_found)
        if inside and end_true and end_found and last_true[1] == last_found[1]:
            inside, right = False, right + 1
        elif inside and (end_true != end_found or now_true[1] != now_found[1]):
            inside = False
        begin_true, begin_found = starts(last_true, now_true), starts(last_found, now_found)
        if begin_true and begin_found and now_true[1] == now_found[1]:
            inside = True
        true_spans, found_spans = true_spans + begin_true, found_spans + begin_found
        last_true, last_found = now_true, now_found
    return right, found_spans, true_spans


TAG = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])


@given(st.lists(st.tuples(TAG, TAG), max_size=12))
def test_counts_are_those_of_conllevals_own_loop(steps: list[tuple[str, str]]) -> None:
    truth, found = [one for one, _ in steps], [other for _, other in steps]
    counted = SpanCounts.of(spans(found), spans(truth))
    assert (counted.correct, counted.found, counted.true) == conlleval(truth, found)


def test_tags_without_marks_are_spans_of_one_step() -> None:
    assert have_marks(["O", "B-x"])
    assert not have_marks(["O", "NOUN", "X-y"])
    assert have_marks(["O", "B", "I"])  # of a single kind that nobody named
    assert not have_marks([*"BEGHIST"])  # structures of proteins
    assert not have_marks(["O"])
    assert each_step(["NOUN", "VERB"]) == {("NOUN", 0, 1), ("VERB", 1, 2)}


def test_sums_are_exact_and_begin_at_zero() -> None:
    sums = Sums(["a", "b"], torch.device("cpu"))
    sums.add(a=torch.tensor(2.0**53, dtype=torch.float64))
    sums.add(a=-(2.0**53), b=math.nan)
    sums.add(a=1.0)
    assert sums.compute()["a"] == 1.0
    assert math.isnan(sums.compute()["b"])  # a loss that is no number is not left out
