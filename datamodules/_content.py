"""Digests by which two runs can tell whether they saw the same data, on whatever machine."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from datamodules._base import DataModule


def split_digest(data: DataModule, split: str) -> str:
    """Return the SHA-256, in hex, of what a model is scored on; empty where the data cannot say."""
    return _digest(data.content(split))


def training_digest(data: DataModule) -> str:
    """Return the SHA-256, in hex, of what a model learns from; empty where the data cannot say."""
    origins = [data.origin(split) for split in ("train", *data.validation_splits)]
    return "" if origins[0] is None else _digest(origins)


def _digest(rows: Iterable[Any]) -> str:
    digest, empty = hashlib.sha256(), True
    for row in rows:
        empty = False
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return "" if empty else digest.hexdigest()
