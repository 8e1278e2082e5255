"""Recordings: every way to lay them out, fair splits, frames that are scaled, bad ones named."""

import gzip
import json
import logging
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from datamodules import _cache
from datamodules import _speech as preparing
from datamodules._base import Feed, Workspace
from datamodules._classes import UNKNOWN_CLASS
from datamodules._errors import DataError, DataFormatError, DataMissingError, DataPathError
from datamodules._mel import Listening
from datamodules._vocab import EOS
from datamodules.speech import Speech
from lightning_modules._decoding import Hypothesis

RATE = 8000
FRAMES = {"mels": 4, "stack": 2}
NAMES = {"layout": "names", "pattern": "{label}_{speaker}_{index}"}
WORDS = ["0=zero", "1=one", "2=two"]


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


def sound(path, seed=0, seconds=0.05, rate=RATE):
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-1, 1, round(seconds * rate))
    soundfile.write(path, noise.astype(np.float32), rate, subtype="PCM_16")
    return path


def named(root, labels=3, speakers=("ann", "bob"), count=6):
    """Write recordings whose names hold label, speaker and index."""
    names = [
        f"{label}_{speaker}_{index}.wav"
        for label in range(labels)
        for speaker in speakers
        for index in range(count)
    ]
    for seed, name in enumerate(names):
        sound(root / name, seed, 0.03 + 0.01 * (seed % 5))


def manifest(root, split, rows, *, column="label"):
    """Write a manifest, and a recording for each of its rows."""
    lines = [{"path": f"audio/{split}{n}.wav", column: said} for n, said in enumerate(rows)]
    for seed, line in enumerate(lines):
        sound(root / line["path"], seed, 0.03 + 0.01 * (seed % 5))
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def unprepared(**parameters):
    data = Speech(root="set", **{**FRAMES, **parameters})
    data.feed = Feed(batch_tokens=100, seed=1)
    return data


def make(workspace, **parameters):
    data = unprepared(**parameters)
    data.prepare(workspace)
    return data


def said(data, split):
    """Return the answer of every recording of a split, read off what the model is given."""
    targets = data.collate(split, range(len(data.sizes(split)))).targets
    if targets.dim() == 2:
        answers = [data.detokenise(ids) for ids in targets.tolist()]
    else:
        answers = [data.labels[place] for place in targets.tolist()]
    return dict(zip(data.sources(split), answers, strict=True))


# --- layouts and splits


def test_names_hold_labels_and_rules_say_which_are_test(root, workspace):
    named(root)
    data = make(workspace, **NAMES, test_where="index=0-1,5", val_share=0.25)
    assert data.labels == ("0", "1", "2")
    splits = {split: said(data, split) for split in ("train", "val", "test")}
    assert {name.rpartition("_")[2] for name in splits["test"]} == {"0.wav", "1.wav", "5.wav"}
    assert Counter(splits["val"].values()) == {"0": 2, "1": 2, "2": 2}
    assert sum(map(len, splits.values())) == len({n for each in splits.values() for n in each})
    for each in splits.values():
        assert all(name == f"set/{name[4:]}" and name[4] == label for name, label in each.items())


def test_a_speaker_can_be_kept_for_a_split(root, workspace):
    named(root, speakers=("ann", "bob", "cid"))
    data = make(workspace, **NAMES, val_where="speaker=cid", test_where="speaker=ann")
    assert all("cid" in name for name in data.sources("val"))
    assert all("ann" in name for name in data.sources("test"))
    assert len(data.sources("train")) == len(data.sources("val")) == 18


def test_a_name_that_fits_both_rules_is_kept_for_test(root, workspace):
    named(root)
    data = make(workspace, **NAMES, val_where="speaker=ann", test_where="index=0-1")
    assert len(data.sources("test")) == 3 * 2 * 2
    assert len(data.sources("val")) == 3 * 4
    assert not set(data.sources("test")) & set(data.sources("val"))


def test_what_is_cut_off_follows_from_the_seed(root, workspace):
    named(root)
    cuts = [sorted(make(workspace, **NAMES, split_seed=seed).sources("val")) for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_folders_are_labels(root, workspace):
    for label in ("no", "yes"):
        for n in range(10):
            sound(root / label / f"{n}.{'flac' if n % 2 else 'WAV'}", n)
    (root / "no" / "notes.txt").write_text("not a recording")
    data = make(workspace, layout="classes", val_share=0.2)
    assert {split: len(data.sizes(split)) for split in ("train", "val", "test")} == {
        "train": 14,
        "val": 4,
        "test": 2,
    }
    assert all(name.split("/")[1] == label for name, label in said(data, "train").items())


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv"])
def test_manifests_say_what_is_in_which_recording(root, workspace, form):
    rows = ["up", "down", "up", "down"]
    for split in ("train", "val", "test"):
        manifest(root, split, rows)
        plain = root / f"{split}.jsonl"
        if form == "jsonl.gz":
            plain.with_suffix(".jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        elif form == "csv":
            cells = [f"audio/{split}{n}.wav,{label}" for n, label in enumerate(rows)]
            plain.with_suffix(".csv").write_text("\n".join(["path,label", *cells]))
        if form != "jsonl":
            plain.unlink()
    data = make(workspace)
    assert list(said(data, "val").values()) == rows
    assert data.sources("test")[3] == "set/audio/test3.wav"


def test_labels_may_be_numbers_and_splits_may_be_cut_off(root, workspace):
    manifest(root, "train", [3, 7] * 10)
    data = make(workspace)
    assert data.labels == ("3", "7")
    assert len(data.sizes("val")) == len(data.sizes("test")) == 2


@pytest.mark.parametrize(("target", "column"), [("label", "label"), ("text", "text")])
def test_a_recording_that_stands_twice_keeps_what_each_row_says(root, workspace, target, column):
    manifest(root, "train", ["a", "b"] * 8, column=column)
    manifest_file = root / "train.jsonl"
    again = [{"path": f"audio/train{place}.wav", column: "b"} for place in (0, 2)]
    lines = [manifest_file.read_text(), *(json.dumps(line) + "\n" for line in again)]
    manifest_file.write_text("".join(lines))
    data = make(workspace, target=target, split_seed=3)
    rows = [
        (name, text)
        for split in ("train", "val", "test")
        for name, text in zip(data.sources(split), data._split(split).heard.said, strict=True)
    ]
    expected = [(f"set/audio/train{n}.wav", said) for n, said in enumerate(["a", "b"] * 8)]
    expected += [(f"set/{line['path']}", "b") for line in again]
    assert sorted(rows) == sorted(expected)
    if target == "text":  # no recording is in two splits
        splits = [set(data.sources(split)) for split in ("train", "val", "test")]
        assert sum(map(len, splits)) == len(set().union(*splits))


def test_texts_are_written_by_their_symbols(root, workspace):
    manifest(root, "train", ["Go on", "go", "on", "no go"], column="text")
    manifest(root, "val", ["go", "Ogon"], column="text")
    data = make(workspace, target="text", lowercase=True)
    assert list(said(data, "val").values()) == ["go", "ogon"]
    assert data.references("val") == [["go"], ["ogon"]]
    assert data.monitor == ("val/cer", "min")
    assert data.scoring.metrics == ("cer", "wer")
    assert data.collate("val", [0]).targets.tolist()[0][-1] == EOS
    assert data.dims["target_vocabulary_size"] == 4 + len(set("go on"))
    assert data.dims["source_vocabulary_size"] == 0


def test_labels_can_be_spelled(root, workspace):
    named(root)
    data = make(workspace, **NAMES, target="text", spelled=WORDS)
    words = dict(each.split("=") for each in WORDS)
    assert all(words[name[4]] == text for name, text in said(data, "train").items())
    assert len(data.sources("val")) == 3  # a share of each label, not of each text by chance


def test_the_target_decides_what_is_given():
    assert Speech.tasks_by[0] == "target"
    assert Speech.gives == frozenset().union(*Speech.tasks_by[1].values())


# --- frames


def test_frames_are_those_of_the_recording_scaled_by_training(root, workspace):
    named(root)
    data = make(workspace, **NAMES)
    batch = data.collate("train", range(len(data.sizes("train"))))
    inside = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
    frames = batch.inputs[inside].double()
    np.testing.assert_allclose(frames.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(dim=0, correction=0), 1, atol=1e-5)
    assert not batch.inputs[~inside].any()
    listening = Listening(rate=RATE, **FRAMES)
    samples, _ = soundfile.read(workspace.roots[0] / data.sources("train")[5], dtype="float32")
    scaling = data.state_dict()["scaling"]
    expected = (listening(samples) - scaling["mean"]) / scaling["scale"]
    np.testing.assert_allclose(data.collate("train", [5]).inputs[0], expected, atol=1e-5)
    assert data.dims == {"feature_size": 8, "num_classes": 3}


def test_frames_are_computed_once(root, workspace, monkeypatch):
    named(root)
    first = make(workspace, **NAMES)
    monkeypatch.setattr(preparing, "listen", lambda *_: pytest.fail("listened again"))
    again = make(workspace, **NAMES)
    assert torch.equal(again.collate("val", [0]).inputs, first.collate("val", [0]).inputs)
    monkeypatch.undo()
    monkeypatch.setattr(_cache, "_sync", lambda path: None)
    sound(root / "0_ann_0.wav", seed=99)
    assert make(workspace, **NAMES).state_dict() != first.state_dict()


def test_training_leaves_out_what_is_too_long_and_counts_it(root, workspace, caplog):
    manifest(root, "train", ["a", "b", "a", "b"])
    manifest(root, "val", ["a", "b", "a", "b"])
    with caplog.at_level(logging.WARNING):
        data = make(workspace, test_share=0, max_seconds=0.045)
    assert data.facts("train") == {"left_out_too_long": 2}
    assert [len(data.sizes(split)) for split in ("train", "val")] == [2, 4]
    assert "left out of training: 2 too long" in caplog.text
    with pytest.raises(DataFormatError, match=r"line 1 .* longer than 0.01 seconds"):
        make(workspace, test_share=0, max_seconds=0.01)


# --- what is hidden in training


def training_batches(data, epoch, start=0):
    data.feed = Feed(batch_tokens=20, seed=1, start_epoch=epoch, start_batch=start)
    return [batch.inputs for batch in data.train_dataloader()]


def all_equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_training_hides_others_each_epoch_and_resumes_exactly(root, workspace):
    named(root)
    masks = {"mask_bands": 0.5, "mask_frames": 0.5}
    data, again, plain = (make(workspace, **NAMES, **each) for each in (masks, masks, {}))
    first = training_batches(data, 1)
    assert len(first) > 3
    assert all_equal(first, training_batches(again, 1))
    assert all_equal(first[2:], training_batches(again, 1, start=2))
    assert not all_equal(first, training_batches(plain, 1))
    batch = data.collate("train", [0, 1, 2])
    assert not torch.equal(data.altered(batch, 1).inputs, data.altered(batch, 2).inputs)


def test_nothing_is_hidden_where_scores_are_made(root, workspace):
    named(root)
    data, plain = (
        make(workspace, **NAMES, mask_bands=0.9, mask_frames=0.9),
        make(workspace, **NAMES),
    )
    data.validation_splits = plain.validation_splits = ("train", "val")
    for masked, whole in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert all_equal([b.inputs for b in masked], [b.inputs for b in whole])


# --- labels that training does not have


def test_a_label_that_only_test_has_counts_as_wrong(root, workspace):
    manifest(root, "train", ["a", "b", "a", "b"])
    manifest(root, "val", ["a", "b"])
    manifest(root, "test", ["a", "c", "c"])
    data = make(workspace)
    assert data.collate("test", range(3)).targets.tolist() == [0, UNKNOWN_CLASS, UNKNOWN_CLASS]
    assert data.facts("test") == {"unknown_labels": 2}
    assert data.facts("val") == {}


def test_training_goes_on_without_labels_that_a_loaded_model_does_not_have(root, workspace):
    manifest(root, "train", ["a", "b", "a", "b"])
    manifest(root, "val", ["a", "b"])
    state = make(workspace, test_share=0).state_dict()
    manifest(root, "train", ["a", "c", "b"])
    data = unprepared(test_share=0)
    data.load_state_dict(state)
    data.prepare(workspace)
    assert said(data, "train") == {"set/audio/train0.wav": "a", "set/audio/train2.wav": "b"}
    assert data.facts("train") == {"left_out_unknown_label": 1}


def test_where_a_loaded_model_knows_no_label_nothing_is_left_to_train_on(root, workspace):
    manifest(root, "train", ["a", "b", "a", "b"])
    manifest(root, "val", ["a", "b"])
    state = make(workspace, test_share=0).state_dict()
    manifest(root, "train", ["c", "d", "c"])
    data = unprepared(test_share=0)
    data.load_state_dict(state)
    data.prepare(workspace)
    assert len(data.sizes("val")) == 2
    with pytest.raises(DataFormatError, match=r"nothing is left of train \(.*train.jsonl, line 1"):
        data.sizes("train")


def test_a_loaded_state_listens_as_the_model_learned_to(root, workspace):
    named(root)
    first = make(workspace, **NAMES)
    other = unprepared(**NAMES, mels=6, hop=5)
    other.prepare(workspace)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.collate("test", [1]).inputs, first.collate("test", [1]).inputs)


def test_a_state_of_another_form_is_refused():
    with pytest.raises(DataError, match="a form this version cannot read"):
        unprepared().load_state_dict({"format": 0})


# --- prediction


def loaded(data, roots, **parameters):
    again = unprepared(**parameters)
    again.load_state_dict(data.state_dict())
    again.roots = roots
    return again


def test_lines_are_paths_below_a_root(root, workspace):
    named(root)
    data = make(workspace, **NAMES)
    names = list(data.sources("val"))
    batch = loaded(data, workspace.roots).encode([names[0], str(root / names[1][4:])])
    rows = data.collate("val", [0, 1])
    assert torch.equal(batch.inputs, rows.inputs)
    assert torch.equal(batch.lengths, rows.lengths)
    assert [data.line_length(line) for line in names[:2]] == rows.lengths.tolist()
    assert batch.targets is None


def test_a_line_that_leads_nowhere_or_out_of_the_roots_is_refused(root, workspace, tmp_path):
    named(root)
    data = loaded(make(workspace, **NAMES), workspace.roots)
    with pytest.raises(DataPathError, match=r"there is no file 'set/none.wav'"):
        data.encode(["set/0_ann_0.wav", "set/none.wav"])
    assert data.line_length("set/none.wav") == 1
    with pytest.raises(DataPathError, match="outside the allowed data roots"):
        data.encode([str(sound(tmp_path / "out.wav"))])
    sound(root / "fast.wav", rate=16000)
    with pytest.raises(DataFormatError, match=r"^set/fast.wav has 16000 samples a second"):
        data.encode(["set/fast.wav"])


def test_the_likeliest_labels_come_first_and_nothing_is_said_of_an_empty_line(root, workspace):
    named(root)
    data = loaded(make(workspace, **NAMES), workspace.roots)
    output = torch.tensor([0.2, 0.5, 0.3]).log()
    best, second = data.answers(output, "set/a.wav", 2)
    assert (best.text, best.values, second.text) == ("1", {"label": "1"}, "2")
    assert best.score == pytest.approx(0.5)
    assert [each.text for each in data.answers(output, " ", 2)] == [""]
    assert data.encode([""]).lengths.tolist() == [data.line_length("")] == [1]


def test_a_search_is_answered_with_text(root, workspace):
    named(root)
    data = make(workspace, **NAMES, target="text", spelled=WORDS)
    ids = data.collate("val", [0]).targets[0].tolist()
    (answer,) = data.answers([Hypothesis(tuple(ids), -0.5)], "set/a.wav", 1)
    assert (answer.text, answer.score) == (said(data, "val")[data.sources("val")[0]], -0.5)


def test_frames_are_shown_by_when_they_begin(root, workspace):
    named(root)
    data = make(workspace, **NAMES, target="text", spelled=WORDS)
    symbols = data.source_symbols("set/0_ann_4.wav")
    assert symbols[:3] == ["0.00", "0.02", "0.04"]
    assert len(symbols) == int(data.encode(["set/0_ann_4.wav"]).lengths)
    assert all(one < other for one, other in pairwise(symbols))


# --- what is wrong, in one line


def test_a_recording_that_is_not_right_is_named_with_its_row(root, workspace):
    manifest(root, "train", ["a", "b", "a"])
    manifest(root, "val", ["a", "b"])
    sound(root / "audio" / "train1.wav", rate=11025)
    with pytest.raises(
        DataFormatError, match=r"train.jsonl, line 2 \(audio/train1.wav\) has 11025"
    ):
        make(workspace, test_share=0)
    (root / "audio" / "train1.wav").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"train.jsonl, line 2 \(audio/train1.wav\) cannot"):
        make(workspace, test_share=0)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            {"path": "audio/none.wav", "label": "a"},
            "line 2: there is no recording 'audio/none.wav'",
        ),
        ({"path": "", "label": "a"}, "line 2: there is no recording ''"),
        ({"path": 3, "label": "a"}, "line 2, column 'path' holds 3 and not text"),
        ({"label": "a"}, "line 2 has no column 'path'"),
        ({"path": "audio/train0.wav", "text": "a"}, "line 2 has no column 'label'"),
        ({"path": "audio/train0.wav", "label": " "}, "line 2 has no label"),
        ({"path": "audio/train0.wav", "label": 1.5}, "column 'label' holds 1.5 and not text"),
        ({"path": "audio/train0.wav", "label": None}, "column 'label' holds null and not text"),
    ],
)
def test_a_row_that_is_not_right_is_named(root, workspace, line, sentence):
    manifest(root, "train", ["a", "b"])
    first = (root / "train.jsonl").read_text().splitlines()[0]
    (root / "train.jsonl").write_text(f"{first}\n{json.dumps(line)}\n")
    with pytest.raises(DataFormatError, match=sentence):
        make(workspace)


def test_a_recording_outside_the_roots_is_refused(root, workspace, tmp_path):
    manifest(root, "train", ["a", "b"])
    line = {"path": str(sound(tmp_path / "out.wav")), "label": "a"}
    (root / "train.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataPathError, match="outside the allowed data roots"):
        make(workspace)


def test_a_label_with_a_single_recording_cannot_be_cut(root, workspace):
    manifest(root, "train", ["a", "a", "b"])
    with pytest.raises(DataFormatError, match=r"line 3 .* is the only example of the class 'b'"):
        make(workspace)


def test_one_label_leaves_nothing_to_tell_apart(root, workspace):
    manifest(root, "train", ["a", "a"])
    manifest(root, "val", ["a"])
    with pytest.raises(DataFormatError, match="nothing to tell apart"):
        make(workspace)


def test_a_split_that_is_not_there_is_missed_when_it_is_used(root, workspace):
    manifest(root, "train", ["a", "b"])
    with pytest.raises(DataMissingError, match=r"no manifest of 'val'.* holds: train.jsonl"):
        make(workspace, val_share=0, test_share=0)
    manifest(root, "val", ["a", "b"])
    data = make(workspace, test_share=0)
    with pytest.raises(DataMissingError, match="no manifest of 'test'"):
        data.sizes("test")
    with pytest.raises(DataError, match="no split 'extra'"):
        data.sizes("extra")


def test_val_must_come_from_somewhere(root, workspace):
    named(root)
    with pytest.raises(DataError, match="there is no val: raise 'val_share'"):
        make(workspace, **NAMES, val_share=0)


def test_a_name_that_is_not_like_the_pattern_is_shown(root, workspace):
    named(root)
    sound(root / "noise.wav")
    with pytest.raises(DataFormatError, match=r"noise.wav is not named like '\{label\}_"):
        make(workspace, **NAMES)


@pytest.mark.parametrize("layout", [{"layout": "classes"}, NAMES])
def test_a_folder_without_recordings_is_refused(root, workspace, layout):
    (root / "readme.txt").write_text("nothing to hear")
    with pytest.raises(DataMissingError, match=r"holds no .*\(\*.wav or \*.flac; .*readme.txt"):
        make(workspace, **layout)


def test_a_rule_that_fits_no_name_is_refused(root, workspace):
    named(root)
    with pytest.raises(DataMissingError, match="holds no recordings of test"):
        make(workspace, **NAMES, test_where="speaker=eve")


def test_a_label_that_is_not_spelled_is_refused(root, workspace):
    named(root)
    with pytest.raises(DataFormatError, match="has the label '2', which 'spelled' does not have"):
        make(workspace, **NAMES, target="text", spelled=WORDS[:2])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"layout": "names"}, "'pattern' is ''"),
        ({"layout": "names", "pattern": "{speaker}_{index}"}, "one of them {label}"),
        ({"layout": "names", "pattern": "{label}_{label}"}, "name each part once"),
        ({"layout": "names", "pattern": "{label}_{}"}, "name each part once"),
        ({**NAMES, "test_where": "index"}, "'test_where' is 'index': it must be PART=VALUES"),
        ({**NAMES, "val_where": "room=3"}, r"'val_where' .*\(label, speaker, index\)"),
        ({"pattern": "{label}"}, "pattern reads the names of recordings: set layout to names"),
        ({"layout": "classes", "test_where": "a=1"}, "test_where reads the names"),
        ({"spelled": ["zero"]}, "'spelled' holds 'zero': it must be LABEL=TEXT"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"rate": 8000, "mels": 300}, "too many"),
    ],
)
def test_parameters_that_say_nothing_are_refused(parameters, sentence):
    with pytest.raises(DataError, match=sentence):
        unprepared(**parameters)


def test_what_has_learned_nothing_says_so():
    with pytest.raises(DataError, match="prepare it or load a checkpoint"):
        _ = unprepared().dims
