"""What `make bench-precision` makes of outputs: BLEU of parts, and the paired bootstrap."""

import pytest
from sacrebleu.metrics import BLEU

from tests.benchmarks.precision import compare, interval, parts, score

REFERENCES = [
    "a man rides a bicycle down the street .",
    "two dogs are playing in the green grass .",
    "a woman in a red dress is reading a book .",
    "children are running along the beach at noon .",
    "the boy jumps over a small stone wall .",
]
GOOD = [*REFERENCES[:3], "children run along the beach at noon .", "a boy jumps over a wall ."]
POOR = [line.replace(" the ", " that ").replace(" a ", " one ") for line in GOOD]


@pytest.mark.parametrize("outputs", [GOOD, POOR], ids=["good", "poor"])
def test_bleu_of_the_parts_is_that_of_the_corpus(outputs: list[str]) -> None:
    expected = BLEU().corpus_score(outputs, [REFERENCES]).score
    assert score(parts(outputs, REFERENCES).sum(axis=0)) == pytest.approx(expected)


def test_the_interval_is_of_the_difference_and_paired() -> None:
    good, poor = parts(GOOD, REFERENCES), parts(POOR, REFERENCES)
    assert interval([good], [good]) == (0.0, 0.0, 0.0)  # unpaired it would be wide
    change, low, high = interval([poor], [good])
    assert low < change < high < 0.0
    swapped = interval([good], [poor])
    assert swapped == pytest.approx((-change, -high, -low))


def test_every_seed_has_a_row_and_their_mean() -> None:
    outputs = {("bf16", 1): POOR, ("fp32", 1): GOOD, ("bf16", 2): GOOD, ("fp32", 2): POOR}
    rows = list(compare(outputs, REFERENCES))
    assert [row.size for row in rows] == ["seed 1", "seed 2", "seed 1, 2"]
    first, second, both = rows
    assert first.figure == second.against
    assert first.against is not None
    assert first.figure < first.against
    assert both.figure == both.against == pytest.approx((first.figure + first.against) / 2)
