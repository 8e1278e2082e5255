"""Labelled text: every shape of file gives the same rows, splits are fair, bad files say where."""

import csv
import gzip
import json
import logging
import re
from collections import Counter

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from datamodules import _cache
from datamodules._base import Feed, Workspace
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._labelled import Example, cut_off
from datamodules._labelled_texts import LabelledTexts
from datamodules.labelled_text import LabelledText
from lightning_modules._decoding import Hypothesis

ROWS = [
    ("Ein Hund läuft .", "de"),
    ("A dog, \u2028runs .", "en"),
    ("zwei  Hunde", "de"),
    ('it is "so"', "en"),
    ("é ☃", "de"),
]


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """A real sync takes longer than all else that these tests do."""
    monkeypatch.setattr(_cache, "_sync", lambda path: None)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "roots" / "set"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def workspace(tmp_path, root):
    return Workspace(roots=(root.parent,), cache=tmp_path / "cache")


def make(workspace, **parameters):
    data = LabelledText(root="set", tokens="characters", **parameters)
    data.feed = Feed(batch_tokens=100, seed=1)
    data.prepare(workspace)
    return data


def rows_of(data, split):
    """Return (text, label) of every row, read back from what the model is given."""
    batch = data.collate(split, range(len(data.sizes(split))))
    assert batch.target_lengths.tolist() == [1] * len(batch)
    decode = data._learned.vocabulary.decode
    return [
        (decode(ids), data.labels[place] if place >= 0 else None)
        for ids, place in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    ]


def write_tsv(folder, split, rows):
    lines = ["label\tid\ttext", *(f"{label}\t7\t{text}" for text, label in rows)]
    (folder / f"{split}.tsv").write_bytes("\r\n".join(lines).encode())


def write_csv(folder, split, rows):
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def write_jsonl(folder, split, rows):
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def write_parquet(folder, split, rows):
    texts, labels = (list(each) for each in zip(*rows, strict=True))
    parquet.write_table(pa.table({"label": labels, "text": texts}), folder / f"{split}.parquet")


def write_lines(folder, split, rows):
    lines = "".join(f"{label} {text}\n" for text, label in rows)
    (folder / f"{split}.txt").write_text(lines, encoding="utf-8")


WRITERS = [write_tsv, write_csv, write_jsonl, write_parquet, write_lines]


# --- shapes of files


@pytest.mark.parametrize("write", WRITERS)
def test_every_shape_of_file_gives_the_same_rows(root, workspace, write):
    for split in ("train", "val", "test"):
        write(root, split, ROWS)
    data = make(workspace)
    for split in ("train", "val", "test"):
        assert rows_of(data, split) == ROWS
    assert data.labels == ("de", "en")
    assert data.dims["num_classes"] == 2


def test_a_file_a_class_is_named_by_the_file(root, workspace):
    for label in ("Käse", "B c"):
        (root / f"{label}.txt").write_text("".join(f"{label} {i}\n" for i in range(20)))
    (root / "README.md").write_text("not a class")
    data = make(workspace, layout="classes")
    assert data.labels == ("B c", "Käse")
    everything = [row for split in ("train", "val", "test") for row in rows_of(data, split)]
    assert sorted(everything) == sorted(
        (f"{label} {i}", label) for label in ("Käse", "B c") for i in range(20)
    )


def test_the_label_at_the_head_of_a_line_may_end_at_a_sign(root, workspace):
    for split in ("train", "val"):
        (root / f"{split}.txt").write_bytes(b"DESC:manner How ?\nLOC:city Caf\xe9 ?\n")
    data = make(workspace, label_until=":", encoding="latin-1", test_share=0)
    assert rows_of(data, "train") == [("How ?", "DESC"), ("Café ?", "LOC")]
    assert make(workspace, encoding="latin-1", test_share=0).labels == ("DESC:manner", "LOC:city")


@pytest.mark.parametrize("until", ["\t", " ", " | ", " \u3000"])
def test_behind_a_sign_of_white_space_all_is_text(root, workspace, until):
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text(f"pos{until}great film\nneg{until}dull\n")
    data = make(workspace, label_until=until, test_share=0)
    assert rows_of(data, "train") == [("great film", "pos"), ("dull", "neg")]


def test_a_sign_with_a_blank_behind_it_ends_the_label_alone(root, workspace):
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("pos: great film\nneg: dull\n")
    data = make(workspace, label_until=":", test_share=0)
    assert rows_of(data, "train") == [("great film", "pos"), ("dull", "neg")]


def test_numbers_are_labels_too(root, workspace):
    for split in ("train", "val", "test"):
        rows = [json.dumps({"review": f"x{i}", "stars": i}) + "\n" for i in (5, 1)]
        (root / f"{split}.jsonl").write_text("".join(rows))
    data = make(workspace, text="review", label="stars")
    assert rows_of(data, "train") == [("x5", "5"), ("x1", "1")]


def test_text_is_read_in_the_form_that_is_asked_for(root, workspace):
    for split in ("train", "val"):
        write_tsv(root, split, [("ÀB", "x"), ("e\u0301", "y")])
    data = make(workspace, lowercase=True, normalise="nfc", test_share=0)
    assert rows_of(data, "val") == [("àb", "x"), ("é", "y")]
    batch = data.encode(["E\u0301"])
    assert torch.equal(batch.inputs[0], data.collate("val", [1]).inputs[0])


# --- splits that are cut off


def test_given_splits_stay_as_they_are(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, [*ROWS, *ROWS])
    data = make(workspace, val_share=0.4)
    assert len(rows_of(data, "train")) == len(rows_of(data, "val")) == 2 * len(ROWS)


def test_only_what_is_missing_is_cut_off(root, workspace):
    rows = [(f"{label}{i}", label) for label in "ab" for i in range(50)]
    write_tsv(root, "train", rows)
    write_tsv(root, "test", ROWS[:2])
    data = make(workspace, val_share=0.2)
    assert len(rows_of(data, "test")) == 2
    assert Counter(label for _, label in rows_of(data, "val")) == {"a": 10, "b": 10}
    assert sorted(rows_of(data, "train") + rows_of(data, "val")) == sorted(rows)


def test_the_cut_follows_from_its_seed(root, workspace):
    write_tsv(root, "train", [(f"{label}{i}", label) for label in "ab" for i in range(50)])
    first, again, other = (make(workspace, split_seed=seed) for seed in (3, 3, 4))
    assert rows_of(first, "test") == rows_of(again, "test") != rows_of(other, "test")


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=120),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_is_fair_to_every_class_and_keeps_the_splits_apart(pairs, val, test, seed):
    examples = [Example(str(text), label, f"row {i}") for i, (text, label) in enumerate(pairs)]
    entries = Counter(label for _, label in set(pairs))
    if 1 in entries.values():
        with pytest.raises(DataFormatError, match=r"^row \d+ is the only example of the class"):
            cut_off(examples, {"val": val, "test": test}, seed)
        return
    splits = cut_off(examples, {"val": val, "test": test}, seed)
    found = [(each.text, each.label) for rows in splits.values() for each in rows]
    assert sorted(found) == sorted({(str(text), label) for text, label in pairs})
    for label, total in entries.items():
        counts = {s: sum(each.label == label for each in rows) for s, rows in splits.items()}
        assert counts["train"] >= 1
        assert counts["val"] >= 1
        assert counts["test"] >= (total > 2)
        if total >= 20:
            assert abs(counts["val"] - val * total) <= 1
            assert abs(counts["test"] - test * total) <= 1


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), min_size=1, max_size=60),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_what_need_not_fit_into_memory_is_cut_as_a_list_is(pairs, seed):
    examples = [Example(str(text), label, f"row {i}") for i, (text, label) in enumerate(pairs)]
    shares = {"val": 0.2, "test": 0.1}
    try:
        expected = cut_off(examples, shares, seed)
    except DataFormatError as error:
        with pytest.raises(DataFormatError, match=f"^{re.escape(str(error))}$"):
            LabelledTexts.of(examples).cut_off(shares, seed)
        return
    found = LabelledTexts.of(examples).cut_off(shares, seed)
    assert {
        split: [
            (text, each.labels[place]) for text, place in zip(each.texts, each.classes, strict=True)
        ]
        for split, each in found.items()
    } == {split: [(each.text, each.label) for each in rows] for split, rows in expected.items()}


def test_a_cut_stays_what_it_was():
    examples = [Example(str(n % 70), "abc"[n % 3], "") for n in range(100)]
    cut = cut_off(examples, {"val": 0.1, "test": 0.05}, 3)
    assert [each.text for each in cut["val"]] == [
        "15",
        "16",
        "38",
        "44",
        "55",
        "57",
        "66",
        "9",
        "10",
    ]
    assert [each.text for each in cut["test"]] == ["12", "21", "22", "28", "56", "28"]


# --- labels that training does not have


def test_a_label_only_another_split_has_is_counted_and_said(root, workspace, caplog):
    write_tsv(root, "train", ROWS)
    write_tsv(root, "val", ROWS)
    write_tsv(root, "test", [*ROWS, ("ein", "fr"), ("zwei", "it")])
    with caplog.at_level(logging.WARNING):
        data = make(workspace)
    assert [label for _, label in rows_of(data, "test")[-2:]] == [None, None]
    assert data.facts("test") == {"unknown_labels": 2}
    assert data.facts("val") == {}
    assert "2 rows of test have a label that training does not have" in caplog.text


def test_long_texts_leave_training_only(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data = make(workspace, max_length=11)
    assert [text for text, _ in rows_of(data, "train")] == ["zwei  Hunde", 'it is "so"', "é ☃"]
    assert rows_of(data, "val") == ROWS
    assert data.left_out == {"too_long": 2, "unknown_label": 0}


# --- what the checkpoint keeps


def test_labels_and_symbols_come_from_the_checkpoint(root, workspace, tmp_path):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    state = make(workspace, lowercase=True).state_dict()
    other = tmp_path / "other" / "set"
    other.mkdir(parents=True)
    write_tsv(other, "test", [("Hund", "en"), ("Chat", "fr")])
    data = LabelledText(root="set")
    data.feed = Feed(batch_tokens=100, seed=1)
    data.load_state_dict(state)
    data.prepare(Workspace(roots=(other.parent,), cache=workspace.cache))
    assert data.state_dict() == state
    assert [label for _, label in rows_of(data, "test")] == ["en", None]
    with pytest.raises(DataMissingError, match="has no split 'val'"):
        data.sizes("val")


def test_going_on_with_further_labels_leaves_them_out(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data = make(workspace)
    write_tsv(root, "train", [*ROWS, ("le chien", "fr")])
    again = LabelledText(root="set", tokens="characters")
    again.load_state_dict(data.state_dict())
    again.prepare(workspace)
    assert rows_of(again, "train") == ROWS
    assert again.left_out["unknown_label"] == 1


def test_where_a_model_knows_no_label_nothing_is_left_to_train_on(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data = make(workspace)
    write_tsv(root, "train", [("le chien", "fr"), ("il cane", "it")])
    again = LabelledText(root="set", tokens="characters")
    again.load_state_dict(data.state_dict())
    again.prepare(workspace)
    assert rows_of(again, "val") == ROWS  # which is all that an evaluation asks for
    with pytest.raises(
        DataFormatError, match=r"nothing is left of train \(.*train.tsv\): .* labels"
    ):
        again.sizes("train")


def test_a_state_of_another_version_is_refused():
    with pytest.raises(DataError, match="form this version cannot read"):
        LabelledText(root="set").load_state_dict({"format": 99})


def test_answers_are_the_likeliest_labels(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, [("1", "x"), ("2", "y"), ("3", "z")])
    output = torch.tensor([0.2, 0.7, 0.1]).log()
    found = make(workspace).answers(output, "line", 2)
    assert [(each.text, dict(each.values)) for each in found] == [
        ("y", {"label": "y"}),
        ("x", {"label": "x"}),
    ]
    assert [each.score for each in found] == pytest.approx([0.7, 0.2])
    assert len(make(workspace).answers(output, "line", 9)) == 3


# --- what is wrong, and where


BAD = {
    "ragged": ("train.tsv", b"text\tlabel\na\tx\nb\n", "train.tsv, line 3 has 1 cells"),
    "column": (
        "train.tsv",
        b"txt\tlabel\na\tx\n",
        "no column 'text' (it has: txt, label); did you",
    ),
    "empty": ("train.txt", b"", "train.txt is empty"),
    "no rows": ("train.tsv", b"text\tlabel\n", "train.tsv: no rows"),
    "no text": ("train.tsv", b"text\tlabel\na\tx\n \ty\n", "train.tsv, line 3 has no text"),
    "only a label": ("train.txt", b"x a\ny\n", "train.txt, line 2 has no text"),
    "no label": ("train.tsv", b"text\tlabel\na\t\n", "train.tsv, line 2 has no label"),
    "label is a list": (
        "train.jsonl",
        b'{"text": "a", "label": ["x"]}\n',
        'train.jsonl, line 1, as label, holds ["x"] and not text',
    ),
    "encoding": ("train.txt", b"x a\ny \xe9\n", "train.txt, line 2 is not valid UTF-8"),
    "one class": ("train.txt", b"x a\nx b\n", "have the label 'x' (such as"),
    "a class of one": (
        "train.txt",
        b"x a\nx b\ny c\n",
        "line 3 is the only example of the class 'y'",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_one_line_with_its_place(root, workspace, name, content, message):
    (root / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        make(workspace)
    assert message in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_without_its_sign_is_named(root, workspace):
    (root / "train.txt").write_text("A:x one\nBx two\n")
    with pytest.raises(DataFormatError, match=r"train.txt, line 2 begins with 'Bx'"):
        make(workspace, label_until=":")
    (root / "train.txt").write_text("A\tx one\nBx two\n")
    with pytest.raises(DataFormatError, match=r"train.txt, line 2 begins with 'Bx'"):
        make(workspace, label_until="\t")


def test_a_split_without_a_file_is_missed_where_nothing_is_cut_off(root, workspace):
    write_tsv(root, "train", ROWS)
    with pytest.raises(DataMissingError, match=r"no split 'val': looked for one of val\.tsv"):
        make(workspace, val_share=0)
    data = make(workspace, val_share=0.4, test_share=0)
    with pytest.raises(DataMissingError, match="no split 'test'"):
        data.plan("test", 0)


def test_a_layout_of_classes_needs_two_files_and_a_share(root, workspace):
    (root / "a.txt").write_text("x\ny\n")
    with pytest.raises(DataMissingError, match=r"must hold a \.txt file for each class"):
        make(workspace, layout="classes")
    (root / "b.txt").write_text("x\ny\n")
    with pytest.raises(DataError, match="'val_share' must be above 0"):
        make(workspace, layout="classes", val_share=0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"val_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"encoding": "utf-9"}, "no text encoding is called 'utf-9'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(DataError, match=re.escape(message)):
        LabelledText(root="set", **parameters)


def test_training_texts_that_are_all_too_long_are_an_error(root, workspace):
    for split in ("train", "val"):
        write_tsv(root, split, ROWS)
    with pytest.raises(DataFormatError, match="leaves no text to train on"):
        make(workspace, max_length=1, test_share=0)


def test_nothing_is_known_before_it_is_prepared():
    with pytest.raises(DataError, match="learned nothing yet"):
        _ = LabelledText(root="set").dims


# --- turned round


def turned(workspace, **parameters):
    return make(workspace, direction="label_to_text", **parameters)


def test_turned_round_the_label_goes_in_and_the_text_is_to_be_written(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data, plain = turned(workspace), make(workspace)
    batch = data.collate("val", [2, 1])
    assert batch.inputs.tolist() == [[data.labels.index(ROWS[row][1])] for row in (2, 1)]
    assert batch.lengths.tolist() == [1, 1]
    assert torch.equal(batch.targets, plain.collate("val", [2, 1]).inputs)
    assert torch.equal(batch.target_lengths, plain.collate("val", [2, 1]).lengths)
    assert data.dims == {
        "source_classes": 2,
        "target_vocabulary_size": plain.dims["vocabulary_size"],
    }
    assert data.sizes("val").tolist() == [[1, len(text) + 1] for text, _ in ROWS]
    assert data.state_dict() == plain.state_dict()


@pytest.mark.parametrize("writes_val", [True, False])
def test_turned_round_a_split_of_unknown_labels_is_refused_when_it_is_used(
    root, workspace, writes_val
):
    write_tsv(root, "train", ROWS)
    state = turned(workspace).state_dict()
    unknown = [("le chien", "fr"), ("le chat", "fr"), ("il cane", "it"), ("il gatto", "it")]
    write_tsv(root, "train", unknown)
    if writes_val:
        write_tsv(root, "val", unknown)
    data = LabelledText(root="set", tokens="characters", direction="label_to_text")
    data.load_state_dict(state)
    data.prepare(workspace)
    where = "val.tsv" if writes_val else "train.tsv"
    with pytest.raises(DataFormatError, match=rf"nothing is left of val \(.*{where}\)"):
        data.sizes("val")


def test_turned_round_models_are_chosen_by_the_loss_and_nothing_is_searched_for(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data = turned(workspace)
    assert data.monitor == ("val/loss", "min")
    assert data.scoring.metrics == ()
    assert make(workspace).monitor is None


def test_turned_round_a_label_that_training_lacks_is_left_out_and_told(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, [*ROWS, *([("chat", "fr")] if split == "val" else [])])
    data = turned(workspace)
    assert len(data.sizes("val")) == len(ROWS)
    assert data.facts("val") == {"unknown_labels": 1}
    assert data.facts("test") == {}
    plain = make(workspace)
    assert plain.facts("val") == {"unknown_labels": 1}
    assert plain.references("val")[-1] == ["\ufffd"]


def test_turned_round_a_line_is_a_label_and_its_answers_are_texts(root, workspace):
    for split in ("train", "val", "test"):
        write_tsv(root, split, ROWS)
    data = turned(workspace)
    batch = data.encode([" en ", "de", ""])
    assert batch.inputs[:2].tolist() == [[data.labels.index("en")], [data.labels.index("de")]]
    ids = data.collate("val", [0]).targets[0].tolist()
    (answer,) = data.answers([Hypothesis(tuple(ids), -0.5)], "en", 1)
    assert (answer.text, answer.score) == (ROWS[0][0], -0.5)
    with pytest.raises(DataError, match="the model knows no label 'dee'; did you mean 'de'"):
        data.encode(["de", "dee"])
    with pytest.raises(DataError, match="the model knows no label '!'; there are: de, en"):
        data.encode(["!"])
