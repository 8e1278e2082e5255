"""Running text as a stream: every symbol once, in order, whatever the windows and streams."""

import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._base import Answer, Feed, Workspace
from datamodules._errors import DataError
from datamodules._stream import FOLLOWS, Stream, parallel_plan, reading_plan, side_by_side
from datamodules._vocab import EOS, PAD, UNK
from datamodules.char_text import CharText

TEXT = "".join(f"line {n}: {'abcdefgh'[n % 8] * (n % 5)}\n" for n in range(400))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "input.txt").write_text(TEXT)
    return tmp_path / "data"


def prepared(folder: Path, **options: Any) -> CharText:
    data = CharText(root=".", **options)
    data.feed = Feed(batch_tokens=300, seed=3)
    data.prepare(Workspace(roots=(folder,), cache=folder.parent / "cache"))
    return data


def targets(data: CharText, split: str, plan: list[list[int]] | None = None) -> list[int]:
    """Return all targets of a split, in the order of its rows or of a plan."""
    ids: list[int] = []
    for rows in plan or reading_plan(len(data.sizes(split))):
        batch = data.collate(split, rows)
        assert batch.targets is not None
        for row, length in zip(batch.targets.tolist(), batch.lengths.tolist(), strict=True):
            ids += row[:length]
    return ids


def read(data: CharText, split: str) -> str:
    nothing = data.encode([""])
    return data.continued(nothing, torch.tensor(targets(data, split)), 0.0).text


# --- streams


@given(
    windows=st.integers(1, 60),
    streams=st.integers(1, 70),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
@settings(deadline=None)
def test_each_stream_reads_on_where_it_was(
    windows: int, streams: int, seed: int, epoch: int
) -> None:
    plan = parallel_plan(windows, streams, seed, epoch)
    assert sorted(row for batch in plan for row in batch) == list(range(windows))
    assert len(plan[0]) == min(streams, windows)
    for before, batch in pairwise(plan):
        assert len(batch) <= len(before)
        for place, row in enumerate(batch):
            assert row == (before[place] + 1) % windows
    assert plan == parallel_plan(windows, streams, seed, epoch)


def test_streams_are_planned_as_they_always_were():
    assert list(parallel_plan(7, 3, 1, 0)) == [[3, 6, 1], [4, 0, 2], [5]]
    assert list(reading_plan(3)) == [[0], [1], [2]]


def test_runs_stand_side_by_side_until_they_end():
    runs = [np.array(run) for run in ([1, 2, 3, 4], [5, 6], [7, 8], [9])]
    assert list(side_by_side(runs)) == [[1, 5, 7, 9], [2, 6, 8], [3], [4]]
    assert list(side_by_side([np.array([], dtype=int)])) == []


@given(symbols=st.lists(st.integers(3, 99), min_size=1, max_size=50), window=st.integers(1, 60))
@settings(deadline=None)
def test_every_symbol_is_a_target_once_with_the_one_before_it(
    symbols: list[int], window: int
) -> None:
    stream = Stream(np.array(symbols, dtype=np.int32), window)
    batch = stream.collate(range(len(stream)))
    assert batch.targets is not None
    assert batch.lengths.tolist() == stream.sizes[:, 0].tolist()
    assert batch.extras[FOLLOWS].tolist() == list(range(-1, len(stream) - 1))
    inputs, outputs = [], []
    for row, length in enumerate(batch.lengths.tolist()):
        inputs += batch.inputs[row, :length].tolist()
        outputs += batch.targets[row, :length].tolist()
        assert set(batch.inputs[row, length:].tolist()) <= {PAD}
        assert set(batch.targets[row, length:].tolist()) <= {PAD}
    assert outputs == symbols
    assert inputs == [EOS, *symbols[:-1]]


# --- where the text comes from


@pytest.mark.parametrize("tokens", ["characters", "words", "subwords"])
def test_the_splits_are_the_text_in_its_order(folder: Path, tokens: str) -> None:
    data = prepared(folder, tokens=tokens, val_fraction=0.2, test_fraction=0.1)
    parts = [read(data, split) for split in ("train", "val", "test")]
    if tokens == "words":  # the numbers are words that training did not have
        assert TEXT.startswith(parts[0])
        assert sum(len(part.split()) for part in parts) == len(TEXT.split())
        return
    assert "".join(parts) == TEXT
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert len(part) == pytest.approx(share * len(TEXT), abs=20)


def test_characters_are_counted_one_to_one(folder: Path) -> None:
    data = prepared(folder, val_fraction=0.25, test_fraction=0.5)
    size = len(TEXT)
    counts = [data.facts(split)["symbols"] for split in ("train", "val", "test")]
    assert counts == [round(size * 0.25), round(size * 0.5) - round(size * 0.25), size // 2]
    assert len(targets(data, "test")) == size // 2


def test_files_follow_each_other_and_may_be_splits(folder: Path) -> None:
    (folder / "b.txt").write_bytes(b"second\r\nfile")
    with gzip.open(folder / "held.txt.gz", "wt") as file:
        file.write("held line\n" * 40)
    data = prepared(folder, train=["b.txt", "input.txt"], val="held.txt", test_fraction=0)
    assert read(data, "train") == "second\nfile\n" + TEXT
    assert read(data, "val") == "held line\n" * 40
    with pytest.raises(DataError, match=r"no split 'test'.*name a file for it"):
        data.sizes("test")
    all_but_held = prepared(folder, val="held.txt", test_fraction=0)
    assert read(all_but_held, "train") == "second\nfile\n" + TEXT


@pytest.mark.parametrize("name", ["val.txt", "val.txt.gz"])
def test_a_split_is_not_learned_from_however_it_is_packed(folder: Path, name: str) -> None:
    (folder / "val.txt").write_text("held out\n")
    (folder / "val.txt.gz").write_bytes(gzip.compress(b"held out\n"))
    data = prepared(folder, val=name, test_fraction=0)
    assert read(data, "train") == TEXT


def test_what_training_did_not_know_is_counted(folder: Path) -> None:
    (folder / "other.txt").write_text("ab \N{SNOWMAN} \N{SNOWMAN}\n")
    data = prepared(folder, train=["input.txt"], test="other.txt")
    assert data.facts("test") == {"symbols": 7, "unknown_symbols": 2}
    assert targets(data, "test").count(UNK) == 2


def test_the_form_is_the_models_and_so_are_the_symbols(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = prepared(folder, lowercase=True).state_dict()
    data = CharText(root=".")
    data.load_state_dict(state)
    told = "the data is read as the model learned it: lowercase = True, not False"
    assert caplog.messages == [told]
    assert data.encode(["Line", ""]).inputs.tolist() == data.encode(["line", ""]).inputs.tolist()
    batch = data.encode(["a\nb", ""])
    assert batch.lengths.tolist() == [4, 1]
    assert batch.inputs[0, 0] == batch.inputs[1, 0] == batch.inputs[0, 2] == EOS
    prompt, more = data.encode(["a\nb"]), data.encode(["\na"]).inputs[0, 1:]
    assert data.continued(prompt, more, -0.5) == Answer("a\nb\na", -0.5)


def test_the_best_answers_are_the_likeliest_symbols(folder: Path) -> None:
    data = prepared(folder)
    scores = torch.full((data.dims["vocabulary_size"],), -9.0)
    letter = int(data.encode(["a"]).inputs[0, 1])
    scores[letter], scores[EOS] = -0.1, -0.5
    first, second = data.answers(torch.log_softmax(scores, 0), "x", 2)
    assert (first.text, second.text) == ("a", "\n")
    assert first.score > second.score > 0


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ({"train": ["inptu.txt"]}, None, r"no file 'inptu.txt' \(it holds: input.txt"),
        ({"val": "val.txt"}, None, "no file 'val.txt'"),
        ({}, b"", "input.txt is empty"),
        ({}, b" \n\n", "input.txt holds no text"),
        ({}, b"abc\n\xff\n", "input.txt, line 2 is not valid UTF-8"),
        ({}, b"abc\0", "line 1 holds a NUL"),
        ({}, b"abc\n", "input.txt: 4 characters are too few to cut"),
        ({"train": ["../data.txt"]}, None, "outside the allowed data roots"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, None, "leave no text to learn from"),
        ({"encoding": "utf-9"}, None, "no text encoding is called 'utf-9'"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path, options: dict[str, Any], content: bytes | None, message: str
) -> None:
    if content is not None:
        (folder / "input.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepared(folder, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_text_says_what_it_looked_for(folder: Path) -> None:
    (folder / "input.txt").rename(folder / "input.md")
    with pytest.raises(DataError, match=r"has no .txt file to learn from.*input\.md"):
        prepared(folder)


def test_a_missing_file_is_missed_only_when_it_is_used(folder: Path) -> None:
    (folder / "held.txt").write_text(TEXT)
    state = prepared(folder, val="held.txt", test="held.txt").state_dict()
    (folder / "input.txt").unlink()
    data = CharText(root=".", train=["input.txt"], val="held.txt", test="gone.txt")
    data.load_state_dict(state)
    data.prepare(Workspace(roots=(folder,), cache=folder.parent / "cache"))
    assert read(data, "val") == TEXT
    for split, name in (("train", "input.txt"), ("test", "gone.txt")):
        with pytest.raises(DataError, match=f"no file '{name}'"):
            data.sizes(split)
