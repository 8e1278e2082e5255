"""What the last layer and its loss hold in memory does not grow with the batch."""

from tests.benchmarks.speed._readout_memory import extra_megabytes


def test_the_logits_of_a_large_vocabulary_are_never_whole_in_memory() -> None:
    # In float32 they alone would be 1,024 MB.
    assert extra_megabytes(8000, 32, 32000) < 400
