"""The preloaded parent on the torch side: load everything that a runner may need, then fork."""

import os
import random
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from worker import forking
from worker.runner.catalog import PLUGINS, whole_catalog
from worker.runner.trained import hold


def serve(main: forking.Main) -> None:
    """Fork runners that run `main` until the worker is gone.

    Nothing that computes may be called here: one parallel operation starts threads, which a fork
    does not have and then waits for. Nor may anything look for a GPU: a fork could not use it.
    """
    # Code of others may do anything when it is imported, hence only in the runner that needs it.
    os.environ.pop(PLUGINS, None)
    whole_catalog()
    forking.serve(partial(_run_on_its_own, main), hold)


def _run_on_its_own(main: forking.Main, arguments: Sequence[str]) -> int:
    reseed()
    return main(arguments)


def reseed() -> None:
    """Seed the random number generators afresh: each fork has inherited the same state."""
    random.seed()
    np.random.seed()
    torch.seed()
