"""Recordings in WAV and FLAC files as samples; what is wrong with one, in one line.

Shapes: N samples.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from datamodules._errors import DataFormatError, DataPathError

#: How the files are named that are taken for recordings.
SUFFIXES: Final = (".wav", ".flac")

#: Sizes that a program writes into the head of a WAV that it could not go back to.
_STREAMED: Final = (0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Head:
    """What a recording says of itself."""

    #: Samples a second.
    rate: int
    #: How long it is, in samples.
    length: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.length / self.rate


def read_head(path: Path, where: str) -> Head:
    """Return what a file says of itself; `where` names it. Raise DataError."""
    with _opened(path, where) as file:
        return Head(file.samplerate, file.frames)


def read_samples(path: Path, where: str, rate: int) -> NDArray[np.float32]:
    """Return the samples of a recording (N,), -1 to 1; several channels are averaged.

    Raise DataFormatError for another rate, for a file that is empty, torn or damaged, and for
    samples that are no numbers.
    """
    _refuse_torn(path, where)
    with _opened(path, where) as file:
        if file.samplerate != rate:
            raise DataFormatError(
                f"{where} has {file.samplerate} samples a second where {rate} are wanted ('rate'):"
                f" bring all recordings to one rate (sox IN -r {rate} OUT)"
            )
        if not file.frames:
            raise DataFormatError(f"{where} holds no sound: it has no samples")
        try:
            channels = file.read(dtype="float32", always_2d=True)  # (N, channels)
        except soundfile.SoundFileError as error:
            raise DataFormatError(f"{where} is damaged: {error}") from error
        if len(channels) < file.frames:
            raise DataFormatError(
                f"{where} is torn: it holds {len(channels)} of {file.frames} samples"
            )
    samples: NDArray[np.float32] = channels.mean(axis=1)
    if not np.isfinite(samples).all():
        place = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise DataFormatError(f"{where}: sample {place} is {samples[place]} and not a number")
    return samples


def _opened(path: Path, where: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2]
        raise DataFormatError(f"{where} cannot be read as WAV or FLAC: {reason}") from error


def _refuse_torn(path: Path, where: str) -> None:
    """Refuse a WAV that ends before its samples do: libsndfile reads what is left of it."""
    try:
        with path.open("rb") as file:
            missing = _missing_bytes(file)
    except OSError as error:
        raise DataPathError(f"cannot read {where}: {error.strerror}") from error
    if missing > 0:
        raise DataFormatError(f"{where} is torn: {missing} bytes of its samples are missing")


def _missing_bytes(file: BinaryIO) -> int:
    """Return how many bytes a WAV has less than its head says; 0 for other files."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(chunk := file.read(8)) == 8:
        size = struct.unpack("<I", chunk[4:])[0]
        if chunk[:4] == b"data":
            start, end = file.tell(), file.seek(0, 2)
            return 0 if size in _STREAMED else size - (end - start)
        file.seek(size + size % 2, 1)  # a chunk of an odd size has a byte behind it
    return 0
