"""Leave out what takes long to import and is not used.

Redis's package imports its asyncio half at its top: most of the time that a command takes to start.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_ASYNCIO: Final = "redis.asyncio"


class _Postponed(ModuleType):
    """A package that is run when something of it is asked for; its submodules are found before."""

    def __getattr__(self, name: str) -> Any:
        spec, kind = self.__spec__, ModuleType
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = kind  # type: ignore[assignment]  # from now on as any other
        spec.loader.exec_module(self)
        return getattr(self, name)


def postpone_asyncio() -> None:
    """Let `import redis` leave its asyncio half for who asks for it; to be called before."""
    found = None if "redis" in sys.modules else find_spec("redis")
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place, "asyncio")
        spec = spec_from_file_location(
            _ASYNCIO, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is not None and (folder / "__init__.py").is_file():
            module = module_from_spec(spec)
            module.__class__ = _Postponed
            sys.modules[_ASYNCIO] = module
