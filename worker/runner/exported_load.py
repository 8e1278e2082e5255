"""Load the model of this folder and run it on lines: needs torch, NumPy and what README.md names.

    from load import Model
    model = Model()
    print(model.predict(["ein mann schläft ."], beam=5))

or `python load.py < lines > answers`. What trains and scores is not here: the packages for that are
replaced by stand-ins while the sources beside this file are imported.
"""

import argparse
import importlib
import importlib.machinery
import inspect
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
#: Never needed to answer lines, and slow to import.
TRAINING = ("lightning", "torchmetrics", "sacrebleu")
#: Needed by some kinds of data only.
OPTIONAL = ("annotated_types", "babel", "datasets", "pyarrow", "soundfile", "tokenizers")
#: Symbols that are read of a line that text is written from, as where it was trained: without a
#: bound, a file without line ends is answered for hours.
LONGEST = 10_000
#: Exit status of what cannot be answered.
REFUSED = 2


class StandIn:
    """What stands for anything that is imported and not used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class Module(torch.nn.Module):
    """What stands for LightningModule: its hyper-parameters are the constructor's arguments."""

    def save_hyperparameters(self) -> None:
        """Keep the arguments of the constructor that calls this."""
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        known = inspect.signature(type(self).__init__).parameters
        given = caller.f_locals  # type: ignore[union-attr]
        self.hparams = {name: given[name] for name in known if name in given and name != "self"}


class StandInModule(ModuleType):
    """A module, and a package, that has every name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Module if name == "LightningModule" else type(name, (StandIn,), {})


class Finder:
    """Find a stand-in for the packages of a list, and for all below them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, *_: Any) -> Any:
        """Return how to import a name, None where it is none of ours."""
        if name.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        """Return the stand-in."""
        return StandInModule(spec.name)

    def exec_module(self, _module: ModuleType) -> None:
        """Do nothing: a stand-in has every name already."""


def is_missing(name: str) -> bool:
    """Return whether a package cannot be imported here."""
    try:
        importlib.import_module(name)
    except ImportError:
        return True
    return False


@contextmanager
def stand_ins() -> Iterator[None]:
    """Import from `source` for the length of a block, and leave what is imported else as it was."""
    names = [name for name in TRAINING if name not in sys.modules]
    names += [name for name in OPTIONAL if is_missing(name)]
    finder = Finder(names)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(HERE / "source"))
    try:
        yield
    finally:
        sys.path.remove(str(HERE / "source"))
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            if isinstance(sys.modules[name], StandInModule):
                del sys.modules[name]


def build(package: str, name: str, arguments: dict[str, Any]) -> Any:
    """Return an instance of the one public class of a file."""
    module = importlib.import_module(f"{package}.{name}")
    (cls,) = [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and each.__module__ == module.__name__
        and not each.__name__.startswith("_")
        and hasattr(each, "accepts" if package == "lightning_modules" else "encode")
    ]
    return cls(**arguments)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the settings and the weights are. Raise ValueError where a file is torn."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        line = str(error).partition("\n")[0][:200]
        raise ValueError(f"{folder} holds no whole model: {line}; export it again") from None
    return config, saved


class Model:
    """A trained model, ready to answer lines. Raise ValueError where a file of it is torn."""

    def __init__(self, folder: Path = HERE) -> None:
        config, saved = read(folder)
        with stand_ins():
            self.data = build("datamodules", config["data"]["name"], config["data"]["params"])
            self.data.load_state_dict(saved["data"])
            self.data.roots = (Path.cwd(),)
            self.model = build("lightning_modules", config["model"], saved["hyper_parameters"])
            #: What is raised for a line that cannot be answered.
            self.refusal = importlib.import_module("datamodules._errors").DataError
        self.model.load_state_dict(saved["weights"])
        self.model.eval()
        self.bfloat16 = bool(config["bfloat16"])

    def answers(self, lines: Sequence[str], beam: int = 1, n_best: int = 1) -> list[list[Any]]:
        """Return the best answers to each line, each with `text`, `score` and `values`.

        Raise `refusal` for a line that cannot be answered.
        """
        batch = self.data.encode(list(lines))
        if (
            getattr(self.model, "writes_text", False)
            and (read := int(batch.lengths.max())) > LONGEST
        ):
            raise self.refusal(
                f"{read:,} symbols, more than {LONGEST:,}: end each text with its line"
            )
        if hasattr(self.model, "search"):
            wide = max(beam, n_best)
            search = replace(self.model.search, beam=wide, n_best=n_best)
            self.model.search = search.at_least(getattr(self.data, "candidates", 1))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            found = self.model.predict(batch)
        pairs = zip(found, lines, strict=True)
        return [self.data.answers(output, line, n_best) for output, line in pairs]

    def predict(self, lines: Sequence[str], beam: int = 1) -> list[str]:
        """Return the best answer to each line."""
        return [answers[0].text for answers in self.answers(lines, beam)]


def main() -> int:
    """Answer each line of the input with one; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="load.py",
        usage="python load.py < lines > answers",
        description="Answer lines of UTF-8 text, each with one line.",
    )
    parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        model = Model()
    except ValueError as error:
        sys.stderr.write(f"load.py: {error}\n")
        return REFUSED
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            (answer,) = model.predict([text])
        except (UnicodeDecodeError, model.refusal) as error:
            sys.stderr.write(f"load.py: line {number}: {error}\n")
            return REFUSED
        print(" ".join(answer.splitlines()), flush=True)  # noqa: T201 - it is a program
    return 0


if __name__ == "__main__":
    sys.exit(main())
