"""Finding the public topologies, and building small ones for the toys."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_modules
from lightning_modules._base import Topology
from tests.doubles.toys import Toy

FOLDER = Path(lightning_modules.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def public_classes(name: str) -> list[type[Topology]]:
    module = import_module(f"lightning_modules.{name}")
    return [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Topology)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]


def build(topology: type[Topology], data: Toy, **changes: Any) -> Topology:
    torch.manual_seed(2)
    off = dict.fromkeys(("embedding_dropout", "symbol_dropout", "dropout"), 0.0)
    small = {"hidden_size": 24, **off, **changes}
    if not_chosen(data):
        small.pop("label_smoothing", None)
    known = inspect.signature(topology).parameters
    return topology(**{k: v for k, v in {**small, **data.dims}.items() if k in known})


def not_chosen(data: Toy) -> bool:
    """Say whether targets are no classes of which one is right."""
    targets = data.collate("train", [0]).targets
    return targets is not None and targets.is_floating_point()


def cases() -> list[Any]:
    """Return each topology with each of its tasks."""
    pairs = [(name, task) for name in FILES for task in sorted(public_classes(name)[0].accepts)]
    return [pytest.param(pair, id="-".join((pair[0], *pair[1]))) for pair in pairs]
