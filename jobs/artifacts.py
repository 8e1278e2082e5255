"""Every file that a job leaves: checkpoints, logs, histories, results, under keys like paths.

    ROOT/store.id                                    id of the store
    ROOT/jobs/ID/attempt-0001/checkpoints/...ckpt    key "jobs/ID/attempt-0001/checkpoints/...ckpt"

A file is there whole or not at all; one that is put again, as the history of the metrics is after
each attempt, takes the place of the one before.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

from jobs.connection import default_home
from jobs.errors import ArtifactError, SetupError

_ID_FILE: Final = "store.id"
_PART: Final = re.compile(r"[A-Za-z0-9_=+@,-][A-Za-z0-9_.=+@,-]{0,199}")


def default_root(home: Path | None = None) -> Path:
    """Return UNROLL_STORE, else the folder `store` of the home."""
    given = os.environ.get("UNROLL_STORE")
    return Path(given).expanduser().absolute() if given else (home or default_home()) / "store"


def existing_store(root: Path) -> "ArtifactStore | None":
    """Return the artifact store that this machine has and this user may read, or None.

    Nothing is made.
    """
    try:
        return ArtifactStore(root) if (root / _ID_FILE).is_file() else None
    except (OSError, SetupError):  # a worker's folder is closed to other users
        return None


class ArtifactStore:
    """Keep files under a root folder, which several machines may share.

    Raise SetupError if the root cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._root = root.resolve()
            self.id = self._read_id()
        except OSError as error:
            raise SetupError(
                f"cannot keep files in {root}: {error.strerror}; name a folder in UNROLL_STORE"
            ) from None

    def _read_id(self) -> str:
        """Read the store's id; of several that make it at once, one does and all read that."""
        file = self._root / _ID_FILE
        if not file.exists():
            with contextlib.suppress(FileExistsError):
                self._make_id(file)
        return file.read_text(encoding="ascii").strip()

    def _make_id(self, file: Path) -> None:
        """Let the file appear whole, where links allow it. Raise FileExistsError, OSError."""
        own = self._temporary(file)
        try:
            own.write_text(uuid4().hex, encoding="ascii")
            try:
                os.link(own, file)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                with file.open("x", encoding="ascii") as made:
                    made.write(uuid4().hex)
        finally:
            own.unlink(missing_ok=True)

    def ensure_writable(self) -> None:
        """Raise SetupError where nothing can be kept."""
        probe = self._temporary(self._root / _ID_FILE)
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SetupError(
                f"cannot keep files in {self.root}: {error.strerror}; name a folder in UNROLL_STORE"
            ) from None

    def require(self) -> None:
        """Raise ArtifactError where the store is not there, such as a file system unmounted."""
        with contextlib.suppress(OSError):
            if (self._root / _ID_FILE).read_text(encoding="ascii").strip() == self.id:
                return
        raise ArtifactError(f"the files in {self.root} cannot be reached: the store is not there")

    def put(self, key: str, path: Path, *, durable: bool = True) -> str:
        """Keep a file, by a hard link where that can be, else by a copy. Return its SHA-256.

        What is put must not be written to again. What is not `durable` may be lost with the power:
        it is not waited for until it lies on the disk. Raise ArtifactError for a key or a file
        that cannot be kept.
        """
        target = self._place(key)
        if not stat.S_ISREG(_mode(path)):
            raise ArtifactError(f"{path} is no regular file and cannot be kept")
        try:
            self._make_folder(target.parent)
            temporary = self._temporary(target)
            try:
                link_or_copy(path, temporary)
                digest = _digest_and_sync(temporary) if durable else sha256(temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            if durable:
                _sync_folder(target.parent)
        except OSError as error:
            raise ArtifactError(f"cannot keep {key}: {error.strerror}") from None
        return digest

    def path(self, key: str) -> Path:
        """Return where a file lies. Raise ArtifactError if it does not."""
        place = self._place(key)
        if not place.is_file():
            raise ArtifactError(f"the file {key} is missing in {self.root}")
        return place

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading. Raise ArtifactError if it is missing."""
        return self.path(key).open("rb")

    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        return self._place(key).is_file()

    def check(self, key: str, digest: str) -> Path:
        """Return where a file lies that has this SHA-256. Raise ArtifactError."""
        place = self.path(key)
        if sha256(place) != digest:
            raise ArtifactError(f"the file {key} in {self.root} is torn: its digest is another")
        return place

    def remove(self, key: str) -> None:
        """Remove a file, or all files under a key; that there is none is no error."""
        place = self._place(key)
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    def list(self, prefix: str = "jobs") -> Iterator[str]:
        """Yield the keys under a prefix, in order."""
        place = self._place(prefix)
        for folder, folders, files in os.walk(place):
            folders.sort()
            for name in sorted(files):
                if not name.startswith("."):
                    yield str((Path(folder) / name).relative_to(self._root))

    def _place(self, key: str) -> Path:
        """Return the path of a key, which cannot lead out of the root."""
        parts = key.split("/")
        if not all(map(_PART.fullmatch, parts)):
            raise ArtifactError(f"{key!r} is no key of a file")
        place = self._root
        for part in parts:
            place /= part
            if place.is_symlink():
                raise ArtifactError(f"{place} is a symbolic link, which is not followed")
        return place

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the root that is there after a power loss too."""
        if folder == self._root or folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        _sync_folder(folder.parent)

    @staticmethod
    def _temporary(target: Path) -> Path:
        return target.with_name(f".{target.name}.{secrets.token_hex(6)}")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise ArtifactError(f"cannot keep {path}: {error.strerror}") from None


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear at `target` too, where nothing is yet. Raise OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target, follow_symlinks=False)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_and_sync(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
