"""The folder is the registry: every public file holds one class, and its signature is its schema.

A public file of `lightning_modules/` is a topology, one of `datamodules/` a kind of data. Each
folder named in `UNROLL_PLUGINS` (separated like PATH) may hold the same two folders.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

from typing_extensions import Doc

import datamodules
import lightning_modules
from datamodules._base import FAMILY_METRICS, DataModule, TextData
from datamodules._params import FromDataMarker
from datamodules._refusals import Refusal as SaidRefusal
from jobs.catalog import Catalog, Entry
from jobs.errors import SpecError, did_you_mean
from jobs.refusal import Refusal
from jobs.schema import REQUIRED, Parameter
from lightning_modules._base import Topology
from worker.runner.reasons import BuildError

#: Folders of further topologies and kinds of data.
PLUGINS: Final = "UNROLL_PLUGINS"

T = TypeVar("T", bound=Topology | DataModule)


@dataclass(frozen=True)
class Found(Generic[T]):
    """A public class, and what the catalogue says of it."""

    cls: type[T]
    entry: Entry


class Shelves(Generic[T]):
    """All public files of one kind. A file is imported when its name is asked for."""

    def __init__(self, kind: str, base: type[T], folders: list[Path]) -> None:
        self._kind = kind
        self._base = base
        self._files: dict[str, Path] = {}
        for folder in folders:
            for file in sorted(folder.glob("[!_]*.py")):
                if (other := self._files.setdefault(file.stem, file)) != file:
                    raise BuildError(f"{file} and {other} have the same name: rename one")

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def find(self, name: str) -> Found[T]:
        """Return the class of this name. Raise SpecError if no file is called so."""
        if name not in self._files:
            known = f" (there are: {', '.join(self._files)})"
            hint = did_you_mean(name, self._files) or known
            raise SpecError(f"no {self._kind} is called {name!r}{hint}")
        cls = self._only_class(_import(self._files[name]))
        try:
            return _found(name, cls)
        except TypeError as error:
            raise BuildError(f"{cls.__name__} cannot be in a catalogue: {error}") from None

    def _only_class(self, module: ModuleType) -> type[T]:
        classes: list[type[T]] = [
            each
            for name, each in vars(module).items()
            if inspect.isclass(each)
            and issubclass(each, self._base)
            and each.__module__ == module.__name__
            and not name.startswith("_")
        ]
        if len(classes) != 1:
            raise BuildError(
                f"{module.__file__} must hold one public {self._base.__name__}, not {len(classes)}"
            )
        return classes[0]


def topologies() -> Shelves[Topology]:
    """Return all topologies."""
    return Shelves("topology", Topology, _folders(lightning_modules))


def kinds_of_data() -> Shelves[DataModule]:
    """Return all kinds of data."""
    return Shelves("kind of data", DataModule, _folders(datamodules))  # type: ignore[type-abstract]


def whole_catalog() -> tuple[Catalog, list[str]]:
    """Return everything that can be built here, and a line for each file that is broken."""
    broken: list[str] = []
    models, data = (_entries(shelves, broken) for shelves in (topologies(), kinds_of_data()))
    return Catalog(models, data), broken


def _entries(shelves: Shelves[Any], broken: list[str]) -> dict[str, Entry]:
    entries = {}
    for name in shelves:
        try:
            entries[name] = shelves.find(name).entry
        except Exception as error:
            broken.append(f"{name}: {type(error).__name__}: {error}")
    return entries


def _folders(package: ModuleType) -> list[Path]:
    plugins = [each for each in os.environ.get(PLUGINS, "").split(os.pathsep) if each]
    return [Path(str(package.__file__)).parent] + [
        Path(each).resolve() / package.__name__ for each in plugins
    ]


def _import(file: Path) -> ModuleType:
    package = sys.modules.get(file.parent.name)
    if package is not None and Path(str(package.__file__)).parent == file.parent:
        return importlib.import_module(f"{package.__name__}.{file.stem}")
    name = f"unroll_plugins:{file}"  # a colon: no import statement can name it
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BuildError(f"{file} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _found(name: str, cls: type[T]) -> Found[T]:
    hints = get_type_hints(cls.__init__, include_extras=True)
    meanings = argument_meanings(cls.__doc__ or "")
    visible, hidden = [], set()
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        annotation = hints.get(parameter.name)
        if _is_from_data(annotation):
            hidden.add(parameter.name)
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        meaning = meanings.get(parameter.name) or _own_meaning(annotation)
        visible.append(Parameter.from_annotation(parameter.name, annotation, default, meaning))
    tasks = cls.accepts if issubclass(cls, Topology) else cls.gives
    entry = Entry(
        name=name,
        summary=inspect.getdoc(cls).partition("\n")[0] if cls.__doc__ else "",  # type: ignore[union-attr]
        parameters=tuple(visible),
        tasks=frozenset(tasks),
        trainer_defaults=dict(cls.trainer_defaults),
        from_data=frozenset(hidden),
        tasks_by=None if issubclass(cls, Topology) else cls.tasks_by,
        refusals=tuple(map(_refusal, cls.refusals)),
        **_reported(cls),
    )
    _check_refusals(entry)
    return Found(cls, entry)


def _reported(cls: type[Any]) -> dict[str, Any]:
    """Return the splits of a kind of data and its metrics of text, as far as it says them."""
    if not issubclass(cls, DataModule):
        return {}
    if not issubclass(cls, TextData) or cls.families is None:
        return {"splits": cls.splits}
    own = {"own": cls.own_metrics} if cls.own_metrics else {}
    if isinstance(cls.families, str):
        metrics, by = dict(FAMILY_METRICS), cls.families
    else:
        metrics, by = {each: FAMILY_METRICS[each] for each in cls.families}, ""
    return {"splits": cls.splits, "text_metrics": {**metrics, **own}, "text_metrics_by": by}


def _refusal(said: SaidRefusal) -> Refusal:
    return Refusal(when=said.when, unless=said.unless, unequal=said.unequal, because=said.because)


def _check_refusals(entry: Entry) -> None:
    """Raise TypeError where one looks at a parameter that there is not, or refuses the defaults."""
    known = {each.name: each.default for each in entry.parameters}
    for refusal in entry.refusals:
        if unknown := refusal.names - known.keys() - entry.from_data:
            raise TypeError(f"a refusal looks at {', '.join(sorted(unknown))}: no such parameter")
        if refusal.applies(known):
            raise TypeError(f"a refusal refuses the defaults: {refusal.sentence(known)}")


def _is_from_data(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(
        isinstance(mark, FromDataMarker) for mark in get_args(annotation)[1:]
    )


def _own_meaning(annotation: Any) -> str:
    """Return what a type that several classes share says of itself: `Annotated[..., Doc(...)]`."""
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((mark.documentation for mark in marks if isinstance(mark, Doc)), "")


def argument_meanings(docstring: str) -> Mapping[str, str]:
    """Return what a docstring's `Args:` section says of each argument, as one line each."""
    _, _, section = inspect.cleandoc(docstring).partition("Args:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if match := re.fullmatch(r" {4}(\w+)(?: \([^)]*\))?: ?(.*)", line):
            name = match[1]
            meanings[name] = match[2]
        elif name and line.strip():
            meanings[name] = f"{meanings[name]} {line.strip()}".strip()
    return meanings
