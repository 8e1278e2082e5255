"""Tagged text: little of a large corpus is in memory while it is prepared."""

import json
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import pytest

from datamodules import _files, _rows, _spool
from datamodules._base import Feed, Workspace
from datamodules.tagged_text import TaggedText


@pytest.mark.parametrize("form", ["folder", "conll", "jsonl"])
def test_little_of_a_large_corpus_is_held_while_it_is_prepared(form: str, tmp_path: Path) -> None:
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
