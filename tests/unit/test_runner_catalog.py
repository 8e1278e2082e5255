"""The folder is the registry: what a public file becomes in the catalogue."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import datamodules
import lightning_modules
from jobs.catalog import Catalog
from jobs.errors import SpecError
from jobs.spec import Component
from worker.runner.build import build_data, build_model, rebuild_model
from worker.runner.catalog import (
    PLUGINS,
    argument_meanings,
    kinds_of_data,
    topologies,
    whole_catalog,
)
from worker.runner.reasons import BuildError

PLUGIN = '''
from collections.abc import Sequence
from typing import Annotated
from annotated_types import Ge
from datamodules._params import FromData
from lightning_modules._base import Topology

class _Hidden(Topology):
    pass

class Echo(Topology):
    """Give back what came in.

    Longer words about it.

    Args:
        size: how much,
            over two lines
        odd: whether it is odd

    """

    accepts = frozenset({("tokens", "tokens")})
    trainer_defaults = {"lr": 0.5}
    monitor, monitor_mode = "val/loss", "min"

    def __init__(self, *, size: Annotated[int, Ge(1)] = 3, odd: bool = False,
                 classes: FromData[int]) -> None:
        super().__init__()
        self.save_hyperparameters()
        if odd:
            raise ValueError("too odd")
        self.sizes = size, classes
'''


def public_files(package: object) -> set[str]:
    folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    return {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lightning_modules"
    folder.mkdir()
    monkeypatch.setenv(PLUGINS, os.pathsep.join([str(tmp_path), ""]))
    return folder


def test_every_public_file_is_in_the_catalogue_and_travels_as_json() -> None:
    catalog, broken = whole_catalog()
    assert broken == []
    assert catalog.models.keys() == public_files(lightning_modules)
    assert catalog.data.keys() == public_files(datamodules)
    assert Catalog.from_dict(catalog.to_dict()).digest == catalog.digest
    for entry in [*catalog.models.values(), *catalog.data.values()]:
        assert entry.summary
        assert entry.tasks
        for parameter in entry.parameters:
            assert parameter.meaning, f"{entry.name} does not explain {parameter.name}"


def test_a_type_can_bring_its_meaning_along(plugins: Path) -> None:
    text = PLUGIN.replace("from annotated", "from typing_extensions import Doc\nfrom annotated")
    text = text.replace("        odd: whether it is odd\n", "")
    shared = 'odd: Annotated[bool, Doc("whether it is odd")]'
    (plugins / "echo.py").write_text(text.replace("odd: bool", shared))
    (_, odd) = topologies().find("echo").entry.parameters
    assert odd.meaning == "whether it is odd"


def test_a_plugin_is_built_from_its_signature(plugins: Path) -> None:
    (plugins / "echo.py").write_text(PLUGIN)
    found = topologies().find("echo")
    assert found.entry.summary == "Give back what came in."
    assert [each.name for each in found.entry.parameters] == ["size", "odd"]
    assert found.entry.parameters[0].ge == 1
    assert found.entry.parameters[0].meaning == "how much, over two lines"
    assert found.entry.trainer_defaults == {"lr": 0.5}
    assert found.entry.from_data == {"classes"}
    model = build_model(found, Component("echo", {"size": 4}), {"classes": 7, "other": 1})
    assert model.sizes == (4, 7)
    assert rebuild_model(found, dict(model.hparams)).sizes == (4, 7)
    assert topologies().find("echo").cls is found.cls


def test_what_cannot_be_built_says_so_in_one_line(plugins: Path) -> None:
    (plugins / "echo.py").write_text(PLUGIN)
    found = topologies().find("echo")
    with pytest.raises(SpecError, match="the data sets 'classes'; leave it out"):
        build_model(found, Component("echo", {"classes": 7}), {"classes": 7})
    with pytest.raises(SpecError, match="echo needs classes of its data, which gives only size"):
        build_model(found, Component("echo"), {"size": 7})
    with pytest.raises(BuildError, match="echo cannot be built: too odd"):
        build_model(found, Component("echo", {"odd": True}), {"classes": 7})


def test_a_broken_plugin_hides_nothing_else(plugins: Path) -> None:
    (plugins / "broken.py").write_text("import nothing_of_this_name")
    (plugins / "empty.py").write_text("")
    (plugins / "_private.py").write_text("raise AssertionError('never imported')")
    catalog, broken = whole_catalog()
    assert catalog.models.keys() == public_files(lightning_modules)
    assert [line.partition(":")[0] for line in broken] == ["broken", "empty"]
    assert "must hold one public Topology, not 0" in broken[1]


def test_a_parameter_that_cannot_travel_is_told(plugins: Path) -> None:
    (plugins / "echo.py").write_text(PLUGIN.replace("odd: bool", "odd: complex"))
    with pytest.raises(BuildError, match="Echo cannot be in a catalogue: parameter 'odd'"):
        topologies().find("echo")


def test_two_files_of_one_name_are_refused(plugins: Path) -> None:
    (plugins / "attention_encoder_decoder.py").write_text(PLUGIN)
    with pytest.raises(BuildError, match="have the same name"):
        topologies()


@pytest.mark.parametrize("name", ["os", "_text", "../dates", "dates.py", "datamodules.dates", ""])
def test_a_name_never_chooses_what_is_imported(name: str) -> None:
    with pytest.raises(SpecError, match="no kind of data is called"):
        kinds_of_data().find(name)


def test_kinds_of_data_refuse_what_they_do_not_take() -> None:
    with pytest.raises(SpecError, match="did you mean 'examples'"):
        build_data(kinds_of_data().find("dates"), Component("dates", {"exmples": 5}))


words = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=5)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), words, max_size=5))
def test_meanings_are_read_over_line_ends(arguments: dict[str, list[str]]) -> None:
    section = "".join(
        f"    {name}: " + "\n        ".join(meaning) + "\n" for name, meaning in arguments.items()
    )
    docstring = f"Do it.\n\nArgs:\n{section}\nRaises:\n    ValueError: never\n"
    expected = {name: " ".join(meaning) for name, meaning in arguments.items()}
    assert argument_meanings(docstring) == expected
