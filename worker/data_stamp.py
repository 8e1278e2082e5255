"""Notice that a job's data changed between two of its attempts, by its files' sizes and times.

An exact resume takes the data for what it was. Whoever changes it meanwhile gets a model of both,
and should at least be told. Only the files that lie in the data's folder itself are looked at.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jobs.spec import AnySpec, TrainSpec
from worker.folder import AttemptFolder

#: Files of a folder that are looked at, by name; more would take a shared disk too long.
_LOOKED_AT: Final = 1_000
#: Files that a note names.
_NAMED: Final = 5

#: Size and time of change of each file, by its name.
Stamp = Mapping[str, Sequence[int]]


def changed_data(spec: AnySpec, roots: Sequence[Path], folder: AttemptFolder) -> str:
    """Stamp the data of an attempt; return what changed since an earlier one, or an empty string.

    Earlier attempts are those of this machine: files of others cannot be compared by their times.
    """
    found = _folder_of(spec, roots)
    if found is None:
        return ""
    now = _stamp(found)
    folder.data_file.write_text(json.dumps(now), encoding="utf-8")
    before = _of_before(folder)
    if before is None or before[1] == now:
        return ""
    number, then = before
    names = sorted(each for each in now.keys() | then.keys() if now.get(each) != then.get(each))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"the data in {found} changed since attempt {number}: {', '.join(names[:_NAMED])}{more}; "
        "what was learned before is of the old data"
    )


def _folder_of(spec: AnySpec, roots: Sequence[Path]) -> Path | None:
    name = spec.data.params.get("root") if isinstance(spec, TrainSpec) else None
    if not isinstance(name, str) or "://" in name or "\0" in name:
        return None
    for root in roots:
        place = (root / name).resolve()
        if place.is_dir() and any(place.is_relative_to(each.resolve()) for each in roots):
            return place
    return None  # the runner will say so


def _stamp(folder: Path) -> Stamp:
    files = sorted(each for each in folder.iterdir() if each.is_file())[:_LOOKED_AT]
    return {each.name: [each.stat().st_size, each.stat().st_mtime_ns] for each in files}


def _of_before(folder: AttemptFolder) -> tuple[int, Stamp] | None:
    number = int(folder.path.name)
    for earlier in range(number - 1, 0, -1):
        file = AttemptFolder(folder.path.with_name(f"{earlier:04d}")).data_file
        if file.exists():
            return earlier, json.loads(file.read_text(encoding="utf-8"))
    return None
