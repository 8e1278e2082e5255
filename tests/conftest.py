"""What tests of every cost share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets; for tests marked `data`."""
    named = os.environ.get("UNROLL_TEST_DATA", "")
    if named and Path(named).is_dir():
        return Path(named)
    reason = f"UNROLL_TEST_DATA names no folder of real data ({named!r})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
