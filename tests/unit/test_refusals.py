"""Parameters that do not go together: refused before anything is queued, in one sentence."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules._refusals import Refusal as Said
from datamodules._refusals import misfit
from jobs.catalog import Catalog, Entry, _absent
from jobs.errors import SpecError
from jobs.refusal import Refusal, read_refusals
from jobs.schema import Parameter
from jobs.spec import Component, TrainSpec
from lightning_modules._errors import ModelError
from lightning_modules.language_model import LanguageModel
from worker.runner.catalog import topologies

NAMES = ("copy", "layers", "size", "shared")
VALUES = st.sampled_from([None, True, False, 2, "dot"])
CHOICES = st.dictionaries(
    st.sampled_from(NAMES), st.lists(VALUES, max_size=2).map(tuple), max_size=2
)
SAID = st.fixed_dictionaries(
    {
        "when": CHOICES,
        "unless": CHOICES,
        "unequal": st.none() | st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)),
        "because": st.sampled_from(["{copy} and {size} do not go together", "never"]),
    }
)
PARAMS = st.dictionaries(st.sampled_from(NAMES), VALUES)

COPY = Refusal(
    when={"copy": (True,), "shared": (False,)},
    because="copy needs one vocabulary: set data.shared = true, not {shared}",
)
MODEL = Entry(
    "copier",
    "Copy.",
    (Parameter("copy", "bool", default=False),),
    frozenset({("tokens", "tokens")}),
    from_data=frozenset({"shared"}),
    refusals=(COPY,),
)
DATA = Entry(
    "pairs", "Pairs.", (Parameter("shared", "bool", default=False),), frozenset(MODEL.tasks)
)
PLAIN = Entry("plain", "Says nothing of it.", (), frozenset(MODEL.tasks))
CATALOG = Catalog({"copier": MODEL}, {"pairs": DATA, "plain": PLAIN})


def spec(data: str = "pairs", *, copy: bool = True, **params: Any) -> TrainSpec:
    return TrainSpec(model=Component("copier", {"copy": copy}), data=Component(data, params))


@given(SAID, PARAMS)
def test_the_two_rules_are_alike(said: dict[str, Any], params: dict[str, Any]) -> None:
    ours, theirs = Said(**said), Refusal(**said)
    assert ours.applies(params) == theirs.applies(params)
    if ours.applies(params):
        assert ours.names <= params.keys()
        assert misfit([ours], params) == theirs.sentence(params)
    else:
        assert misfit([ours], params) == ""


@given(st.lists(SAID.map(lambda said: Refusal(**said)), max_size=3))
def test_a_refusal_survives_the_wire(refusals: list[Refusal]) -> None:
    plain = json.loads(json.dumps([each.to_dict() for each in refusals]))
    assert list(read_refusals(plain)) == refusals


def test_a_catalogue_of_before_and_one_of_later_can_be_read() -> None:
    plain = MODEL.to_dict()
    before = {name: value for name, value in plain.items() if name != "refusals"}
    assert Entry.from_dict(before) == replace(MODEL, refusals=())
    unknown = {**COPY.to_dict(), "above": {"layers": 2}}
    later = {**plain, "refusals": [unknown, COPY.to_dict()]}
    assert Entry.from_dict(later) == MODEL


def test_a_pair_of_model_and_data_is_refused_with_the_mend() -> None:
    CATALOG.check(spec(copy=False))
    CATALOG.check(spec(shared=True))
    with pytest.raises(SpecError) as caught:
        CATALOG.check(spec())
    assert str(caught.value) == (
        "copier: copy needs one vocabulary: set data.shared = true, not False"
    )


def test_what_the_data_does_not_say_is_left_to_the_worker() -> None:
    CATALOG.check(spec("plain"))


FRAMES = Entry("sensors", "Frames.", (), frozenset({("frames", "next"), ("frames", "label")}))


def test_what_the_data_does_not_have_is_known_from_its_task() -> None:
    model = topologies().find("language_model").entry
    catalog = Catalog({"language_model": model}, {"sensors": FRAMES})
    ties = Component("language_model", {"tie_embeddings": True})
    sensors = TrainSpec(model=ties, data=Component("sensors"))
    with pytest.raises(SpecError, match="tie_embeddings ties the embeddings of symbols, and this"):
        catalog.check(sensors)
    catalog.check(replace(sensors, model=Component("language_model")))


def test_a_size_counts_as_absent_only_where_no_task_has_it() -> None:
    either = frozenset({("frames", "label"), ("vector", "label"), ("tokens", "value")})
    assert _absent(either) == {
        "source_classes": 0,
        "target_vocabulary_size": 0,
        "num_tags": 0,
        "label_size": 0,
    }


def test_a_class_built_by_hand_says_the_same_sentence_as_the_catalogue() -> None:
    params = {"tie_embeddings": True, "embedding_size": 3, "hidden_size": 4}
    with pytest.raises(ModelError) as built:
        LanguageModel(**params, vocabulary_size=9)
    with pytest.raises(SpecError) as checked:
        topologies().find("language_model").entry.check(Component("language_model", params))
    assert str(checked.value) == f"language_model: {built.value}"
    assert "leave out embedding_size=3, or make it 4" in str(built.value)
    LanguageModel(**{**params, "embedding_size": 4}, vocabulary_size=9)
