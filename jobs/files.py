"""Names of the files by which a job answers: a worker's runner writes them, a client reads them."""

from typing import Final

PREDICTIONS_FILE: Final = "predictions.json"
#: Frames that a model wrote on, as NumPy saves them, float32 (frames, features).
GENERATED_FILE: Final = "generated.npy"
#: The rows of two evaluations whose scores differ most.
EXAMPLES_FILE: Final = "examples.json"
#: The archive that an export leaves.
ARCHIVE_FILE: Final = "export.zip"


def attention_files(row: int) -> tuple[str, str]:
    """Return the names of a line's attention, its numbers and its picture; `row` counts from 0."""
    return f"attention-{row:04d}.json", f"attention-{row:04d}.png"
