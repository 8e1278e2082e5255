"""Captions are read from what people have on disk, and scored by all who say the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from datamodules import _hub
from datamodules._base import Feed, Workspace
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules.captions import Captions
from lightning_modules._decoding import Hypothesis

MEANINGS = [
    ["inform(name='red door';food=thai)", "red door serves thai food", "ignored"],
    ["inform(food='sea food';name=chow)", "there is sea food at chow"],
    ["goodbye()", "bye"],
    ["inform(name=manna;kidsallowed=no)", "manna takes no kids"],
    ["goodbye()", "thank you , bye"],
    ["inform(name='a b';food=c)", "a b serves c food"],
]


def write_meanings(folder: Path, rows: Any = MEANINGS, *splits: str) -> None:
    for split in splits or ("train", "val"):
        (folder / f"{split}.json").write_text(f"###\n# about this\n{json.dumps(rows, indent=1)}")


def prepared(folder: Path, **params: Any) -> Captions:
    data = Captions(root=".", **params)
    data.feed = Feed(batch_tokens=100, seed=1)
    data.prepare(Workspace(roots=(folder,), cache=folder / "cache"))
    return data


@pytest.fixture
def meanings(tmp_path: Path) -> Captions:
    write_meanings(tmp_path)
    return prepared(tmp_path, mentions=["kidsallowed: kids"])


def test_a_meaning_becomes_indicators_and_its_sentence_loses_the_names(meanings: Captions) -> None:
    features = meanings.state_dict()["reader"]["features"]
    assert features == ["food=1", "goodbye", "inform", "kidsallowed=no", "name=1"]
    batch = meanings.collate("train", [0, 2, 3])
    assert batch.inputs.tolist() == [[[1, 0, 1, 0, 1]], [[0, 1, 0, 0, 0]], [[0, 0, 1, 1, 1]]]
    assert batch.inputs.dtype == torch.float32
    assert batch.lengths.tolist() == [1, 1, 1]
    assert batch.targets is not None
    texts = [meanings.detokenise(ids) for ids in batch.targets.tolist()]
    assert texts == ["[name] serves [food] food", "bye", "[name] takes no kids"]
    assert meanings.dims["feature_size"] == 5
    assert meanings.dims["target_vocabulary_size"] > int(batch.targets.max())


def test_references_are_the_sentences_of_the_same_meaning_with_its_own_names(
    meanings: Captions,
) -> None:
    references = meanings.references("val")
    assert references[0] == ["red door serves thai food", "there is thai at red door"]
    assert references[1] == ["there is sea food at chow", "chow serves sea food food"]
    assert references[2] == ["bye", "thank you , bye"]
    assert references[5] == ["a b serves c food", "there is c at a b"]


def ids_of(data: Captions, text: str) -> tuple[int, ...]:
    (ids,) = data._vocabulary.encode([text])
    return (*ids, 2)


def test_of_many_sentences_the_one_with_the_fewest_slot_errors_is_taken(meanings: Captions) -> None:
    line = "inform(name='le zinc';food=french)"
    found = [
        Hypothesis(ids_of(meanings, text), -float(place))
        for place, text in enumerate(
            [
                "[name] takes no kids",
                "there is [food]",
                "there is [food] at [name]",
                "[name] [food]",
            ]
        )
    ]
    first, second, third = meanings.answers(found, line, 3)
    assert (first.text, first.score) == ("there is french at le zinc", -2.0)
    assert second.text == "le zinc french"
    assert third.text == "there is french"
    assert meanings.candidates == 20


def test_slot_error_counts_over_the_whole_split(meanings: Captions) -> None:
    best = {
        0: ids_of(meanings, "[name] serves [food] food"),
        2: ids_of(meanings, "bye [name]"),
        3: ids_of(meanings, "[name] serves [food] food"),
    }
    # Of 2 + 0 + 2 slots, row 2 has one too many; row 3 lacks the kids and has food too many.
    assert meanings.own_scores(best, "val") == {"slot_error": [(0, 2), (1, 0), (2, 2)]}


def test_a_meaning_with_something_new_is_told_and_not_fatal(tmp_path: Path) -> None:
    write_meanings(tmp_path)
    write_meanings(tmp_path, [["inform(phone=1)", "call 1"], ["goodbye()", "bye"]], "test")
    data = prepared(tmp_path)
    assert data.facts("test") == {"unknown_meanings": 1}
    assert data.facts("val") == {}
    assert data.collate("test", [0]).inputs.tolist() == [[[0, 0, 1, 0, 0]]]


def test_a_table_may_hold_several_sentences_a_row(tmp_path: Path) -> None:
    rows = [
        {"dialogue": "hello(name=bo)", "says": ["hi bo", "bo , hello"]},
        {"dialogue": "goodbye()", "says": "bye"},
    ]
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = prepared(tmp_path, input="dialogue", text="says")
    assert list(data.sources("val")) == ["hello(name=bo)", "hello(name=bo)", "goodbye()"]
    assert data.references("val")[1] == ["bo , hello", "hi bo"]


def test_empty_and_long_sentences_are_left_out_of_training_alone(tmp_path: Path) -> None:
    write_meanings(tmp_path, [*MEANINGS, ["goodbye()", ""], ["goodbye()", "a b c d e f g"]])
    data = prepared(tmp_path, max_length=6)
    assert data.facts("train") == {"left_out_empty": 1, "left_out_too_long": 1}
    assert len(data.sizes("train")) == len(MEANINGS)
    assert len(data.sizes("val")) == len(MEANINGS) + 2
    with pytest.raises(DataFormatError, match="all have more than 1 symbols"):
        prepared(tmp_path, max_length=1, tokens="characters")


# --- vectors

VECTORS = np.array([[0.1, 5.0, -3.0], [0.3, 5.0, 7.0], [0.1, 5.0, -3.0]], dtype=np.float32)
TEXTS = ["a dog", "two cats", "one dog"]


def write_vectors(folder: Path, vectors: Any = VECTORS, texts: Any = TEXTS) -> None:
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", np.asarray(vectors))
        (folder / f"{split}.txt").write_text("".join(f"{text}\n" for text in texts))


def test_a_matrix_beside_lines_is_standardised_by_training(tmp_path: Path) -> None:
    write_vectors(tmp_path)
    data = prepared(tmp_path, inputs="vectors")
    wide = VECTORS.astype(np.float64)
    deviation = wide.std(axis=0)
    deviation[1] = 1
    expected = ((wide - wide.mean(axis=0)) / deviation).astype(np.float32)
    assert torch.equal(data.collate("val", [0, 1, 2]).inputs[:, 0], torch.from_numpy(expected))
    assert data.references("val") == [["a dog", "one dog"], ["two cats"], ["one dog", "a dog"]]
    assert data.candidates == 1
    assert data.own_scores({0: (2,)}, "val") == {}
    assert data.dims["feature_size"] == 3
    plain = prepared(tmp_path, inputs="vectors", standardise=False)
    assert torch.equal(plain.collate("val", [0, 1]).inputs[:, 0], torch.from_numpy(VECTORS[:2]))


def test_a_line_of_numbers_is_read_as_its_row_was_from_the_checkpoint_alone(tmp_path: Path) -> None:
    write_vectors(tmp_path, np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32))
    data = prepared(tmp_path, inputs="vectors")
    fresh = Captions(root=".")  # what the model reads is in the checkpoint
    fresh.load_state_dict(data.state_dict())
    batch = fresh.encode([*data.sources("val"), " "])
    assert torch.equal(batch.inputs[:3], data.collate("val", [0, 1, 2]).inputs)
    assert not batch.inputs[3].any()
    assert fresh.answers([Hypothesis((2,), -1.0)], data.sources("val")[0], 1)[0].text == ""


def test_a_cell_holds_numbers_or_names_a_file_with_them(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", VECTORS[0])
    np.savez(tmp_path / "two.npz", VECTORS[1])
    cells = [[0.1, 5.0, -3.0], "one.npy", "two.npz"]
    for split in ("train", "val"):
        rows = [{"vector": cell, "text": "x"} for cell in cells]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = prepared(tmp_path, inputs="vectors", standardise=False)
    read = data.collate("val", [0, 1, 2]).inputs[:, 0]
    assert torch.equal(read, torch.from_numpy(VECTORS[[0, 0, 1]]))


def test_a_data_set_of_the_hub_is_read_as_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"meaning": ["hello(name=bo)"], "text": [["hi bo", "hello bo"]]})
    for split in ("train", "val"):
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    monkeypatch.setattr(_hub, "_fetched", lambda root, cache: tmp_path)
    data = Captions(root="hf://owner/name")
    data.prepare(Workspace(roots=(), cache=tmp_path / "cache"))
    assert data.references("val")[0] == ["hi bo", "hello bo"]


# --- what is wrong


def refusal(folder: Path, **params: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(folder, **params)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([["goodbye()", "bye"], ["inform", "x"]], "train.json, entry 2 holds 'inform' where a"),
        ([["goodbye()"]], "train.json, entry 1 is not a list that begins with meaning and"),
        ([["goodbye()", 3]], "train.json, entry 1 holds 3 and not text"),
        ({"a": 1}, "train.json must hold a list of [meaning, sentence]"),
        ([], "train.json holds no sentences"),
        ([["goodbye()", ""]], "train.json leaves no sentence to train on: all are empty"),
    ],
)
def test_bad_meanings_are_refused_with_file_and_entry(tmp_path: Path, rows: Any, line: str) -> None:
    write_meanings(tmp_path, rows)
    assert refusal(tmp_path).startswith(line)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    write_meanings(tmp_path)
    (tmp_path / "train.json").write_text("# head\n[[\n")
    assert refusal(tmp_path).startswith("train.json is not JSON behind its 1 comments: ")


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ([1, 2], "train.jsonl, line 2 holds 2 numbers where train.jsonl, line 1 holds 3"),
        ([1, float("nan"), 2], "train.jsonl, line 2, column 'vector' holds a number that is not"),
        ([], "train.jsonl, line 2, column 'vector' must hold a list of numbers"),
        ([[1], [2]], "train.jsonl, line 2, column 'vector' must hold a list of numbers"),
        (["a"], "train.jsonl, line 2, column 'vector' must hold a list of numbers"),
        (3, "train.jsonl, line 2, column 'vector' must hold a list of numbers"),
        ("none.npy", "train.jsonl, line 2, column 'vector' names none.npy, which is not there"),
        ("train.txt", "train.txt is not an array that NumPy can read"),
    ],
)
def test_bad_vectors_are_refused_with_file_and_line(tmp_path: Path, cell: Any, line: str) -> None:
    (tmp_path / "train.txt").write_text("no array\n")
    rows = [{"vector": [1, 2, 3], "text": "x"}, {"vector": cell, "text": "x"}]
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert refusal(tmp_path, inputs="vectors").startswith(line)


def test_a_matrix_must_have_a_row_for_each_line(tmp_path: Path) -> None:
    write_vectors(tmp_path, texts=TEXTS[:2])
    assert "of shape (3, 3) beside 2 lines in train.txt" in refusal(tmp_path, inputs="vectors")
    write_vectors(tmp_path, [[1.0, 2.0], [1.0, float("inf")], [0.0, 0.0]])
    assert refusal(tmp_path, inputs="vectors") == (
        "train.npy, row 2 holds a number that is not finite, at place 2"
    )


def test_a_file_outside_the_roots_is_not_read(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    np.save(tmp_path / "secret.npy", VECTORS[0])
    (inner / "train.jsonl").write_text('{"vector": "../secret.npy", "text": "x"}\n')
    (inner / "val.jsonl").write_text('{"vector": [1, 2, 3], "text": "x"}\n')
    assert "lies outside the allowed data roots" in refusal(inner, inputs="vectors")


def test_a_missing_split_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    write_meanings(tmp_path, MEANINGS, "train")
    with pytest.raises(DataMissingError, match=r"has no split 'val': looked for val.json, or"):
        prepared(tmp_path)
    write_meanings(tmp_path, MEANINGS, "val")
    with pytest.raises(DataMissingError, match="has no split 'test'"):
        prepared(tmp_path).collate("test", [0])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("hello", "it holds 'hello' where a meaning"), ("a(=1)", "it holds the slot '=1'")],
)
def test_a_line_that_is_no_meaning_is_refused(meanings: Captions, line: str, wrong: str) -> None:
    with pytest.raises(DataFormatError, match=wrong.replace("(", r"\(")):
        meanings.encode(["goodbye()", line])


@pytest.mark.parametrize("line", ["goodbye()", "[1, 2]", '"one.npy"', "[1, 2, Infinity]", "3"])
def test_a_line_that_is_no_such_vector_is_refused(tmp_path: Path, line: str) -> None:
    write_vectors(tmp_path)
    with pytest.raises(DataFormatError, match=r"^'.*' .*hold"):
        prepared(tmp_path, inputs="vectors").encode([line])


def test_words_for_slots_are_of_meanings_only() -> None:
    with pytest.raises(DataError, match="vectors have none: leave out mentions"):
        Captions(root=".", inputs="vectors", mentions=["kidsallowed: kid"])


@pytest.mark.parametrize("slot", ["kidsallowed", "kids allowed", " Kids_Allowed"])
def test_a_slot_is_mentioned_by_its_name_however_it_is_written(tmp_path: Path, slot: str) -> None:
    rows = [[f"inform({slot}=yes)", "kids are welcome"], ["inform(food=thai)", "thai food"]]
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    data = prepared(tmp_path, mentions=[f"{slot}: kids child"])
    assert data.own_scores({0: ids_of(data, "kids are welcome")}, "val") == {"slot_error": [(0, 1)]}


@pytest.mark.parametrize("mention", ["kids", "kids:", ":a b"])
def test_words_of_a_slot_are_given_behind_its_name(mention: str) -> None:
    with pytest.raises(DataError, match="'mentions' holds"):
        Captions(root=".", mentions=[mention])
