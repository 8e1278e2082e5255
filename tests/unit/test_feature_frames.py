"""Frames in files, and what manifests say of them: read, cut, scaled, and refused where wrong."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import _frame_data
from datamodules._base import Feed, Workspace
from datamodules._classes import MISSED, UNKNOWN_CLASS
from datamodules._errors import DataError, DataFormatError, DataMissingError, DataPathError
from datamodules._frame_targets import AnyOf, frame_targets_from_state
from datamodules._stream import FOLLOWS
from datamodules._tags import Tagging
from datamodules._vocab import EOS
from datamodules.feature_frames import FeatureFrames

Said = Mapping[str, Any]


def write(folder: Path, split: str, rows: Sequence[tuple[Any, Said]]) -> None:
    """Write a manifest and a file of frames for each of its rows."""
    lines = []
    for place, (frames, said) in enumerate(rows):
        name = f"{split}-{place}.npy"
        np.save(folder / name, np.asarray(frames))
        lines.append(json.dumps({"path": name, **said}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def prepared(folder: Path, target: str, **parameters: Any) -> FeatureFrames:
    data = FeatureFrames(root=".", target=target, **parameters)  # type: ignore[arg-type]
    data.feed = Feed(batch_tokens=40, seed=1)
    data.prepare(Workspace((folder,), folder / "cache"))
    return data


ONE, TWO, THREE = [[1.0, 5.0]], [[3.0, 5.0], [5.0, 5.0]], [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]


def small(folder: Path, *said: Said, test: Said | None = None) -> None:
    """Write sequences of one, two and three frames; val and test hold the second of them."""
    write(folder, "train", list(zip((ONE, TWO, THREE), said, strict=False)))
    write(folder, "val", [(TWO, said[1])])
    write(folder, "test", [(TWO, said[1] if test is None else test)])


# --- what a batch holds


def test_frames_are_scaled_by_training_and_padded_with_zeros(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    batch = prepared(tmp_path, "label").collate("train", [0, 2])
    mean, deviation = np.mean([1, 3, 5, 1, 2, 3]), np.std([1, 3, 5, 1, 2, 3])
    first = [(each - mean) / deviation for each in (1, 1, 2, 3)]
    assert batch.inputs.dtype == torch.float32
    # The second feature never changes: it is only moved to zero.
    expected = [[[first[0], 0], [0, 0], [0, 0]], [[each, 0] for each in first[1:]]]
    torch.testing.assert_close(batch.inputs, torch.tensor(expected, dtype=torch.float32))
    assert batch.lengths.tolist() == [1, 3]
    plain = prepared(tmp_path, "label", scale="none").collate("train", [0])
    assert plain.inputs.tolist() == [ONE]


def test_a_label_that_only_test_has_counts_as_wrong_and_is_counted(tmp_path: Path) -> None:
    small(tmp_path, {"label": 3}, {"label": "b"}, {"label": 3}, test={"label": "new"})
    data = prepared(tmp_path, "label")
    assert data.labels == ("3", "b")
    batch = data.collate("train", [0, 1, 2])
    assert batch.targets is not None
    assert batch.targets.tolist() == [0, 1, 0]
    unknown = data.collate("test", [0]).targets
    assert unknown is not None
    assert unknown.tolist() == [UNKNOWN_CLASS]
    assert data.facts("test") == {"unknown_labels": 1}
    assert data.facts("val") == {}


def test_a_value_may_be_a_number_or_several(tmp_path: Path) -> None:
    small(tmp_path, {"value": 1}, {"value": 3.0}, {"value": 5})
    data = prepared(tmp_path, "value")
    assert data.dims == {"feature_size": 2, "value_size": 1, "value_steps": 1}
    batch = data.collate("train", [0, 1, 2])
    deviation = np.std([1, 3, 5])
    assert data.value_scale == pytest.approx([deviation])
    assert batch.targets is not None
    assert batch.targets.shape == (3, 1, 1)
    assert batch.targets.flatten().tolist() == pytest.approx([-2 / deviation, 0, 2 / deviation])
    assert batch.target_lengths is not None
    assert batch.target_lengths.tolist() == [1, 1, 1]
    (answer,) = data.answers(torch.tensor([[1.0]]), "", 3)
    assert answer.text == f"{3 + deviation:.6g}"
    small(tmp_path, {"value": [1, 2]}, {"value": [1, 4]}, {"value": [0, 0]})
    assert prepared(tmp_path, "value").dims["value_size"] == 2


def test_a_label_for_each_frame(tmp_path: Path) -> None:
    said = [["x"], ["x", "y"], ["y", "x", "y"]]
    small(tmp_path, *({"labels": each} for each in said), test={"labels": ["new", "y"]})
    data = prepared(tmp_path, "tags")
    assert data.tag_names == ("x", "y")
    assert data.true_tags("train") == said
    batch = data.collate("train", [0, 2])
    assert batch.targets is not None
    assert batch.targets.tolist() == [[0, 0, 0], [1, 0, 1]]
    unknown = data.collate("test", [0]).targets
    assert unknown is not None
    assert unknown.tolist() == [[UNKNOWN_CLASS, 1]]
    assert data.facts("test") == {"unknown_labels": 1}
    scores = torch.log(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    best, second = data.answers(Tagging(scores), "", 2)
    assert (best.text, best.values) == ("x y", {"labels": ["x", "y"]})
    assert best.score == pytest.approx(0.72)
    assert second.text == "x x"


def test_several_labels_for_each_frame(tmp_path: Path) -> None:
    said = [[["a"]], [[], ["b", "a"]], [["b"], [], []]]
    new = [["new", "a", "newer"], []]
    small(tmp_path, *({"labels": each} for each in said), test={"labels": new})
    data = prepared(tmp_path, "labels")
    assert data.dims == {"feature_size": 2, "label_size": 2}
    batch = data.collate("train", [1, 2])
    assert batch.targets is not None
    assert batch.targets.tolist() == [[[0, 0], [1, 1], [0, 0]], [[0, 1], [0, 0], [0, 0]]]
    assert not batch.extras[MISSED].any()
    strange = data.collate("test", [0])
    assert strange.targets is not None
    assert strange.targets.tolist() == [[[1, 0], [0, 0]]]
    assert strange.extras[MISSED].tolist() == [[2, 0]]
    assert data.facts("test") == {"unknown_labels": 1}
    (answer,) = data.answers(torch.tensor([[0.9, 0.6], [0.1, 0.2]]), "", 3)
    assert (answer.text, answer.values) == ("a+b -", {"labels": [["a", "b"], []]})
    assert answer.score == pytest.approx(0.9 * 0.6 * 0.9 * 0.8)


def test_values_for_each_frame(tmp_path: Path) -> None:
    small(tmp_path, {"values": [1]}, {"values": [2, 3]}, {"values": [4, 5, 9]})
    data = prepared(tmp_path, "values", scale="none")
    assert data.dims == {"feature_size": 2, "value_size": 1}
    batch = data.collate("train", [0, 2])
    assert batch.targets is not None
    assert batch.targets.tolist() == [[[1], [0], [0]], [[4], [5], [9]]]
    (answer,) = data.answers(torch.tensor([[1.5], [2.0]]), "", 1)
    assert (answer.text, answer.values) == ("1.5 2", {"value": [1.5, 2.0]})


def test_a_text(tmp_path: Path) -> None:
    small(tmp_path, {"text": "Ab"}, {"text": "b a"}, {"text": "a"})
    data = prepared(tmp_path, "text", lowercase=True)
    assert data.monitor == ("val/cer", "min")
    batch = data.collate("train", [0, 1])
    assert batch.targets is not None
    assert data.detokenise(batch.targets[0].tolist()) == "ab"
    assert batch.targets[1, 3] == EOS
    assert data.references("val") == [["b a"]]
    assert list(data.sources("train")) == ["train-0.npy", "train-1.npy", "train-2.npy"]
    assert data.source_symbols("train-2.npy") == ["0", "1", "2"]
    assert data.target_symbols([EOS]) == ["</s>"]


@pytest.mark.parametrize(
    ("target", "name"), [("tags", "labels"), ("labels", "labels"), ("values",) * 2]
)
def test_what_is_said_of_each_frame_may_lie_in_an_array(
    target: str, name: str, tmp_path: Path
) -> None:
    arrays = {
        "tags": [[2], [2, 7]],
        "labels": [[[0, 1]], [[1, 1], [0, 0]]],
        "values": [[4], [5, 6]],
    }
    inline = {"tags": [[2], [2, 7]], "labels": [[[1]], [[0, 1], []]], "values": [[4], [5, 6]]}
    found = []
    for form in ("arrays", "lists"):
        rows = []
        for place, frames in enumerate((ONE, TWO)):
            np.save(tmp_path / f"said-{place}.npy", np.array(arrays[target][place]))
            said = f"said-{place}.npy" if form == "arrays" else inline[target][place]
            rows.append((frames, {name: said}))
        for split in ("train", "val", "test"):
            write(tmp_path, split, rows)
        found.append(prepared(tmp_path, target))
    assert found[0].state_dict() == found[1].state_dict()
    one, other = (each.collate("train", [0, 1]).targets for each in found)
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


# --- the next frame


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.float64])
def test_labels_of_frames_may_be_large_numbers(kind: type[np.generic], tmp_path: Path) -> None:
    days = [20240101, 20240102, 20240103]  # some of which are one in single precision
    np.save(tmp_path / "days.npy", np.array(days, dtype=kind))
    for split in ("train", "val", "test"):
        write(tmp_path, split, [(THREE, {"labels": "days.npy"})])
    assert prepared(tmp_path, "tags").tag_names == tuple(map(str, days))


def test_the_next_frame_is_told_from_windows_of_scaled_ones(tmp_path: Path) -> None:
    small(tmp_path, {}, {}, {})
    data = prepared(tmp_path, "next", bptt=2)
    assert data.dims == {"feature_size": 2, "binary_frames": False}
    assert data.sizes("train").tolist() == [[1], [2], [2], [1]]
    batch = data.collate("train", [0, 2, 3])
    assert batch.extras[FOLLOWS].tolist() == [-1, -1, 2]
    scaled = [(each - 2.5) / np.std([1, 3, 5, 1, 2, 3]) for each in (1, 1, 2, 3)]
    assert batch.targets is not None
    told = [[scaled[0], 0], scaled[1:3], [scaled[3], 0]]
    torch.testing.assert_close(batch.targets[..., 0], torch.tensor(told).float())
    before = [[0, 0], [0, scaled[1]], [scaled[2], 0]]
    torch.testing.assert_close(batch.inputs[..., 0], torch.tensor(before).float())
    lines = data.encode(["train-2.npy", ""])
    assert lines.lengths.tolist() == [4, 1]
    torch.testing.assert_close(lines.inputs[0, :, 0], torch.tensor([0, *scaled[1:]]).float())
    assert not lines.inputs[1].any()
    (answer,) = data.answers(torch.tensor([1.0, 0.0]), "", 1)
    assert answer.values["frame"] == pytest.approx([2.5 + data.value_scale[0], 5])
    two = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double()
    written = data.continued(lines, two, -0.5)
    assert written.values == {"frames": [[2.5, 5], answer.values["frame"]]}
    assert (written.text, written.score) == (f"2.5 5\n{answer.text}", -0.5)


@pytest.mark.parametrize(("scale", "binary"), [("auto", True), ("none", True), ("standard", False)])
def test_frames_of_zeros_and_ones_stay_as_they_are(
    scale: str, binary: bool, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        write(tmp_path, split, [([[0, 1], [1, 1]], {}), ([[1, 0]], {})])
    data = prepared(tmp_path, "next", scale=scale, test_share=0.0)
    assert data.dims["binary_frames"] is binary
    told = data.collate("train", [0]).targets
    assert told is not None
    assert (told.tolist() == [[[0, 1], [1, 1]]]) is binary


# --- splits


def test_splits_without_a_manifest_are_cut_off_label_by_label(tmp_path: Path) -> None:
    rows = [([[row, 0.5]], {"label": "ab"[row % 2]}) for row in range(40)]
    write(tmp_path, "train", rows)
    data = prepared(tmp_path, "label", val_share=0.2, test_share=0.1)
    sizes = {split: len(data.sizes(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 28, "val": 8, "test": 4}
    every = [name for split in sizes for name in data.sources(split)]
    assert sorted(every) == sorted(f"train-{row}.npy" for row in range(40))
    targets = data.collate("val", range(8)).targets
    assert targets is not None
    assert sorted(targets.tolist()) == [0] * 4 + [1] * 4
    other = prepared(tmp_path, "label", val_share=0.2, test_share=0.1, split_seed=1)
    assert other.sources("val") != data.sources("val")


@pytest.mark.parametrize(
    ("target", "of"),
    [
        ("value", lambda n: {"value": n}),
        ("values", lambda n: {"values": [n, n]}),
        ("tags", lambda n: {"labels": [f"t{n}", "same"]}),
        ("text", lambda n: {"text": f"text {n}"}),
    ],
)
def test_a_path_that_stands_twice_keeps_what_each_row_says(
    target: str, of: Callable[[int], Said], tmp_path: Path
) -> None:
    write(tmp_path, "train", [(TWO, of(row)) for row in range(20)])
    again = [{"path": f"train-{row}.npy", **of(20 + row)} for row in range(0, 20, 4)]
    with (tmp_path / "train.jsonl").open("a") as manifest:
        manifest.writelines(json.dumps(row) + "\n" for row in again)
    data = prepared(tmp_path, target, val_share=0.3)
    splits = ("train", "val", "test")
    names = [list(data.sources(split)) for split in splits]
    told = sorted(f"train-{row}.npy" for row in [*range(20), *range(0, 20, 4)])
    assert sorted(name for each in names for name in each) == told
    said = [str(each) for split in splits for each in data._split(split).framed.answers()]
    assert len(set(said)) == 25
    # What training has is in no other split.
    assert sum(len(set(each)) for each in names) == 20


def test_an_archive_and_a_single_axis_are_read_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=np.arange(3), other=np.zeros(9))
    np.savez_compressed(tmp_path / "b.npz", np.array([[True], [False]]))
    lines = [json.dumps({"path": name, "label": name}) for name in ("a.npz", "b.npz")]
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    data = prepared(tmp_path, "label", scale="none")
    assert data.collate("train", [0, 1]).inputs[..., 0].tolist() == [[0, 1, 2], [1, 0, 0]]


def test_long_sequences_are_left_out_of_training_alone(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    data = prepared(tmp_path, "label", max_length=1)
    assert list(data.sources("train")) == ["train-0.npy"]
    assert data.facts("train") == {"left_out_too_long": 2}
    assert len(data.sizes("val")) == 1


def test_a_checkpoint_holds_all_that_a_prediction_needs(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    data = prepared(tmp_path, "label")
    again = FeatureFrames(root="nowhere")
    again.load_state_dict(data.state_dict())
    again.roots = (tmp_path,)
    assert torch.equal(again.encode(["train-1.npy"]).inputs, data.collate("train", [1]).inputs)
    assert again.line_length("train-1.npy") == 2
    with pytest.raises(DataPathError, match=r"no file 'gone.npy'"):
        again.encode(["gone.npy"])
    np.save(tmp_path / "wide.npy", np.zeros((3, 5)))
    with pytest.raises(DataFormatError, match=r"wide.npy has 5 features a frame .* others have 2"):
        again.encode(["wide.npy"])
    with pytest.raises(DataError, match="form this version cannot read"):
        again.load_state_dict({"format": 0})


def test_the_length_of_a_line_is_known_without_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    data = prepared(tmp_path, "label")
    np.savez(tmp_path / "packed.npz", frames=np.zeros((7, 2)))
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "one.npy", np.float64(5))
    (tmp_path / "torn.npy").write_bytes(b"no array")
    monkeypatch.setattr(_frame_data, "read_frames", None)
    files = {"train-1.npy": 2, "packed.npz": 7, "line.npy": 5, "one.npy": 1, "torn.npy": 1}
    lines = {**files, "gone.npy": 1, "": 1}
    assert [data.line_length(line) for line in lines] == list(lines.values())


def test_labels_that_a_loaded_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    state = prepared(tmp_path, "label").state_dict()
    small(tmp_path, {"label": "a"}, {"label": "new"}, {"label": "b"})
    data = FeatureFrames(root=".")
    data.load_state_dict(state)
    data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
    assert data.facts("train") == {"left_out_unknown_label": 1}
    assert data.facts("val") == {"unknown_labels": 1}


def test_where_a_loaded_model_knows_no_label_nothing_is_left_to_train_on(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    state = prepared(tmp_path, "label").state_dict()
    small(tmp_path, {"label": "c"}, {"label": "d"}, {"label": "c"})
    data = FeatureFrames(root=".")
    data.load_state_dict(state)
    data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
    assert data.facts("val") == {"unknown_labels": 1}
    with pytest.raises(DataFormatError, match=r"nothing is left of train \(.*train.jsonl, line 1"):
        data.plan("train", 0)


@given(st.lists(st.lists(st.sets(st.sampled_from("abcd")), max_size=4), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_labels_and_what_is_missed_add_up_to_all_there_are(rows: list[list[set[str]]]) -> None:
    targets = frame_targets_from_state(AnyOf(("a", "c")).state())
    said = [[sorted(step) for step in row] for row in rows]
    encoded = targets.encode(said)
    assert encoded.values.sum() == sum(len(step) for row in rows for step in row)
    strange = [sum(len(step - {"a", "c"}) for step in row) for row in rows]
    assert targets.unknown(encoded).tolist() == strange


# --- what is wrong


def refused(folder: Path, target: str, frames: Any, said: Said, **parameters: Any) -> str:
    """Return the line that says what is wrong with the second row of training."""
    write(folder, "train", [(ONE, GOOD[target]), (frames, said)])
    for split in ("val", "test"):
        write(folder, split, [(ONE, GOOD[target])])
    with pytest.raises(DataError) as caught:
        prepared(folder, target, **parameters)
    line = str(caught.value)
    assert "\n" not in line
    assert "train.jsonl, line 2" in line
    return line


GOOD: dict[str, Said] = {
    "label": {"label": "a"},
    "value": {"value": 1.0},
    "tags": {"labels": ["a"]},
    "labels": {"labels": [["a"]]},
    "values": {"values": [1.0]},
    "text": {"text": "a"},
    "next": {},
}


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (np.zeros((0, 2)), r"is empty: .* \(0, 2\)"),
        (np.zeros((3, 0)), "is empty"),
        (np.zeros((2, 3)), "has 3 features a frame where the others have 2"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\): frames must be a table"),
        (np.float64(3), r"shape \(\): frames must be a table"),
        ([[1, np.nan]], r"holds nan at \[0, 1\]"),
        ([[1, 2], [-np.inf, 2]], r"holds -inf at \[1, 0\]"),
        ([["a", "b"]], "and not numbers"),
        ([[1j, 2]], "holds complex128 and not numbers"),
        ([[1e300, 2]], "too large for single precision"),
    ],
)
def test_frames_that_no_network_can_read_are_refused(frames: Any, why: str, tmp_path: Path) -> None:

    assert re.search(why, refused(tmp_path, "label", frames, {"label": "b"}))


@pytest.mark.parametrize(
    ("target", "said", "why"),
    [
        ("label", {"lable": "b"}, "has no column 'label' .*did you mean 'lable'"),
        ("label", {"label": 0.5}, "holds 0.5 and not text"),
        ("label", {"label": ""}, "a label without a name"),
        ("text", {"text": " "}, "has no text"),
        ("value", {"value": "high"}, "holds 'high' and not a finite number"),
        ("value", {"value": True}, "holds 'True' and not a finite number"),
        ("value", {"value": []}, "holds no value"),
        ("value", {"value": [1, 2]}, "has 2 values where the others have 1"),
        ("value", {"value": 1e60}, "not a finite number"),
        ("tags", {"labels": "none.npy"}, "there is no file 'none.npy'"),
        ("tags", {"labels": ["a"]}, "has 1 entries for 2 frames"),
        ("tags", {"labels": {"a": 1}}, "must hold a list"),
        ("tags", {"labels": ["a", ["b"]]}, "not text"),
        ("labels", {"labels": [["a"], "b"]}, "must hold a list"),
        ("labels", {"labels": []}, "has 0 entries for 2 frames"),
        ("values", {"values": [1, 2, 3]}, "has 3 entries for 2 frames"),
        ("values", {"values": [[1], [2, 3]]}, "unequally many values"),
        ("values", {"values": [[1, 2], [2, 3]]}, "has 2 values where the others have 1"),
        ("values", {"values": []}, "has 0 entries for 2 frames"),
        ("next", {"path": 3}, "holds 3 and not text"),
        ("next", {"path": "gone.npy"}, "there is no file 'gone.npy'"),
        ("next", {"path": "train.jsonl"}, "must end in .npy or .npz"),
    ],
)
def test_what_is_said_wrongly_is_refused(target: str, said: Said, why: str, tmp_path: Path) -> None:

    assert re.search(why, refused(tmp_path, target, TWO, said))


def test_files_that_are_not_what_they_are_called_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1,2\n")
    (tmp_path / "text.npz").write_text("1,2\n")
    (tmp_path / "empty.npy").write_text("")
    np.save(tmp_path / "ragged.npy", np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", one=np.zeros(2), other=np.zeros(2))
    (tmp_path / "half.npy").write_bytes((tmp_path / "ragged.npy").read_bytes()[:40])
    for name, why in {
        "text.npy": "what NumPy cannot read",
        "text.npz": "what NumPy cannot read",
        "empty.npy": "what NumPy cannot read",
        "half.npy": "what NumPy cannot read",
        "ragged.npy": "rows of unequal length",
        "two.npz": r"holds 2 arrays (one, other): call the one to read 'frames'",
    }.items():
        assert why in refused(tmp_path, "next", ONE, {"path": name})


def test_arrays_of_answers_have_one_entry_a_frame(tmp_path: Path) -> None:
    np.save(tmp_path / "scalar.npy", np.float32(1))
    np.save(tmp_path / "table.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "many.npy", np.array([[0, 3], [1, 0]]))
    np.save(tmp_path / "parts.npy", np.array([2.0, 1.7]))
    np.save(tmp_path / "large.npy", np.array([1, 1e39]))
    for target, name, why in (
        ("tags", "scalar.npy", "without axes"),
        ("tags", "table.npy", "one label a frame"),
        ("tags", "parts.npy", "holds 1.7 and not a whole number"),
        ("labels", "many.npy", "a table of 0 and 1"),
        ("values", "table.npy", "a row for each frame"),
        ("values", "large.npy", "(large.npy) holds numbers that are too large"),
    ):
        column = "values" if target == "values" else "labels"
        assert why in refused(tmp_path, target, TWO, {column: name})


@pytest.mark.parametrize(
    ("target", "said", "why"),
    [
        ("label", [{"label": "a"}] * 3, "all 3 examples to train on have the label 'a'"),
        ("tags", [{"labels": ["a"] * n} for n in (1, 2, 3)], "all frames .* the label 'a'"),
        ("labels", [{"labels": [[]] * n} for n in (1, 2, 3)], "no frame to train on has any label"),
    ],
)
def test_training_must_hold_something_to_tell_apart(
    target: str, said: list[Said], why: str, tmp_path: Path
) -> None:
    small(tmp_path, *said)
    with pytest.raises(DataFormatError, match=why):
        prepared(tmp_path, target)


@pytest.mark.parametrize(("train", "val"), [(2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("target", ["value", "values"])
def test_every_split_must_have_as_many_values_as_training(
    target: str, train: int, val: int, tmp_path: Path
) -> None:
    for split, count in (("train", train), ("val", val)):
        values = list(range(count))
        write(tmp_path, split, [(ONE, {target: values if target == "value" else [values]})] * 2)
    with pytest.raises(
        DataFormatError, match=f"val-0.npy has {val} values .* training has {train}"
    ):
        prepared(tmp_path, target, test_share=0.0)


def test_a_loaded_model_asks_for_its_features_also_of_what_is_cached(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    state = prepared(tmp_path, "label").state_dict()
    for split in ("train", "val", "test"):
        write(tmp_path, split, [([[1, 2, 3]], {"label": label}) for label in "ab"])
    prepared(tmp_path, "label")  # another job, by which they are now cached
    data = FeatureFrames(root=".")
    data.load_state_dict(state)
    with pytest.raises(DataFormatError, match=r"train-0.npy has 3 features .* training has 2"):
        data.prepare(Workspace((tmp_path,), tmp_path / "cache"))


@pytest.mark.parametrize("scale", ["auto", "none"])
def test_where_training_has_0_and_1_alone_every_split_must(scale: str, tmp_path: Path) -> None:
    write(tmp_path, "train", [([[0.0, 1.0], [1.0, 1.0]], {})] * 2)
    write(tmp_path, "val", [([[0.0, 1.0]], {}), ([[0.0, 2.0]], {})])
    why = r"val-1.npy holds other numbers than 0 and 1.*: train with scale = 'standard'"
    with pytest.raises(DataFormatError, match=why):
        prepared(tmp_path, "next", test_share=0.0, scale=scale)
    prepared(tmp_path, "next", test_share=0.0, scale="standard")


def test_splits_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"no split 'train': looked for one of train.jsonl"):
        prepared(tmp_path, "label")
    write(tmp_path, "train", [(ONE, {"label": "a"}), (TWO, {"label": "b"}), (ONE, {"label": "b"})])
    with pytest.raises(DataFormatError, match="only example of the class 'a'"):
        prepared(tmp_path, "label")
    with pytest.raises(DataMissingError, match="no split 'val'"):
        prepared(tmp_path, "label", val_share=0.0, test_share=0.0)
    write(tmp_path, "train", [(ONE, {}), (TWO, {})])
    with pytest.raises(DataFormatError, match=r"2 sequences are too few to cut val and test off"):
        prepared(tmp_path, "next")
    with pytest.raises(DataError, match="leave nothing to train on"):
        FeatureFrames(root=".", val_share=0.6, test_share=0.4)
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataFormatError, match=r"line 1 has no column 'path'"):
        prepared(tmp_path, "next")
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(DataFormatError, match=r"train.jsonl, line 1 is not JSON"):
        prepared(tmp_path, "next")


def test_a_test_split_may_be_missing_until_it_is_used(tmp_path: Path) -> None:
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    (tmp_path / "test.jsonl").unlink()
    data = prepared(tmp_path, "label", test_share=0.0)
    with pytest.raises(DataMissingError, match="no split 'test'"):
        data.sizes("test")
    with pytest.raises(DataError, match=r"no split 'other' \(it has: train, val\)"):
        data.sizes("other")


def test_what_a_target_does_not_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="learned nothing yet"):
        _ = FeatureFrames(root=".").dims
    small(tmp_path, {"label": "a"}, {"label": "b"}, {"label": "a"})
    data = prepared(tmp_path, "label")
    assert (data.tag_names, data.label_names) == ((), ())
    with pytest.raises(DataError, match="set target to text"):
        data.detokenise([4])
    with pytest.raises(DataError, match="set target to value or values"):
        _ = data.value_scale
