"""The gate keeps the rate of error that it promises, on what real models said."""

from jobs.gate import Gate
from tests.benchmarks.gate import ALIKE, TRIALS, WORSE, WORSE_ON_LONG, run

GATE = Gate(metric="bleu")


def test_of_models_that_differ_by_chance_no_more_are_promoted_than_promised() -> None:
    found = run(ALIKE, GATE, TRIALS, resamples=200)
    assert any(difference > 0 for difference, _ in found)
    assert sum(promoted for _, promoted in found) <= (1 - GATE.confidence) * TRIALS


def test_a_model_that_is_a_point_of_bleu_worse_is_never_promoted() -> None:
    found = run(WORSE, GATE, TRIALS, resamples=200)
    mean = sum(difference for difference, _ in found) / TRIALS
    assert -1.3 < mean < -0.7
    assert not any(promoted for _, promoted in found)


def test_a_model_that_fails_on_long_sentences_is_found_by_thirds_alone() -> None:
    alone = run(WORSE_ON_LONG, GATE, 40, resamples=200)
    sliced = run(WORSE_ON_LONG, GATE, 40, resamples=200, thirds=True)
    assert sum(promoted for _, promoted in alone) >= 35
    assert sum(promoted for _, promoted in sliced) <= 3
