"""Little of what is larger than memory is in memory while it is read and prepared."""

import json
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from datamodules import _encoded, _files, _rows, _spool, _values
from datamodules._base import Feed, Workspace
from datamodules._files import table_rows
from datamodules.captions import Captions
from datamodules.labelled_text import LabelledText
from datamodules.tagged_text import TaggedText


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_little_of_a_large_table_is_held_at_once(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"x{suffix}", 40_000
    row = '{"one": "%s"}\n' if suffix == ".jsonl" else "%s\n"
    head = "" if suffix == ".jsonl" else "one\n"
    path.write_text(head + "".join(row % ("x" * 90) for _ in range(rows)))
    tracemalloc.start()
    with patch.object(_files, "_CHUNK", 1 << 13):
        assert sum(len(row["one"]) for _, row in table_rows(path)) == 90 * rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10


def test_little_of_a_large_parquet_file_is_held_at_once(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.parquet", 100_000
    texts = [f"{number:090}" for number in range(rows)]
    parquet.write_table(pa.table({"one": texts}), path, compression="none", use_dictionary=False)
    del texts
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        held = max(pool.bytes_allocated() for _ in table_rows(path))
    finally:
        pa.set_memory_pool(before)
    assert 0 < held < path.stat().st_size / 3


@pytest.mark.parametrize("suffix", ["tsv", "txt"])
def test_little_of_a_large_labelled_corpus_is_held_while_it_is_prepared(
    suffix: str, tmp_path: Path
) -> None:
    rows = [f"{number % 7} {number:090}\n" for number in range(30_000)]
    if suffix == "tsv":
        rows = ["label\ttext\n", *(row.replace(" ", "\t") for row in rows)]
    path = tmp_path / f"train.{suffix}"
    path.write_text("".join(rows))
    del rows
    data = LabelledText(root=".", tokens="characters")
    data.feed = Feed(batch_tokens=100, seed=1)
    small = patch.multiple(_files, _CHUNK=1 << 14), patch.object(_spool, "_HELD", 1 << 14)
    with small[0], small[1], patch.object(_encoded, "_PART", 100):
        tracemalloc.start()
        data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(data.sizes("train")) > 23_900
    assert peak < path.stat().st_size, peak


@pytest.mark.parametrize("form", ["folder", "conll", "jsonl"])
def test_little_of_a_large_tagged_corpus_is_held_while_it_is_prepared(
    form: str, tmp_path: Path
) -> None:
    words, rows = [f"{number:020}" for number in range(40)], 4000
    if form == "folder":
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "seq.in").write_text(f"{' '.join(words)}\n" * rows)
        (tmp_path / "train" / "seq.out").write_text(f"{' '.join('ab' * 20)}\n" * rows)
    elif form == "conll":
        block = "".join(f"{word} {tag}\n" for word, tag in zip(words, "ab" * 20, strict=True))
        (tmp_path / "train.conll").write_text(f"{block}\n" * rows)
    else:
        row = json.dumps({"tokens": words, "tags": list("ab" * 20)})
        (tmp_path / "train.jsonl").write_text(f"{row}\n" * rows)
    (tmp_path / "val.conll").write_text("a a\n")
    names = {"tokens": "tokens", "tags": "tags"} if form == "jsonl" else {}
    data = TaggedText(root=".", characters=False, **names)
    data.feed = Feed(batch_tokens=100, seed=1)
    small = patch.multiple(_files, _CHUNK=1 << 14), patch.object(_spool, "_HELD", 1 << 14)
    with small[0], small[1], patch.object(_rows, "_HELD", 1 << 12):
        tracemalloc.start()
        data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert data.sizes("train").tolist() == [[40]] * rows
    assert peak < 40 * 20 * rows / 2  # half of what the letters of the words take


def test_little_of_many_vectors_is_held_while_they_are_prepared(tmp_path: Path) -> None:
    rows, width = 5000, 256
    vectors = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}.npy", vectors)
        (tmp_path / f"{split}.txt").write_text("a b\n" * rows)
    data = Captions(root=".", inputs="vectors")
    with patch.object(_spool, "_HELD", 1 << 14), patch.object(_values, "_PART", 256):
        tracemalloc.start()
        data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    seen = data.collate("val", [3, 4999, 0]).inputs[:, 0].numpy()
    expected = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    np.testing.assert_allclose(seen, expected[[3, 4999, 0]], atol=1e-4)
