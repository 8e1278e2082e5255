"""What tests of every cost share."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Fewer examples than the usual 100: what one run does not find, a later one does. Tests that need
# more say so, and take the machine's time as it comes.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.load_profile("quick")


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


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Take back what a runner or a Celery worker inside this process sets for all of it."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
