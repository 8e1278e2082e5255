"""Data sets of the Hugging Face hub: fetched by the `datasets` library, kept as one table a split.

What is fetched becomes `{split}.parquet` files in the cache, which are read as any others are; a
class that the hub keeps as a number has its name there.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from datamodules._base import Workspace
from datamodules._cache import key_of, note_use
from datamodules._errors import DataError, DataPathError
from datamodules._paths import find_folder

_SCHEME: Final = "hf://"
#: No part begins with a dot, so that none leads to another place on this machine.
_NAME = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:/(\w[\w.-]*))?")


def open_root(root: str, workspace: Workspace) -> tuple[Path, Sequence[Path]]:
    """Return the folder that a `root` names, and the roots that its files may lie in.

    It is a folder of a data root, or `hf://owner/name`, `hf://owner/name/config`. Raise
    DataPathError where there is no such folder, DataError where there is no such data set.
    """
    if not root.startswith(_SCHEME):
        return find_folder(root, workspace.roots), workspace.roots
    folder = _fetched(root, workspace.cache / "hub")
    return folder, (folder,)


def _fetched(root: str, cache: Path) -> Path:
    """Return the folder that holds the newest version of a data set, fetched if it is not there."""
    if not (found := _NAME.fullmatch(root)):
        raise DataPathError(f"{root!r} is neither hf://owner/name nor hf://owner/name/config")
    if Path(found[1]).exists():
        raise DataPathError(
            f"{root} is also the name of {Path(found[1]).absolute()}, which the library would read"
            " instead: start the worker in another folder"
        )
    splits = _load(root, *found.groups())
    # The library's own name for a version of a split; it has no public one.
    versions = {split: data._fingerprint for split, data in splits.items()}  # noqa: SLF001
    place = cache / f"{found[1].replace('/', '--')}.{key_of(versions)}"
    if place.is_dir():
        note_use(place)
    else:
        try:
            _keep(splits, place)
        except OSError as error:
            raise DataError(f"{root} cannot be kept in {cache}: {error.strerror}") from error
    return place


def _load(root: str, name: str, config: str | None) -> dict[str, Any]:
    try:
        import datasets  # noqa: PLC0415 - an extra, slow to import
    except ModuleNotFoundError as error:
        raise DataError(
            f"{root} needs the library `datasets`, which the worker does not have: install it there"
            " with pip install 'unroll[hub]'"
        ) from error
    datasets.disable_progress_bars()
    try:
        return dict(datasets.load_dataset(name, config))
    except Exception as error:  # the library raises whatever those below it do
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{root} cannot be fetched from the Hugging Face hub: {why}; check its name, or where"
            " the hub is out of reach name a folder with the files as 'root'"
        ) from error


def _keep(splits: dict[str, Any], place: Path) -> None:
    """Write all splits beside their place, then rename: it is whole or not there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as beside:
        whole = Path(beside) / place.name
        whole.mkdir()
        for split, data in splits.items():
            _write(data, whole / f"{split}.parquet")
        try:
            whole.rename(place)
        except OSError:
            if not place.is_dir():  # else another job was faster
                raise


def _write(data: Any, path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few need it
    from pyarrow import parquet  # noqa: PLC0415 - likewise

    table = data.with_format("arrow")[:]
    for column, feature in data.features.items():
        # Lists of classes are features that hold a feature.
        if names := getattr(getattr(feature, "feature", feature), "names", None):
            named = [_named(value, names) for value in table[column].to_pylist()]
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, pa.array(named))
    parquet.write_table(table, path)


def _named(value: Any, names: Sequence[str]) -> Any:
    """Return the names of classes for their numbers; -1 is the hub's sign for none."""
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return None if value is None or value < 0 else names[value]
