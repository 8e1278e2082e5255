"""What every topology shares: attributes as any torch module has them, only set sooner."""

from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import nn

from lightning_modules._base import Topology

#: Values that torch keeps in different places, or in the plain one.
VALUES: dict[str, Any] = {
    "text": "training_step",
    "nothing": None,
    "number": 3,
    "parameter": nn.Parameter(torch.ones(2)),
    "module": nn.Linear(1, 1),
    "tensor": torch.ones(1),
}


def places(module: LightningModule) -> dict[str, str]:
    """Return where an attribute `x` lies, and what it is."""
    return {
        place: type(held["x"]).__name__
        for place, held in {"plain": vars(module), **vars(module)}.items()
        if place in {"plain", "_parameters", "_buffers", "_modules"} and "x" in held
    }


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("first", VALUES)
@pytest.mark.parametrize("second", VALUES)
def test_attributes_lie_where_torch_lays_them(first: str, second: str, buffer: bool) -> None:
    found = []
    for module in (Topology(), LightningModule()):
        outcome = None
        if buffer:
            module.register_buffer("x", torch.zeros(1))
        for value in (first, second):
            try:
                module.x = VALUES[value]
            except TypeError as error:
                outcome = str(error)
        found.append((places(module), outcome))
    assert found[0] == found[1]
