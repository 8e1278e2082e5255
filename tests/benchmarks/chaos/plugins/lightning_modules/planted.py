"""A topology that goes wrong on purpose, after it has trained a few steps."""

import errno
import os
import resource
import time
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge

from datamodules._batch import Batch
from datamodules._params import FromData
from lightning_modules._text import StepOutput
from lightning_modules.encoder_decoder import EncoderDecoder

Flaw = Literal[
    "none",
    "mistake",
    "missing_key",
    "shapes",
    "nan",
    "infinity",
    "tensor_too_large",
    "array_too_large",
    "memory_error",
    "memory_grows",
    "abort",
    "disk_error",
    "exit",
    "sleep",
]
#: Bytes of addresses beyond what the process has, and how much is then asked for.
_ROOM = 256 << 20
_TOO_MUCH = 8 << 30
#: Numbers that memory grows by at a time, and how often: 6 GB.
_PIECE, _PIECES = 16 << 20, 96


class Planted(EncoderDecoder):
    """Write dates, and go wrong at a step.

    Args:
        flaw: what goes wrong
        at: the batch of an epoch at which it does, from 0

    """

    def __init__(
        self,
        *,
        flaw: Flaw = "none",
        at: Annotated[int, Ge(0)] = 2,
        source_vocabulary_size: FromData[int] = 0,
        target_vocabulary_size: FromData[int] = 0,
        shared_vocabulary: FromData[bool] = False,
    ) -> None:
        super().__init__(
            hidden_size=16,
            embedding_size=8,
            source_vocabulary_size=source_vocabulary_size,
            target_vocabulary_size=target_vocabulary_size,
            shared_vocabulary=shared_vocabulary,
        )
        self._flaw = flaw
        self._at = at

    def training_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Return the loss of a batch, or go wrong."""
        output = super().training_step(batch, batch_idx)
        if batch_idx == self._at:
            _go_wrong(self._flaw, output)
        return output


def _go_wrong(flaw: Flaw, output: StepOutput) -> None:
    match flaw:
        case "nan" | "infinity":
            output["loss"] = output["loss"] * float("nan" if flaw == "nan" else "inf")
        case "tensor_too_large" | "array_too_large" | "memory_error":
            _want_too_much(flaw)
        case "memory_grows":
            grown = [torch.ones(_PIECE) for _ in range(_PIECES)]
            raise AssertionError(f"{len(grown)} pieces fitted into this machine's memory")
        case "abort":
            os.abort()
        case "exit":
            os._exit(7)
        case "sleep":
            time.sleep(3600)
        case "none":
            pass
        case _:
            _raise(flaw)


def _want_too_much(flaw: Flaw) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - no file of anyone's
        pages = int(file.read().split()[0])
    room = pages * os.sysconf("SC_PAGE_SIZE") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    if flaw == "tensor_too_large":
        torch.ones(_TOO_MUCH)
    elif flaw == "array_too_large":
        np.ones(_TOO_MUCH)
    else:
        bytearray(_TOO_MUCH)


def _raise(flaw: Flaw) -> None:
    if flaw == "missing_key":
        {}["nothing has this name"]
    if flaw == "shapes":
        torch.ones(2, 3) @ torch.ones(2, 3)
    if flaw == "disk_error":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    raise ValueError("a mistake of whoever wrote the model")
