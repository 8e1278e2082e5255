"""Which recordings a folder holds, and what is said in each: by a table, a name or a folder."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datamodules._audio import SUFFIXES
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import (
    TABLES,
    cell_of,
    checked_text,
    digest_of,
    find_file,
    table_rows,
    what_is_there,
)
from datamodules._labelled import Example, cut_off
from datamodules._name_patterns import LABEL, NamePattern, NameRule
from datamodules._paths import Folder, find_path, inside, is_file


@dataclass(frozen=True)
class Recording:
    """A recording and what is said in it."""

    path: Path
    #: What a person would call it: the folder as the spec names it, and its place in it.
    name: str
    #: A label or a text.
    said: str
    #: Where it is spoken of, for the reader of an error.
    where: str


#: The recordings of the splits that there are, and why there are no others.
Found = tuple[dict[str, list[Recording]], dict[str, DataMissingError]]


class Layout(ABC):
    """A way to lay out recordings."""

    @abstractmethod
    def find(self, folder: Folder, names: Mapping[str, str]) -> Found:
        """Return the recordings of each split; `names` says what the splits are called.

        Raise DataError for the first thing that is wrong.
        """


@dataclass(frozen=True)
class Manifests(Layout):
    """A table for each split, with a column for the path and one for what is said."""

    path: str
    said: str

    def find(self, folder: Folder, names: Mapping[str, str]) -> Found:
        """Return the recordings of each split that has a manifest."""
        found: dict[str, list[Recording]] = {}
        absent: dict[str, DataMissingError] = {}
        for split, name in names.items():
            try:
                manifest = _manifest_of(folder, name)
            except DataMissingError as error:
                absent[split] = error
                continue
            found[split] = [self._recording(folder, *row) for row in table_rows(manifest)]
            if not found[split]:
                raise DataFormatError(f"{manifest} holds no rows")
        return found, absent

    def _recording(self, folder: Folder, where: str, row: Mapping[str, Any]) -> Recording:
        name = checked_text(cell_of(where, row, self.path), f"{where}, column {self.path!r}")
        path = folder.file(name, where, "recording")
        said = cell_of(where, row, self.said)
        # A label may well be a number.
        said = str(said) if type(said) is int else said
        text = checked_text(said, f"{where}, column {self.said!r}")
        if not text.strip():
            raise DataFormatError(f"{where} has no {self.said}")
        return Recording(path, str(Path(folder.name) / name), text, f"{where} ({name})")


@dataclass(frozen=True)
class Names(Layout):
    """Files whose names hold what is said in them, and by rules also the split they belong to."""

    pattern: NamePattern
    #: Which names belong to another split than training.
    rules: Mapping[str, NameRule]

    def find(self, folder: Folder, names: Mapping[str, str]) -> Found:  # noqa: ARG002 (no split has a file)
        """Return the recordings of training and of each split that has a rule."""
        found: dict[str, list[Recording]] = {split: [] for split in ("train", *self.rules)}
        for place, path in _sound_files(folder, "*"):
            parts = self.pattern.parts(place.stem, str(place))
            split = next((split for split, rule in self.rules.items() if rule(parts)), "train")
            found[split].append(_named(folder, place, path, parts[LABEL]))
        for split, recordings in found.items():
            if not recordings:
                raise DataMissingError(_nothing(folder, f"recordings of {split}"))
        return found, {}


@dataclass(frozen=True)
class Classes(Layout):
    """A folder for each label."""

    def find(self, folder: Folder, names: Mapping[str, str]) -> Found:  # noqa: ARG002 (no split has a file)
        """Return all recordings as those of training."""
        found = [
            _named(folder, place, path, place.parent.name)
            for place, path in _sound_files(folder, "*/*")
        ]
        if not found:
            raise DataMissingError(_nothing(folder, "folders of recordings, one for each label"))
        return {"train": found}, {}


@dataclass(frozen=True)
class Spelling:
    """How labels are spelled, `3=three`; where nothing is, a label or text stays as it is."""

    entries: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse what spells nothing. Raise DataError."""
        for each in self.entries:
            label, _, text = each.partition("=")
            if not label or not text.strip():
                raise DataError(f"'spelled' holds {each!r}: it must be LABEL=TEXT, such as 3=three")

    def of(self, recording: Recording) -> str:
        """Return what is said in a recording, spelled. Raise DataFormatError where it cannot be."""
        texts = {label: text for label, _, text in (each.partition("=") for each in self.entries)}
        if texts and recording.said not in texts:
            raise DataFormatError(
                f"{recording.where} has the label {recording.said!r}, which 'spelled' does not have"
            )
        return texts.get(recording.said, recording.said)


def at_path(line: str, roots: Sequence[Path]) -> Recording:
    """Return the recording at a path, absolute or below a data root. Raise DataPathError."""
    return Recording(find_path(line, roots), line, "", line)


def digest_recordings(recordings: Sequence[Recording]) -> list[Any]:
    """Return what changes when a recording changes, or what is said in one."""
    sound = digest_of(each.path for each in recordings)
    return [sound, [[each.name, each.said] for each in recordings]]


def cut_recordings(
    recordings: Sequence[Recording], shares: Mapping[str, float], seed: int, *, by_label: bool
) -> dict[str, list[Recording]]:
    """Cut splits off from `train`, each label by itself where what is said is a label.

    A recording of which several texts are told stays together with all of them. Raise
    DataFormatError for a label with a single recording.
    """
    of: defaultdict[tuple[str, str], list[Recording]] = defaultdict(list)
    for each in recordings:
        of[each.name, each.said if by_label else "any text"].append(each)
    examples = [Example(*key, rows[0].where) for key, rows in of.items()]
    return {
        split: [row for each in chosen for row in of[each.text, each.label]]
        for split, chosen in cut_off(examples, shares, seed).items()
    }


def _sound_files(folder: Folder, below: str) -> Iterator[tuple[Path, Path]]:
    """Yield the recordings at places like `below`, and where each lies."""
    for place in sorted(folder.path.glob(below)):
        if place.suffix.lower() in SUFFIXES and not place.name.startswith("."):
            path = inside(place, folder.roots)
            if is_file(path):
                yield place, path


def _named(folder: Folder, place: Path, path: Path, said: str) -> Recording:
    name = str(Path(folder.name) / place.relative_to(folder.path))
    return Recording(path, name, said, str(place))


def _nothing(folder: Folder, what: str) -> str:
    names = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
    there = what_is_there(folder.path, "")
    return f"{folder.path} holds no {what} ({names}; the folder holds: {there})"


#: Manifests are looked for as JSONL first: that is what most of them are.
_TABLES: Final = (".jsonl", *(suffix for suffix in TABLES if suffix != ".jsonl"))


def _manifest_of(folder: Folder, split: str) -> Path:
    for suffix in _TABLES:
        if path := find_file(folder.path / f"{split}{suffix}", folder.roots):
            return path
    tables = ", ".join(f"{split}{suffix}" for suffix in _TABLES)
    raise DataMissingError(
        f"{folder.path} has no manifest of {split!r}: looked for one of {tables}, each with or"
        f" without .gz (the folder holds: {what_is_there(folder.path, f'{split}.')})"
    )
