"""Labelled text: little of a large corpus is in memory while it is prepared."""

import tracemalloc
from pathlib import Path
from unittest.mock import patch

import pytest

from datamodules import _encoded, _files, _spool
from datamodules._base import Feed, Workspace
from datamodules.labelled_text import LabelledText


@pytest.mark.parametrize("suffix", ["tsv", "txt"])
def test_little_of_a_large_corpus_is_held_while_it_is_prepared(suffix: str, tmp_path: Path) -> None:
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
