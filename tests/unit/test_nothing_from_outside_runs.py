"""Nothing that another machine can write is ever run: no pickle, no shell, no import by a name."""

import ast
import os
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.errors import ArtifactError, SpecError
from jobs.spec import EvaluateSpec, TrainSpec, spec_from_dict
from worker.runner.catalog import kinds_of_data, topologies
from worker.runner.resume import Saved

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for package in ("jobs", "worker", "lightning_modules", "datamodules")
    for file in (ROOT / package).rglob("*.py")
)
#: Modules whose reading runs what was written.
RUNNING = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
#: Files that may import by a name, and why.
IMPORTERS = {
    "jobs/__init__.py",  # public names, from a table of its own
    "jobs/lean.py",  # Redis's asyncio half, where that package lies
    "jobs/verbs/common.py",  # the module of a verb, from a table of the command's
    "worker/runner/__init__.py",  # what torchmetrics would look for
    "worker/runner/catalog.py",  # a file that was found in a folder
    "worker/runner/exported_load.py",  # of a model's export, which brings its own sources along
}


@cache
def trees() -> list[tuple[str, ast.Module]]:
    return [
        (file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8")))
        for file in FILES
    ]


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the file, the dotted name and the keywords of each call."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                given = {
                    each.arg: each.value.value if isinstance(each.value, ast.Constant) else each
                    for each in node.keywords
                    if each.arg
                }
                yield file, ast.unparse(node.func), given


CALLS = list(calls())


def test_no_module_is_used_that_runs_what_it_reads() -> None:
    used = set()
    for file, tree in trees():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            used |= {(file, name) for name in names if name.partition(".")[0] in RUNNING}
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in RUNNING:
                used.add((file, ast.unparse(node)))
    # The one use is the name of an error: what torch raises for a file that is no checkpoint.
    readers = ("worker/runner/resume.py", "worker/runner/exported_load.py")
    words = ("pickle", "pickle.UnpicklingError")
    assert used == {(reader, word) for reader in readers for word in words}


def test_checkpoints_and_arrays_are_read_as_data() -> None:
    loads = [(file, name, given) for file, name, given in CALLS if name.endswith(".load")]
    torch_loads = [given for _, name, given in loads if name == "torch.load"]
    array_loads = [given for _, name, given in loads if name in {"np.load", "numpy.load"}]
    assert torch_loads
    assert all(given.get("weights_only") is True for given in torch_loads)
    assert array_loads
    assert all(given.get("allow_pickle") is False for given in array_loads)
    assert not [name for _, name, _ in CALLS if "load_from_checkpoint" in name]


def test_no_text_is_run() -> None:
    names = {name for _, name, _ in CALLS}
    assert not names & {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    assert not [file for file, _, given in CALLS if given.get("shell")]
    importing = {
        file
        for file, name, _ in CALLS
        if name.rpartition(".")[2] in {"import_module", "spec_from_file_location"}
    }
    assert importing == IMPORTERS


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "it went off"))
    file = tmp_path / "step-1.ckpt"
    if how == "torch":
        torch.save({"format": 2, "weights": Bomb()}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ArtifactError, match="torn or no checkpoint"):
        Saved.read(file)
    assert [each.name for each in tmp_path.iterdir()] == ["step-1.ckpt"]


NAMES = [
    *("os", "sys", "..", ".", "", "_base", "_base.py", "a.b", "lightning_modules._base", "os.path"),
    *("../single_layer", "single_layer.py", "/etc/passwd", "single_layer/../_base", "__init__"),
    *("__import__('os')", "single layer", "single_layer\0", "unroll_plugins:x"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_from_the_wire_is_looked_up_and_never_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("imported")

    monkeypatch.setattr("worker.runner.catalog._import", refuse)
    for shelves in (topologies(), kinds_of_data()):
        with pytest.raises(SpecError):
            shelves.find(name)


TRAIN = {"model": {"name": "m"}, "data": {"name": "d"}}
EVALUATE = {"kind": "evaluate", "job": "a"}
ORDERS = ["env", "environment", "command", "shell", "cwd", "path", "python", "plugins", "hooks"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_spec_orders_nothing_but_a_training(order: str) -> None:
    given: Any = {"LD_PRELOAD": "/tmp/x.so"}
    places: list[dict[str, Any]] = [{**TRAIN, order: given}, {**EVALUATE, order: given}]
    places += [{**TRAIN, section: {order: given}} for section in ("resources", "policy", "trainer")]
    for plain in places:
        with pytest.raises(SpecError):
            spec_from_dict(plain)
    assert isinstance(spec_from_dict(TRAIN), TrainSpec), "without it the spec is a good one"
    assert isinstance(spec_from_dict(EVALUATE), EvaluateSpec)
