"""What the last layer and its loss hold in memory does not grow with the batch."""

import pytest

from tests.benchmarks.speed._readout_memory import extra_megabytes


@pytest.mark.parametrize("held", [0, 100], ids=["written", "written or copied"])
def test_the_logits_of_a_large_vocabulary_are_never_whole_in_memory(held: int) -> None:
    # In float32 they alone would be 1,024 MB.
    assert extra_megabytes(8000, 32, 32000, held=held) < 400
