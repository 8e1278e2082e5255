"""Numbers that are appended one after the other, and may become more than fit into memory."""

from array import array
from collections.abc import Sequence
from mmap import ACCESS_COPY, mmap
from tempfile import TemporaryFile
from typing import IO, Any, Final
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

#: Bytes that are held in memory; few rows never touch the disk.
_HELD: Final = 1 << 22


class Spool:
    """Hold numbers of one type: a few in memory, many in an unnamed file where TMPDIR says."""

    def __init__(self, kind: str) -> None:
        """Begin with none; `kind` is the letter of their type, to `array` as to numpy."""
        self._held = array(kind)
        self._file: IO[bytes] | None = None
        self._written = 0

    def __len__(self) -> int:
        return self._written + len(self._held)

    def append(self, value: int) -> None:
        """Add one number."""
        self._held.append(value)
        self._spill()

    def extend(self, values: Sequence[int]) -> None:
        """Add numbers."""
        self._held.extend(array(self._held.typecode, values))  # of a list much faster than by items
        self._spill()

    def extend_bytes(self, values: bytes) -> None:
        """Add the numbers that lie in these bytes."""
        self._held.frombytes(values)
        self._spill()

    def array(self) -> NDArray[Any]:
        """Return all numbers, (n,); those in a file are mapped into memory. Add none after it."""
        if self._file is None:
            return np.array(self._held)
        self._write(self._file)
        self._file.flush()
        # Copied on write: the array can be written to like any other, the file never is.
        mapped = mmap(self._file.fileno(), 0, access=ACCESS_COPY)
        return np.frombuffer(mapped, dtype=self._held.typecode)

    def _spill(self) -> None:
        if len(self._held) * self._held.itemsize <= _HELD:
            return
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 - closed with the spool; a map stays
            finalize(self, self._file.close)
        self._write(self._file)

    def _write(self, file: IO[bytes]) -> None:
        file.write(self._held)
        self._written += len(self._held)
        del self._held[:]
