"""The artifact store: whole files or none, and no key that leads out of the root."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import artifacts
from jobs.artifacts import ArtifactStore, default_root, existing_store
from jobs.errors import ArtifactError, SetupError

KEY = "jobs/1m/attempt-0001/checkpoints/step-00000001.ckpt"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "made.ckpt"
    path.write_bytes(b"weights")
    return path


def copy_instead(*args: Any, **options: Any) -> None:
    raise OSError("no links across file systems")


@pytest.fixture(params=["link", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "copy":
        monkeypatch.setattr("os.link", copy_instead)
    return str(request.param)


def test_what_is_put_is_there_with_its_digest(tmp_path: Path, source: Path, way: str) -> None:
    store = ArtifactStore(tmp_path / "store")
    assert store.put(KEY, source) == hashlib.sha256(b"weights").hexdigest()
    assert store.path(KEY).read_bytes() == b"weights"
    assert store.path(KEY).samefile(source) == (way == "link")
    assert list(store.list()) == [KEY]
    assert [each.name for each in store.path(KEY).parent.iterdir()] == ["step-00000001.ckpt"]


def test_a_store_is_made_once_with_links_or_without(tmp_path: Path, way: str) -> None:
    ids = {ArtifactStore(tmp_path).id, ArtifactStore(tmp_path).id}
    assert ids == {(tmp_path / "store.id").read_text()}
    assert ids != {""}
    assert [each.name for each in tmp_path.iterdir()] == ["store.id"]


@pytest.mark.parametrize("refused", ["is_file", "read_text"])
def test_a_store_that_only_its_workers_may_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    assert existing_store(tmp_path) is None
    made = ArtifactStore(tmp_path).id
    found = existing_store(tmp_path)
    assert found is not None
    assert found.id == made
    monkeypatch.setattr(f"pathlib.Path.{refused}", refuse)
    assert existing_store(tmp_path) is None


def test_it_outlives_its_source_and_can_be_put_again(store: ArtifactStore, source: Path) -> None:
    store.put(KEY, source)
    source.unlink()
    source.write_bytes(b"newer")
    store.put(KEY, source)
    source.unlink()
    with store.open(KEY) as file:
        assert file.read() == b"newer"


def test_a_torn_file_is_found_by_its_digest(store: ArtifactStore, source: Path) -> None:
    digest = store.put(KEY, source)
    assert store.check(KEY, digest) == store.path(KEY)
    store.path(KEY).write_bytes(b"weigh")
    with pytest.raises(ArtifactError, match="is torn"):
        store.check(KEY, digest)


def test_nothing_half_is_left_where_putting_fails(
    store: ArtifactStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts, "_digest_and_sync", full)
    with pytest.raises(ArtifactError, match=f"cannot keep {KEY}: No space left on device"):
        store.put(KEY, source)
    assert not store.exists(KEY)
    assert [path for path in store.root.rglob("*") if path.is_file()] == [store.root / "store.id"]


def test_missing_files_are_named(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"the file {KEY} is missing in"):
        store.path(KEY)
    with pytest.raises(ArtifactError, match=r"cannot keep .*nothing: No such file"):
        store.put(KEY, tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="is no regular file"):
        store.put(KEY, tmp_path)


def test_removing_takes_a_file_or_a_job(store: ArtifactStore, source: Path) -> None:
    for key in ("jobs/a/one", "jobs/a/b/two", "jobs/b/three"):
        store.put(key, source)
    store.remove("jobs/a/one")
    assert list(store.list()) == ["jobs/a/b/two", "jobs/b/three"]
    store.remove("jobs/a")
    store.remove("jobs/a")
    assert list(store.list()) == ["jobs/b/three"]
    assert list(store.list("jobs/c")) == []


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "..", "jobs/../../x", "jobs//x", "jobs/.hidden", "a\0b", "a/", "a\n"],
)
def test_keys_that_lead_elsewhere_are_refused(store: ArtifactStore, source: Path, key: str) -> None:
    for act in (store.path, store.exists, store.remove, store.open):
        with pytest.raises(ArtifactError, match="is no key of a file"):
            act(key)
    with pytest.raises(ArtifactError, match="is no key of a file"):
        store.put(key, source)
    with pytest.raises(ArtifactError, match="is no key of a file"):
        list(store.list(key))


@given(st.text("ab./\\~", max_size=12))
def test_no_key_leaves_the_root(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    store = ArtifactStore(tmp_path_factory.getbasetemp() / "root")
    try:
        place = store._place(key)
    except ArtifactError:
        return
    resolved = Path(os.path.normpath(place))
    assert resolved == place
    assert resolved.is_relative_to(store.root.resolve())


def test_symbolic_links_are_not_followed(
    store: ArtifactStore, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (store.root / "jobs").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="is a symbolic link"):
        store.put(KEY, source)
    assert list((tmp_path / "outside").iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(source)
    with pytest.raises(ArtifactError, match="is no regular file"):
        store.put("other/key", link)


def test_the_id_is_made_once(tmp_path: Path) -> None:
    first, second = ArtifactStore(tmp_path / "s"), ArtifactStore(tmp_path / "s")
    assert first.id == second.id
    assert len(first.id) == 32
    assert ArtifactStore(tmp_path / "t").id != first.id


def test_a_root_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot keep files in .*; name a folder in UNROLL"):
        ArtifactStore(tmp_path / "file" / "store")


def test_the_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNROLL_STORE", raising=False)
    assert default_root(tmp_path) == tmp_path / "store"
    monkeypatch.setenv("UNROLL_STORE", "/somewhere")
    assert default_root(tmp_path) == Path("/somewhere")
