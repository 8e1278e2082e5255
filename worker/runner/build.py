"""From names to instances: the one place that calls the constructors of models and data."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from datamodules._base import DataModule
from datamodules._errors import DataError
from jobs.errors import SpecError
from jobs.spec import Component
from lightning_modules._base import Topology
from lightning_modules._errors import ModelError
from worker.runner.catalog import Found
from worker.runner.reasons import BuildError

T = TypeVar("T", bound=Topology | DataModule)


def build_data(found: Found[DataModule], component: Component) -> DataModule:
    """Return the kind of data a spec names. Raise SpecError, DataError or BuildError."""
    return _construct(found, found.entry.check(component))


def build_model(
    found: Found[Topology], component: Component, dims: Mapping[str, int | bool]
) -> Topology:
    """Return the topology a spec names, fitted to its data.

    Raise SpecError, ModelError or BuildError.
    """
    wanted = found.entry.from_data
    signature = inspect.signature(found.cls).parameters
    needed = {name for name in wanted if signature[name].default is inspect.Parameter.empty}
    if missing := needed - dims.keys():
        raise SpecError(
            f"{found.entry.name} needs {', '.join(sorted(missing))} of its data, "
            f"which gives only {', '.join(sorted(dims)) or 'nothing'}"
        )
    given = {name: value for name, value in dims.items() if name in wanted}
    return _construct(found, {**found.entry.check(component), **given})


def rebuild_model(found: Found[Topology], hyper_parameters: Mapping[str, Any]) -> Topology:
    """Return the topology that a checkpoint was taken of. Raise BuildError."""
    return _construct(found, hyper_parameters)


def _construct(found: Found[T], arguments: Mapping[str, Any]) -> T:
    try:
        return found.cls(**arguments)
    except (SpecError, ModelError, DataError, MemoryError):
        raise
    except (TypeError, ValueError) as error:
        raise BuildError(f"{found.entry.name} cannot be built: {error}") from error
