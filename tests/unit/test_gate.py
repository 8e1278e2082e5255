"""What the gate lets in, and what it says of the rest."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.gate import METRICS, Finding, Gate


def found(difference: float, *, at: float = 30.0, significant: bool = True) -> Finding:
    width = 0.5 * abs(difference) if significant else 2 * abs(difference) + 0.1
    return Finding(
        champion=at,
        challenger=at + difference,
        difference=difference,
        low=difference - width,
        high=difference + width,
        p=0.01 if significant else 0.4,
        significant=significant,
    )


def test_a_significant_gain_is_let_in() -> None:
    verdict = Gate(metric="bleu").judge(found(1.0), {"val": found(-0.5)})
    assert verdict.promote
    assert verdict.reason == (
        "better on the test set: bleu 30 -> 31, difference +1 [+0.5, +1.5], p = 0.01"
    )


@pytest.mark.parametrize(
    ("gate", "test", "slices", "said"),
    [
        ({}, found(-1.0), {}, "no better on the test set"),
        ({}, found(0.0), {}, "no better on the test set"),
        ({}, found(math.nan), {}, "bleu is nan"),
        ({}, found(1.0, significant=False), {}, "the gain may be chance"),
        ({"margin": 2.0}, found(1.0), {}, "better by less than 2"),
        ({"floor": 35.0}, found(1.0), {}, "bleu 31 is not at least 35"),
        ({}, found(1.0), {"val": found(-1.5)}, "worse on val by more than 1"),
        ({"max_drop": 0.0}, found(1.0), {"val": found(-0.1)}, "worse on val by more than 0"),
        ({}, found(1.0), {"a": found(1.0), "b": found(math.nan)}, "worse on b by more than 1"),
    ],
)
def test_what_is_kept_out_is_told_why(
    gate: dict[str, float], test: Finding, slices: dict[str, Finding], said: str
) -> None:
    verdict = Gate(metric="bleu", **gate).judge(test, slices)
    assert not verdict.promote
    assert verdict.reason.startswith(f"the champion is kept: {said}")


def test_of_a_metric_that_is_to_be_small_less_is_a_gain() -> None:
    gate = Gate(metric="wer", floor=0.5)
    assert gate.judge(found(-0.1, at=0.4), {}).promote
    assert not gate.judge(found(0.1, at=0.4), {}).promote
    assert not gate.judge(found(-0.1, at=0.7), {}).promote
    assert "worse on val" in gate.judge(found(-0.1, at=0.4), {"val": found(0.02, at=0.4)}).reason


def test_the_first_model_needs_the_floor_alone() -> None:
    assert Gate(metric="bleu").first(0.1).promote
    assert not Gate(metric="bleu", floor=20).first(19.9).promote
    assert not Gate(metric="bleu").first(math.nan).promote


@given(
    st.floats(-5, 5),
    st.booleans(),
    st.floats(0, 2),
    st.lists(st.floats(-5, 5), max_size=3),
)
def test_what_is_let_in_is_a_significant_gain_without_a_large_loss(
    difference: float, significant: bool, margin: float, slices: list[float]
) -> None:
    test = found(difference, significant=significant)
    named = {str(number): found(each) for number, each in enumerate(slices)}
    promoted = Gate(metric="bleu", margin=margin).judge(test, named).promote
    wanted = significant and difference > 0 and difference >= margin and min([0, *slices]) >= -1
    assert promoted == wanted


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "blue"}, "no model reports the metric 'blue'; did you mean 'bleu'"),
        ({"metric": "step_loss"}, "no model reports the metric 'step_loss'"),
        ({"metric": "bleu", "confidence": 1.0}, "from .5 to below 1, not 1.0"),
        ({"metric": "bleu", "margin": -1.0}, "a gate's margin is a number from 0, not -1.0"),
        (
            {"metric": "bleu", "max_drop": math.nan},
            "a gate: 'max_drop' must be float, or none, not nan",
        ),
        ({"metric": "bleu", "floor": math.inf}, "a gate: 'floor' must be float, or none, not inf"),
        ({"metric": "bleu", "margin": "1"}, "a gate: 'margin' must be float, not '1'"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(gate: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Gate(**gate)  # type: ignore[arg-type]


def test_a_metric_must_be_one_that_the_model_reports() -> None:
    Gate(metric="bleu").check(["tokens"])
    Gate(metric="bleu").check(["label", "something new"])
    Gate(metric="slot_error").check(["tokens"], ["bleu", "slot_error"])
    Gate(metric="macro_f1").check(["label"])
    Gate(metric="perplexity").check(["next"])
    for metric, of_text in (("chrf", ["bleu"]), ("exact_match", []), ("slot_error", ["bleu"])):
        with pytest.raises(SpecError, match=f"this model reports no '{metric}'"):
            Gate(metric=metric).check(["tokens"], of_text)
    with pytest.raises(SpecError, match=r"this model reports no 'bleu'.*accuracy, loss"):
        Gate(metric="bleu").check(["label"])


def test_each_metric_has_its_better_end() -> None:
    assert {name for name in METRICS if not Gate(metric=name).more_is_better} == {
        *("ter", "wer", "cer", "loss", "mse", "mae", "perplexity", "bits", "slot_error")
    }
