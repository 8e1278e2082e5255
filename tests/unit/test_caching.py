"""Prepared data that nobody uses goes; what is in use stays, whatever its age."""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules import _cache
from worker.caching import clear_unused

DAY = 86_400.0
MONTH = 30 * DAY


@pytest.fixture
def kind(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of one kind of data within a cache."""
    yield tmp_path / "cache" / "text"
    assert not list(tmp_path.glob("cache/text/.*")), "nothing half removed"


def use(kind: Path, key: str) -> Mapping[str, NDArray[Any]]:
    prepared = _cache.Prepared({"ids": np.arange(12).reshape(3, 4), "none": np.zeros(0)}, {})
    return _cache.cached(kind, key, lambda: prepared).arrays


@given(
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from("CF"),
    st.sampled_from(["<i4", "<f8", "|b1", "<U3"]),
)
def test_an_array_comes_back_as_it_was(shape: list[int], order: str, dtype: str) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype, order=order)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        found = _cache.cached(Path(folder), "key", lambda: _cache.Prepared({"a": array}, {}))
        (kept,) = found.arrays.values()
        np.testing.assert_array_equal(kept, array)
        assert (kept.dtype, kept.flags.f_contiguous) == (array.dtype, array.flags.f_contiguous)


def grow_old(entry: Path, seconds: float = 2 * MONTH) -> None:
    then = time.time() - seconds
    os.utime(entry, (then, then))


def test_what_was_not_used_for_long_goes(kind: Path) -> None:
    for key in ("old", "new", "used again"):
        use(kind, key)
    for key in ("old", "used again"):
        grow_old(kind / key)
    use(kind, "used again")
    clear_unused(kind.parent, MONTH)
    assert sorted(path.name for path in kind.iterdir()) == ["new", "used again"]


def test_what_is_in_memory_stays(kind: Path) -> None:
    row = use(kind, "key")["ids"][1]  # a view of a view keeps the whole
    grow_old(kind / "key")
    clear_unused(kind.parent, MONTH)
    assert row.tolist() == [4, 5, 6, 7]
    assert (kind / "key").exists()
    del row
    clear_unused(kind.parent, MONTH)
    assert not (kind / "key").exists()


def test_what_is_being_removed_is_made_anew(kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kind, "key")
    grow_old(kind / "key")
    rename = Path.rename
    met = []

    def rename_while_another_comes(path: Path, to: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        met.append(_cache.kept(kind, "key"))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", rename_while_another_comes)
    clear_unused(kind.parent, MONTH)
    assert met == [None]
    assert use(kind, "key")["ids"].shape == (3, 4)


def test_a_cache_without_locks_is_used_and_left_alone(
    kind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    use(kind, "key")
    assert use(kind, "key")["ids"].sum() == 66
    grow_old(kind / "key")
    clear_unused(kind.parent, MONTH)
    assert (kind / "key").exists()


def test_catalogues_of_code_that_has_changed_and_data_of_the_hub_go_too(kind: Path) -> None:
    cache = kind.parent
    entries = [cache / "catalog-1.json", cache / "hub" / "owner--name.key"]
    beside = [cache / "catalog-2.json", cache / "hub" / ".locks", cache / "hub" / "owner--name.new"]
    for path in (entries[0], beside[0]):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("{}")
    for path in (entries[1], *beside[1:]):
        path.mkdir(parents=True)
    for path in (*entries, beside[1]):
        grow_old(path)
    clear_unused(cache, MONTH)
    assert [path for path in (*entries, *beside) if path.exists()] == beside
