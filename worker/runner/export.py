"""Export: a folder with everything that a trained model needs to be used without this service.

    weights.pt      weights, vocabulary and the arguments of the model's class, for torch alone
    config.json     which model on which data, how it was trained, with which versions
    load.py         loads it and answers lines
    source/         the files of `lightning_modules` and `datamodules` that load.py imports

It leaves here as one archive; whoever asked for it unpacks it and adds what the record knows.
"""

import inspect
import io
import json
import platform
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

import datamodules
import lightning_modules
from jobs.files import ARCHIVE_FILE
from jobs.spec import ExportSpec, TrainerOptions, TrainSpec
from worker.folder import write_atomically
from worker.runner import catalog, exported_load, precision
from worker.runner.resume import Saved
from worker.runner.task import Task
from worker.runner.trained import Trained, trained_spec

_LICENCES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
#: Characters of a licence that are kept: a longer one is named and not repeated.
_LICENCE_LENGTH: Final = 20_000


def export(task: Task, spec: ExportSpec) -> dict[str, Any]:
    """Write `files/export.zip`. Raise SpecError for a model that cannot be used on lines."""
    task.reporter.phase("exporting")
    saved = task.read_checkpoint()
    trained = trained_spec(task.attempt, saved)
    ready = Trained.build(saved, trained)  # what cannot be built here cannot be loaded there
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.pt", _weights(saved), zipfile.ZIP_STORED)
        archive.writestr("config.json", json.dumps(_config(task, saved, trained), indent=1))
        archive.writestr("load.py", Path(str(exported_load.__file__)).read_bytes())
        for name, source in _sources(trained):
            archive.writestr(f"source/{name}", source.read_bytes())
    task.folder.files.mkdir(exist_ok=True)
    write_atomically(task.folder.files / ARCHIVE_FILE, content.getvalue())
    parameters = sum(each.numel() for each in ready.model.parameters())
    return {"parameters": parameters, "bytes": content.tell(), "job": spec.job}


def _weights(saved: Saved) -> bytes:
    file = io.BytesIO()
    content = {
        "weights": dict(saved.weights),
        "data": dict(saved.data),
        "hyper_parameters": dict(saved.hyper_parameters),
    }
    torch.save(content, file)
    return file.getvalue()


def _config(task: Task, saved: Saved, trained: TrainSpec) -> Mapping[str, Any]:
    return {
        "model": trained.model.name,
        "hyper_parameters": dict(saved.hyper_parameters),
        "data": {"name": trained.data.name, "params": _portable(trained.data.params)},
        "trainer": dict(saved.trainer),
        "seed": trained.seed,
        "step": saved.position.step,
        "bfloat16": _multiplies_bfloat16(saved),
        "licence": _licence(task, trained),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("unroll", "torch", "lightning", "numpy")},
        },
    }


def _multiplies_bfloat16(saved: Saved) -> bool:
    """Return whether answers are computed in bfloat16 here: so they shall be where it is loaded."""
    choice = TrainerOptions.from_dict(saved.trainer).precision
    return precision.choose(choice, torch.device("cpu")) == "bf16-mixed"


def _portable(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the data's parameters without the path of this machine, which tells nobody anything.

    A required `root` is still given: nothing is read from it where lines are answered.
    """
    return {name: "." if name == "root" else value for name, value in params.items()}


def _licence(task: Task, trained: TrainSpec) -> str:
    """Return the licence that lies beside the data; empty where none does."""
    given = trained.data.params.get("root")
    if not isinstance(given, str) or "://" in given:
        return ""
    for root in task.workspace.roots:
        for name in _LICENCES:
            file = root / given / name
            if file.is_file() and file.resolve().is_relative_to(root.resolve()):
                with file.open(encoding="utf-8", errors="replace") as text:
                    return text.read(_LICENCE_LENGTH)
    return ""


def _sources(trained: TrainSpec) -> Iterator[tuple[str, Path]]:
    """Yield the files of both packages: those that are shared, and the two that are used."""
    found = (
        (datamodules, catalog.kinds_of_data().find(trained.data.name).cls, trained.data.name),
        (lightning_modules, catalog.topologies().find(trained.model.name).cls, trained.model.name),
    )
    for package, cls, name in found:
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.glob("_*.py")):
            yield f"{package.__name__}/{file.name}", file
        own = Path(inspect.getfile(cls))  # perhaps a plugin's
        for file in sorted(own.parent.glob("_*.py")) if own.parent != folder else ():
            yield f"{package.__name__}/{file.name}", file
        yield f"{package.__name__}/{name}.py", own
