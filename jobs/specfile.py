"""Spec files: TOML or JSON, as people write them.

Top-level keys are the job's; the sections are `model, data, trainer, resources, policy`. A
`section.key=value` on the command line is an override, its value TOML or else a string.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import SpecError
from jobs.spec import MAX_SPEC_BYTES, AnySpec, spec_from_dict


def read_spec(path: Path, overrides: Sequence[str] = ()) -> AnySpec:
    """Read a spec file (TOML, or JSON by its ending) and apply `section.key=value` overrides.

    Raise SpecError if the file cannot be read or does not hold a spec.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SPEC_BYTES + 1)
        if len(content) > MAX_SPEC_BYTES:
            raise SpecError(f"{path} is larger than a spec can be ({MAX_SPEC_BYTES:,} bytes)")
        text = content.decode("utf-8-sig")  # some editors begin a file with a mark
        plain = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # the decoders' errors, and invalid UTF-8
        raise SpecError(
            f"{path} is no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}"
        ) from None
    if not isinstance(plain, dict):
        raise SpecError(f"{path} must hold an object with the sections model and data")
    return spec_from_dict(apply_overrides(plain, overrides))


def apply_overrides(plain: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the spec with each `section.key=value` (or `key=value`) set. Raise SpecError."""
    values = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise SpecError(f"{override!r} is no override; write section.key=value")
        values[path.strip()] = parse_value(text.strip())
    return with_values(plain, values)


def with_values(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec with each `section.key` (or `key`) set to its value. Raise SpecError."""
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()
    }
    for path, value in values.items():
        names = path.split(".")
        if not all(names) or len(names) > 2:
            raise SpecError(f"{path!r} is no override; write section.key=value")
        if names in (["queue"], ["resources", "queue"]):  # two names of one thing
            merged.pop("queue", None)
            names = ["resources", "queue"]
        target = merged
        if len(names) == 2:
            target = merged.setdefault(names[0], {})
            if not isinstance(target, dict):
                raise SpecError(f"{path!r}: {names[0]!r} is not a section")
        target[names[-1]] = value
    return merged


def parse_value(text: str) -> Any:
    """Return the text as a TOML value, or as itself where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text
