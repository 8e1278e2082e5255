"""Preparing a corpus holds a small part of it in memory."""

import tracemalloc

import pytest

from datamodules import _cache, _encoded, _files, _rows, _spool
from datamodules._base import Workspace
from datamodules.char_text import CharText
from datamodules.parallel_text import ParallelText


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ParallelText, {"source": "de", "target": "en", "tokens": "words"}),
        (ParallelText, {"source": "de", "target": "en", "tokens": "words", "max_length": 9}),
        (CharText, {"train": ["train.de"]}),
        (CharText, {"train": ["train.de"], "tokens": "words", "val": "val.de"}),
    ],
)
def test_preparing_holds_a_part_of_the_text_at_most(tmp_path, monkeypatch, kind, options):
    for module, name, part in (
        (_spool, "_HELD", 1 << 14),
        (_rows, "_HELD", 1 << 12),
        (_files, "_CHUNK", 1 << 14),
        (_encoded, "_PART", 100),
        (_cache, "_sync", lambda _: None),
    ):
        monkeypatch.setattr(module, name, part)
    text = "".join(f"{' '.join(['word'] * (5 + n % 5))} {n % 7}\n" for n in range(20_000))
    for suffix in ("de", "en"):
        (tmp_path / f"train.{suffix}").write_text(text)
        (tmp_path / f"val.{suffix}").write_text("word\n")
    data = kind(root=".", **options)
    tracemalloc.start()
    try:
        data.prepare(Workspace(roots=(tmp_path,), cache=tmp_path / "cache"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(text) / 3
