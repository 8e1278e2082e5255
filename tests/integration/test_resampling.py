"""Intervals and tests: as sacrebleu has them on the same output, and as plain loops count."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest, _bootstrap_resample, estimate_ci

from datamodules._base import TextScoring
from jobs.errors import SpecError
from lightning_modules._row_scores import RowScores, ratio
from lightning_modules._scoring import score_text
from worker.runner import resampling
from worker.runner.resampling import (
    approximate_randomisation,
    bootstrap_counts,
    intervals,
    mcnemar,
    paired_bootstrap,
    percentiles,
)

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "big",
    "small",
    "red",
    "it",
]
SEED, CONFIDENCE = 12345, 0.95
METRICS = {"bleu": BLEU(force=True), "chrf": CHRF(), "ter": TER()}


@pytest.fixture(autouse=True)
def as_sacrebleu(monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)


def corpus(rows, seed):
    """Return references and two systems, the second a little better."""
    chance = np.random.default_rng(seed)

    def altered(words, share):
        return " ".join(
            str(chance.choice(WORDS)) if chance.random() < share else word for word in words
        )

    lines = [
        [str(each) for each in chance.choice(WORDS, chance.integers(4, 14))] for _ in range(rows)
    ]
    references = [[" ".join(line)] for line in lines]
    return (
        references,
        [altered(line, 0.4) for line in lines],
        [altered(line, 0.3) for line in lines],
    )


def rows_of(hypotheses, references):
    scoring = TextScoring(metrics=("bleu", "chrf", "ter", "wer"))
    return score_text(hypotheses, references, scoring).rows


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("seed", [1, 2])
def test_intervals_are_sacrebleus(name, seed):
    references, first, _ = corpus(40, seed)
    streams = [[each[0] for each in references]]
    stats = METRICS[name]._extract_corpus_statistics(first, streams)
    theirs = np.array([each.score for each in _bootstrap_resample(stats, METRICS[name], 200)[1]])
    found = intervals(rows_of(first, references), 200, SEED, CONFIDENCE)[name]
    assert (found[1] - found[0]) / 2 == pytest.approx(estimate_ci(theirs)[1], rel=1e-4)
    assert found == pytest.approx((np.sort(theirs)[5], np.sort(theirs)[-6]), rel=1e-5)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "test"), [("bs", paired_bootstrap), ("ar", approximate_randomisation)]
)
def test_paired_tests_are_sacrebleus(name, seed, kind, test):
    references, first, second = corpus(30, seed)
    streams = [[each[0] for each in references]]
    theirs = PairedTest(
        [("first", first), ("second", second)], {name: METRICS[name]}, streams, kind, n_samples=150
    )()[1]
    (column,) = (each for each in theirs if each != "System")
    one, other = rows_of(first, references)[name], rows_of(second, references)[name]
    found = test(one, other, 150, SEED, CONFIDENCE)
    assert found.p == theirs[column][1].p_value
    wanted = theirs[column][1].score - theirs[column][0].score
    assert found.difference == pytest.approx(wanted)
    assert found.low <= found.difference <= found.high


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_draws_in_parts_are_the_draws_in_one(test, monkeypatch):
    references, first, second = corpus(37, 5)
    one, other = rows_of(first, references)["wer"], rows_of(second, references)["wer"]
    whole = test(one, other, 200, SEED, CONFIDENCE)
    monkeypatch.setattr(resampling, "_AT_ONCE", 37 * 40)
    assert test(one, other, 200, SEED, CONFIDENCE) == whole


def test_a_system_against_itself_is_no_difference():
    references, first, _ = corpus(20, 4)
    one = rows_of(first, references)["bleu"]
    for test in (paired_bootstrap, approximate_randomisation):
        found = test(one, one, 100, SEED, CONFIDENCE)
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert not found.is_significant(CONFIDENCE), "sacrebleu's p alone would say so"


counts = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(counts, st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.95]))
def test_an_interval_is_that_of_a_plain_loop(rows, seed, confidence):
    chance = np.random.default_rng(seed)
    drawn = []
    for _ in range(60):
        picked = [rows[place] for place in chance.choice(len(rows), size=len(rows))]
        above, below = (sum(column) for column in zip(*picked, strict=True))
        drawn.append(above / below if below else float(above > 0))
    drawn.sort()
    cut = int(60 * (1 - confidence) / 2 + 1e-9)
    scores = {"wer": ratio(*zip(*rows, strict=True))}
    found = intervals(scores, 60, seed, confidence)
    assert found == {"wer": pytest.approx((drawn[cut], drawn[59 - cut]))}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=9))
def test_f1_follows_from_sums(rows):
    right, found, true = (sum(column) for column in zip(*rows, strict=True))
    scores = RowScores("f1", np.array(rows, float))
    wanted = 2 * right / (found + true) if found + true else float(right > 0)
    assert scores.score() == pytest.approx(wanted)
    for row, each in zip(rows, scores.each(), strict=True):
        assert each == pytest.approx(
            2 * row[0] / (row[1] + row[2]) if row[1] + row[2] else float(row[0] > 0)
        )


def plain_macro_f1(rows):
    scores = []
    for each in sorted({each for row in rows for each in row}):
        right = sum(true == said == each for true, said in rows)
        scores.append(2 * right / sum((true == each) + (said == each) for true, said in rows))
    return sum(scores) / len(scores)


classes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(classes, st.integers(0, 2**32 - 1))
def test_macro_f1_is_counted_anew_for_each_set_of_rows(rows, seed):
    scores = RowScores("macro_f1", np.array(rows, float))
    assert scores.score() == pytest.approx(plain_macro_f1(rows))
    assert scores.each().tolist() == [float(true == said) for true, said in rows]
    chance = np.random.default_rng(seed)
    drawn = sorted(
        plain_macro_f1([rows[place] for place in chance.choice(len(rows), size=len(rows))])
        for _ in range(60)
    )
    found = intervals({"macro_f1": scores}, 60, seed, CONFIDENCE)
    assert found == {"macro_f1": pytest.approx((drawn[1], drawn[58]))}


def test_macro_f1_of_two_models_is_compared_by_their_rows():
    chance = np.random.default_rng(3)
    true = chance.integers(0, 5, 200)
    worse, better = (
        RowScores("macro_f1", np.stack([true, np.where(chance.random(200) < share, true, 0)], 1))
        for share in (0.5, 0.8)
    )
    found = paired_bootstrap(worse, better, 200, SEED, CONFIDENCE)
    assert found.is_significant(CONFIDENCE)
    renamed = RowScores("macro_f1", 4 - better.values)
    assert paired_bootstrap(worse, renamed, 200, SEED, CONFIDENCE).p == found.p
    with pytest.raises(SpecError, match="take bootstrap for macro_f1"):
        approximate_randomisation(worse, better, 200, SEED, CONFIDENCE)


def test_like_classifiers_with_rare_classes_are_seldom_told_apart_by_macro_f1():
    chance = np.random.default_rng(11)

    def said(true, share):
        guesses = np.where(chance.random(300) < share, true, chance.integers(0, 5, 300))
        return RowScores("macro_f1", np.stack([true, guesses], axis=1).astype(float))

    def told_apart(gain):
        pairs = [
            [said(true, share) for share in (0.7, 0.7 + gain)]
            for true in chance.choice(5, (80, 300), p=[0.02, 0.08, 0.3, 0.3, 0.3])
        ]
        found = [paired_bootstrap(*pair, 200, 1, CONFIDENCE) for pair in pairs]
        return sum(each.is_significant(CONFIDENCE) for each in found)

    assert told_apart(0.0) <= 10  # 4 of 80 are what 5 % allow; more than 10 come once in 500 times
    assert told_apart(0.15) >= 60


@settings(max_examples=40, deadline=None)
@given(counts)
def test_perplexity_follows_from_sums(rows):
    loss, tokens = (sum(column) for column in zip(*rows, strict=True))
    scores = RowScores("perplexity", np.array(rows, float))
    assert scores.score() == pytest.approx(np.exp(loss / tokens if tokens else float(loss > 0)))
    assert RowScores("perplexity", np.array([[1e6, 1.0]])).score() == np.inf


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_exact_sign_test(rows):
    first, second = (ratio(column, 1) for column in zip(*rows, strict=True))
    won = sum(b and not a for a, b in rows)
    lost = sum(a and not b for a, b in rows)
    tosses = won + lost
    chances = [comb(tosses, heads) / 2**tosses for heads in range(tosses + 1)]
    wanted = sum(each for each in chances if each <= chances[won])
    found = mcnemar(first, second, SEED, CONFIDENCE)
    assert found.p == pytest.approx(wanted)
    assert found.difference == pytest.approx((won - lost) / len(rows))


def test_mcnemar_wants_rows_that_are_right_or_wrong():
    whole, parts = ratio([1, 0], 1), ratio([1, 2], [2, 3])
    with pytest.raises(SpecError, match="mcnemar compares rows that are right or wrong"):
        mcnemar(whole, parts, SEED, CONFIDENCE)


@pytest.mark.parametrize("test", [paired_bootstrap, approximate_randomisation])
def test_like_systems_are_seldom_told_apart_and_unlike_ones_are(test):
    chance = np.random.default_rng(8)
    right = chance.random((120, 2, 80)) < 0.6
    pairs = [tuple(ratio(each, 1) for each in pair) for pair in right]
    said = [test(*pair, 200, 1, CONFIDENCE).is_significant(CONFIDENCE) for pair in pairs]
    assert sum(said) <= 13  # 6 of 120 are what 5 % allow; more than 13 come once in 500 times
    better = [
        (one, ratio(two.values[:, 0] + (chance.random(80) < 0.5) > 0, 1)) for one, two in pairs
    ]
    said = [test(*pair, 200, 1, CONFIDENCE).is_significant(CONFIDENCE) for pair in better[:40]]
    assert sum(said) >= 25


def test_every_row_is_drawn_as_often_as_another():
    drawn = sum(part.sum(axis=0) for part in bootstrap_counts(20, 4000, 1))
    assert drawn.sum() == 20 * 4000
    assert abs(drawn / 4000 - 1).max() < 0.1


def test_no_resamples_no_interval():
    assert intervals({"accuracy": ratio([1, 0], 1)}, 0, SEED, CONFIDENCE) == {}
    assert percentiles(np.arange(40.0), 0.95) == (1, 38)
