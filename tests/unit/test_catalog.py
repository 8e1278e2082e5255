"""The catalogue: what it refuses, and that it survives the wire."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.catalog import Catalog, Entry
from jobs.errors import SpecError
from jobs.schema import Parameter
from jobs.spec import Component, TrainerOptions, TrainSpec

TOKENS = ("tokens", "tokens")
CLASSES = ("tokens", "class")

ATTENTION = Entry(
    "attention",
    "Encoder and decoder with attention.",
    (Parameter("hidden_size", "int", ge=1, default=256), Parameter("cell", "str", ("gru", "lstm"))),
    frozenset({TOKENS}),
    {"lr": 0.5, "clip": None},
    frozenset({"vocabulary_size"}),
)
CLASSIFIER = Entry("many_to_one", "A class from the last state.", (), frozenset({CLASSES}))
TEXT = Entry(
    "text", "Lines of text.", (Parameter("root", "str"),), frozenset({TOKENS}), {"lr": 0.25}
)
CATALOG = Catalog({each.name: each for each in (ATTENTION, CLASSIFIER)}, {"text": TEXT})
SPEC = TrainSpec(
    model=Component("attention", {"cell": "gru"}), data=Component("text", {"root": "r"})
)


def test_a_spec_that_fits_is_accepted() -> None:
    CATALOG.check(SPEC)


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        (
            Component("atention"),
            SPEC.data,
            "no topology is called 'atention'; did you mean 'attention'?",
        ),
        (
            Component("zzz"),
            SPEC.data,
            "no topology is called 'zzz' (there are: attention, many_to_one)",
        ),
        (
            Component("attention", {"cell": "gru", "vocabulary_size": 9}),
            SPEC.data,
            "attention: the data sets 'vocabulary_size'; leave it out",
        ),
        (SPEC.model, Component("txt"), "no kind of data is called 'txt'; did you mean 'text'?"),
        (
            Component("attention", {"cell": "gru", "hiden_size": 1}),
            SPEC.data,
            "attention takes no 'hiden_size'; did you mean 'hidden_size'?",
        ),
        (
            Component("attention", {"cell": "gru", "hidden_size": 0}),
            SPEC.data,
            "attention: 'hidden_size' must be int, at least 1, not 0",
        ),
        (SPEC.model, Component("text"), "text needs 'root' (str)"),
        (
            Component("attention", {"cell": "gru", "root": "r"}),
            SPEC.data,
            "attention takes no 'root': it belongs in [data]",
        ),
        (
            Component("attention", {"cell": "gru", "max_epochs": 3}),
            SPEC.data,
            "attention takes no 'max_epochs': it belongs in [trainer]",
        ),
        (
            SPEC.model,
            Component("text", {"root": "r", "hidden_size": 9}),
            "text takes no 'hidden_size': it belongs in [model]",
        ),
        (
            SPEC.model,
            Component("text", {"root": "r", "seed": 9}),
            "text takes no 'seed': it belongs at the top of the spec",
        ),
    ],
)
def test_refusals_are_one_clear_sentence(model: Any, data: Any, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        CATALOG.check(replace(SPEC, model=model, data=data))
    assert str(caught.value) == sentence


EITHER = replace(
    TEXT,
    name="either",
    parameters=(Parameter("target", "str", ("label", "text"), default="text"),),
    tasks=frozenset({TOKENS, CLASSES}),
    tasks_by=("target", {"label": frozenset({CLASSES}), "text": frozenset({TOKENS})}),
)


@pytest.mark.parametrize(
    ("model", "params", "fits"),
    [
        ("attention", {}, True),
        ("attention", {"target": "text"}, True),
        ("attention", {"target": "label"}, False),
        ("many_to_one", {}, False),
        ("many_to_one", {"target": "label"}, True),
    ],
)
def test_a_parameter_may_decide_what_data_gives(
    model: str, params: dict[str, Any], fits: bool
) -> None:
    catalog = Catalog.from_dict(
        json.loads(json.dumps(Catalog(CATALOG.models, {"either": EITHER}).to_dict()))
    )
    cell = {"cell": "gru"} if model == "attention" else {}
    spec = replace(SPEC, model=Component(model, cell), data=Component("either", params))
    if fits:
        catalog.check(spec)
        return
    chosen = params.get("target", "text")
    gives = "tokens -> class" if chosen == "label" else "tokens -> tokens"
    with pytest.raises(SpecError, match=f"either with target = '{chosen}' gives {gives}; topol"):
        catalog.check(spec)


def test_a_pair_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(SpecError) as caught:
        CATALOG.check(replace(SPEC, model=Component("many_to_one")))
    assert str(caught.value) == (
        "many_to_one accepts tokens -> class, text gives tokens -> tokens; "
        "topologies that fit: attention"
    )


def test_defaults_of_the_data_go_before_those_of_the_topology_and_the_spec_before_all() -> None:
    assert CATALOG.trainer(SPEC).lr == 0.25
    assert CATALOG.trainer(SPEC).clip is None
    assert CATALOG.trainer(replace(SPEC, trainer=TrainerOptions(lr=0.125))).lr == 0.125


TASKS = st.frozensets(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3)
PARAMETERS = st.builds(
    Parameter, st.text(max_size=3), st.just("int"), default=st.integers(), meaning=st.text()
)
ENTRIES = st.builds(
    Entry,
    st.text(max_size=4),
    st.text(max_size=4),
    st.lists(PARAMETERS, max_size=2).map(tuple),
    TASKS,
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.frozensets(st.text(max_size=3), max_size=2),
)
BY_NAME = st.lists(ENTRIES, max_size=3).map(lambda each: {entry.name: entry for entry in each})


@given(st.builds(Catalog, BY_NAME, BY_NAME))
def test_a_catalogue_survives_the_wire_with_its_digest(catalog: Catalog) -> None:
    again = Catalog.from_dict(json.loads(json.dumps(catalog.to_dict())))
    assert again == catalog
    assert again.digest == catalog.digest


def test_the_digest_tells_catalogues_apart() -> None:
    other = Catalog(CATALOG.models, {"text": replace(TEXT, summary="Other.")})
    assert other.digest != CATALOG.digest
    turned = Catalog(dict(reversed(list(CATALOG.models.items()))), CATALOG.data)
    assert turned.digest == CATALOG.digest
