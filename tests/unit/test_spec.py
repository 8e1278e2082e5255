"""Specs: the codec, the grammar of spec files and overrides, and every refusal."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.spec import (
    MAX_SPEC_BYTES,
    UNSET,
    AnySpec,
    Component,
    EvaluateSpec,
    Policy,
    PredictSpec,
    Resources,
    SearchOptions,
    TrainerOptions,
    TrainSpec,
    spec_from_dict,
)
from jobs.specfile import apply_overrides, parse_value, read_spec

SPEC = TrainSpec(model=Component("m"), data=Component("d"))
PLAIN: dict[str, Any] = {"model": {"name": "m"}, "data": {"name": "d"}}

NAMES = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda name: name != "name")
VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
)
COMPONENTS = st.builds(Component, NAMES, st.dictionaries(NAMES, VALUES, max_size=3))
FRACTIONS = st.floats(0, 1, exclude_max=True)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_epochs": st.integers(1, 99),
        "max_steps": st.one_of(st.none(), st.integers(1, 99)),
        "lr": st.floats(1e-9, 1),
        "beta1": FRACTIONS,
        "schedule": st.sampled_from(["cosine", "linear", "inverse_sqrt", "constant"]),
        "clip": st.one_of(st.none(), st.floats(0.1, 9)),
    },
)
COMMON = {
    "resources": st.builds(
        Resources,
        queue=NAMES,
        labels=st.lists(NAMES, max_size=2),
        gpus=st.one_of(st.none(), st.integers(0, 8)),
    ),
    "policy": st.builds(Policy, keep_days=st.floats(0.1, 99), on_nan=st.just("retry")),
    "name": st.text(max_size=5),
    "tags": st.lists(st.text(max_size=5), max_size=2),
    "priority": st.integers(-100, 100),
    "retries": st.integers(0, 100),
    "timeout": st.one_of(st.none(), st.floats(1, 1e6)),
    "after": st.lists(NAMES, max_size=2),
    "after_ended": st.lists(NAMES, max_size=2),
}
SEARCH = st.one_of(
    st.integers(1, 9).flatmap(
        lambda beam: st.builds(SearchOptions, beam=st.just(beam), n_best=st.integers(1, beam))
    ),
    st.builds(
        SearchOptions,
        sample=st.just(True),
        n_best=st.integers(1, 9),
        temperature=st.floats(0.1, 3),
        top_k=st.one_of(st.none(), st.integers(1, 9)),
        max_length=st.one_of(st.none(), st.integers(1, 9)),
    ),
)
SPECS = st.one_of(
    st.builds(
        TrainSpec,
        model=COMPONENTS,
        data=COMPONENTS,
        trainer=OPTIONS.map(TrainerOptions.from_dict),
        seed=st.integers(0, 2**32 - 1),
        resume_from=st.one_of(st.none(), NAMES),
        **COMMON,
    ),
    st.builds(TrainSpec, model=COMPONENTS, data=COMPONENTS, warm_from=NAMES, **COMMON),
    st.builds(
        EvaluateSpec,
        job=NAMES,
        split=NAMES,
        data=st.dictionaries(NAMES, VALUES, max_size=2),
        search=SEARCH,
        **COMMON,
    ),
    st.builds(
        PredictSpec,
        job=NAMES,
        lines=st.lists(st.text(), max_size=3),
        search=SEARCH,
        attention=st.booleans(),
        **COMMON,
    ),
)


@settings(max_examples=40)
@given(SPECS)
def test_a_spec_survives_the_wire(spec: AnySpec) -> None:
    if isinstance(spec, PredictSpec) and not spec.lines:
        return  # refused, as below
    assert spec_from_dict(json.loads(spec.to_json())) == spec


@settings(max_examples=40)
@given(SPECS)
def test_a_spec_survives_copies_and_pickles(spec: AnySpec) -> None:
    assert copy.deepcopy(spec).to_json() == spec.to_json()
    assert pickle.loads(pickle.dumps(spec)).to_json() == spec.to_json()


def test_lists_and_tuples_make_equal_specs() -> None:
    assert replace(SPEC, tags=["a"]) == replace(SPEC, tags=("a",))


def test_the_kind_is_train_where_nothing_is_said() -> None:
    assert spec_from_dict(PLAIN) == SPEC


def test_the_queue_may_stand_at_the_top() -> None:
    spec = spec_from_dict({**PLAIN, "queue": "gpu", "resources": {"gpus": 2}})
    assert spec.resources == Resources(queue="gpu", gpus=2)


@pytest.mark.parametrize("name", ["queue", "resources.queue"])
@pytest.mark.parametrize("plain", [{"queue": "cpu"}, {"resources": {"queue": "cpu"}}, {}])
def test_an_override_of_the_queue_counts_by_either_name(name: str, plain: dict[str, Any]) -> None:
    spec = spec_from_dict(apply_overrides({**PLAIN, **plain}, [f"{name}=gpu"]))
    assert spec.resources.queue == "gpu"


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        ({"kind": "tran"}, "a job has no kind 'tran'; did you mean 'train'?"),
        ({"kind": []}, "a job has no kind []"),
        (
            {"policy": {"keep_days": 1e302}},
            "[policy]: 'keep_days' must be float, above 0, at most 100,000, not 1e+302",
        ),
        (
            {"trainer": {"batch_tokens": 10**18}},
            (
                "[trainer]: 'batch_tokens' must be int, at least 1, at most 1,000,000,000, "
                "not 1000000000000000000"
            ),
        ),
        ({"modell": 1}, "the spec takes no 'modell'; did you mean 'model'?"),
        ({"search": {}}, "the spec takes no 'search'"),
        (
            {"model": {"hidden_size": 3}},
            "[model] needs a name, e.g. name = 'attention_encoder_decoder'",
        ),
        ({"data": "d"}, "[data] needs a name, e.g. name = 'parallel_text'"),
        ({"data": {"name": 3}}, "[data] needs a name, e.g. name = 'parallel_text'"),
        (
            {"queue": "a", "resources": {"queue": "b"}},
            "the spec names two queues: 'a' and, in [resources], 'b'",
        ),
        (
            {"queue": "a", "resources": 3},
            "[resources] must be a section of key = value, not 3",
        ),
        ({"trainer": 3}, "[trainer] must be a section of key = value, not 3"),
        (
            {"trainer": {"max_epoch": 3}},
            "[trainer] takes no 'max_epoch'; did you mean 'max_epochs'?",
        ),
        (
            {"trainer": {"seed": 3}},
            "[trainer] takes no 'seed': it belongs at the top of the spec",
        ),
        ({"trainer": {"gpus": 1}}, "[trainer] takes no 'gpus': it belongs in [resources]"),
        ({"lr": 0.1}, "the spec takes no 'lr': it belongs in [trainer]"),
        ({"beam": 2}, "the spec takes no 'beam'"),
        ({"resources": {"quee": "a"}}, "[resources] takes no 'quee'; did you mean 'queue'?"),
        (
            {"trainer": {"beta1": 1}},
            "[trainer]: 'beta1' must be float, at least 0, below 1, not 1.0",
        ),
        ({"retries": -1}, "the spec: 'retries' must be int, at least 0, at most 100, not -1"),
        ({"tags": "a"}, "the spec: 'tags' must be list of str, not 'a'"),
        ({"policy": {"on_nan": "stop"}}, "[policy]: 'on_nan' must be 'fail' | 'retry', not 'stop'"),
        (
            {"resources": {"labels": ["a100", "\ud800"]}},
            "[resources]: '\\ud800' cannot be a label: it must be text",
        ),
        (
            {"queue": "a b"},
            "[resources]: 'a b' cannot be a queue: at most 64 letters, digits, '_', '.', '-'",
        ),
    ],
)
def test_refusals_are_one_clear_sentence(plain: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_dict({**PLAIN, **plain})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.root=nan", "nan for 'data.root', a number that is none"),
        ("model.sizes=[1, -inf]", "-inf for 'model.sizes', a number that is none"),
        ("data.test=2016-01-31", "a date or a time for 'data.test'"),
    ],
)
def test_what_toml_reads_and_json_has_not_is_named(override: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_dict(apply_overrides(PLAIN, [override])).to_json()
    refusal, _, mend = str(caught.value).partition(": text stands in quotes, ")
    assert refusal == f"the spec has {said}"
    name, value = override.partition("=")[0], mend.strip("'")
    assert value.strip('"') in override
    spec_from_dict(apply_overrides(PLAIN, [f"{name}={value}"])).to_json()


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        ({"data": {"name": "d"}}, "the spec needs a section [model] with a name"),
        ({"model": {"name": "m"}}, "the spec needs a section [data] with a name"),
        ({"kind": "evaluate"}, "the spec needs 'job' (str)"),
        (
            {"kind": "evaluate", "job": "j", "beam": 2},
            "the spec takes no 'beam': it belongs in [search]",
        ),
        ({"kind": "predict", "job": "j"}, "the spec needs 'lines' (list of str)"),
        (
            {"kind": "predict", "job": "j", "lines": ["a"], "search": {"n_best": 3, "beam": 2}},
            "[search]: n_best=3 needs a beam as wide, not 2",
        ),
        (
            {"kind": "evaluate", "job": "j", "search": {"top_p": 0.9}},
            "[search]: top_p=0.9 needs sample=true",
        ),
        (
            {"kind": "evaluate", "job": "j", "search": {"sample": True, "beam": 4}},
            "[search]: sample needs no beam: leave out beam=4",
        ),
        (
            {"kind": "evaluate", "job": "j", "search": {"min_length": 9, "max_length": 5}},
            "[search]: max_length=5 is below min_length=9",
        ),
    ],
)
def test_what_is_missing_is_named(plain: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_dict(plain)
    assert str(caught.value) == sentence


def test_a_component_takes_no_parameter_called_name() -> None:
    with pytest.raises(SpecError, match="m takes no 'name'"):
        Component("m", {"name": "other"})


LOOP: list[Any] = []
LOOP.append(LOOP)


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), deep(100_000), LOOP, pytest.param(10**5000, id="long")]
)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="holds a value that JSON cannot"):
        replace(SPEC, model=Component("m", {"value": value})).to_json()


def test_size_is_bounded_and_lines_have_a_bound_of_their_own() -> None:
    text = "x" * MAX_SPEC_BYTES
    with pytest.raises(SpecError, match="put data into files and name their folder"):
        replace(SPEC, model=Component("m", {"text": text})).to_json()
    assert len(PredictSpec(job="j", lines=(text,)).to_json()) > MAX_SPEC_BYTES
    with pytest.raises(SpecError, match="at most 16,000,000 can be queued"):
        PredictSpec(job="j", lines=(text,) * 16).to_json()


def test_the_last_word_on_an_option_is_the_specs() -> None:
    options = TrainerOptions(lr=0.5).resolved({"lr": 0.1, "clip": None}, {"max_epochs": 3})
    assert (options.lr, options.clip, options.max_epochs) == (0.5, None, 3)
    assert options.beta2 == 0.98
    assert UNSET not in [getattr(options, name) for name in options.to_dict()]
    assert TrainerOptions().to_dict() == {}


# -- files and overrides ---------------------------------------------------------------------


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "spec.toml", tmp_path / "spec.json"
    toml.write_text('seed = 3\n[model]\nname = "m"\nsize = 4\n[data]\nname = "d"\n')
    as_json.write_text('{"seed": 3, "model": {"name": "m", "size": 4}, "data": {"name": "d"}}')
    expected = replace(SPEC, seed=3, model=Component("m", {"size": 4}))
    assert read_spec(toml) == read_spec(as_json) == expected
    assert read_spec(toml, ["model.size=5", "seed=4"]) == replace(
        expected, seed=4, model=Component("m", {"size": 5})
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.toml", None, "cannot read .*missing.toml: No such file or directory"),
        ("a.toml", b"[model", "a.toml is no TOML: "),
        ("a.toml", b"seed = 1\0", "a.toml is no TOML: "),
        ("a.toml", b"\xff\xfe", "a.toml is no TOML: "),
        ("a.toml", b"a = " + b"[" * 100_000, "a.toml is no TOML: "),
        ("a.json", b"{", "a.json is no JSON: "),
        ("a.json", b"[" * 1_000_00, "a.json is no JSON: "),
        ("a.json", b"9" * 9_999, "a.json is no JSON: "),
        ("a.json", b"[]", "a.json must hold an object with the sections model and data"),
        ("a.toml", b"", r"the spec needs a section \[model\] with a name"),
        ("a.toml", b"#" * 1_000_001, r"a.toml is larger than a spec can be \(1,000,000 bytes\)"),
    ],
)
def test_files_that_hold_no_spec(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=sentence) as caught:
        read_spec(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_an_end_is_no_spec() -> None:
    with pytest.raises(SpecError, match="is larger than a spec can be"):
        read_spec(Path("/dev/zero"))


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(PLAIN), encoding="utf-8-sig")
    assert read_spec(tmp_path / "a.json") == SPEC


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        read_spec(tmp_path)


@pytest.mark.parametrize("override", ["seed", "=3", "a.b.c=3", ".a=3", "a.=3", "model..x=1"])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(SpecError, match=r"is no override; write section\.key=value"):
        apply_overrides(PLAIN, [override])


def test_an_override_of_what_is_no_section() -> None:
    with pytest.raises(SpecError, match="'seed' is not a section"):
        apply_overrides({"seed": 3}, ["seed.x=3"])


def test_overrides_leave_the_original_alone_and_the_last_one_wins() -> None:
    before = copy.deepcopy(PLAIN)
    merged = apply_overrides(PLAIN, ["model.size=1", "model.size = 2", "trainer.lr=1", "seed=9"])
    assert merged == {
        "model": {"name": "m", "size": 2},
        "data": {"name": "d"},
        "trainer": {"lr": 1},
        "seed": 9,
    }
    assert before == PLAIN


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("2e-3", 0.002),
        ("true", True),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("gru", "gru"),
        ("data/multi30k", "data/multi30k"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
        ("True", "True"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_toml_else_itself(text: str, value: Any) -> None:
    assert parse_value(text) == value


@given(st.text())
def test_any_text_is_some_value(text: str) -> None:
    parse_value(text)


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text("abc ä\"'\\=#\n")))
def test_an_override_carries_every_value(value: Any) -> None:
    merged = apply_overrides({}, [f"model.x={json.dumps(value, ensure_ascii=False)}"])
    assert merged == {"model": {"x": value}}


def test_a_training_goes_on_or_begins_warm_and_not_both() -> None:
    with pytest.raises(SpecError, match="not both"):
        TrainSpec(model=Component("m"), data=Component("d"), resume_from="a", warm_from="b")
