"""How a run can end: the runner's own exceptions, and the one place that names the reason.

Exception
├── Preempted       told to stop; the checkpoint is taken
├── NonFinite       the loss or the gradient was not a number
└── BuildError      the spec's names and values do not make a model, its data or a trainer

What else can happen is mapped by `reason_of`. The rule for what nobody foresaw: the same spec on
the same code would end the same way again, so it is a `user_error` and ends the job with its
traceback; only what comes from outside the program (the file system, a driver, a collective) is
`infrastructure` and tried again elsewhere.
"""

import traceback
from typing import Final

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules._errors import DataError
from jobs.errors import ArtifactError, SpecError
from jobs.job import Reason
from lightning_modules._errors import ModelError
from worker.events import EndEvent

#: Longest message, in characters; the traceback has the rest.
MESSAGE_LIMIT: Final = 1000
#: Longest traceback, in characters: its end is kept.
TRACEBACK_LIMIT: Final = 20_000


class Preempted(Exception):
    """The runner was told to stop."""

    def __init__(self, message: str = "told to stop") -> None:
        super().__init__(message)


class NonFinite(Exception):
    """The loss or the gradient was not a number."""


class BuildError(Exception):
    """The names and values of the spec do not make a model, its data or a trainer."""


#: From here on torch lists the frames of its C++ code.
_FRAMES: Final = "\nException raised from "

#: First match counts.
_REASONS: Final[tuple[tuple[type[BaseException], Reason], ...]] = (
    (Preempted, Reason.PREEMPTED),
    (KeyboardInterrupt, Reason.PREEMPTED),
    (SIGTERMException, Reason.PREEMPTED),
    (NonFinite, Reason.NAN),
    (DataError, Reason.BAD_DATA),
    (SpecError, Reason.USER_ERROR),
    (ModelError, Reason.USER_ERROR),
    (BuildError, Reason.USER_ERROR),
    (torch.OutOfMemoryError, Reason.OUT_OF_MEMORY),
    (MemoryError, Reason.OUT_OF_MEMORY),
    (ArtifactError, Reason.INFRASTRUCTURE),
    (OSError, Reason.INFRASTRUCTURE),
    (torch.distributed.DistError, Reason.INFRASTRUCTURE),
)
#: Errors whose message says all: where they were raised is nobody's concern.
_SELF_EXPLAINING: Final = (Preempted, NonFinite, DataError, SpecError, ModelError, ArtifactError)
#: torch has no class of its own for these RuntimeErrors.
_TEXTS: Final[tuple[tuple[str, Reason], ...]] = (
    ("DefaultCPUAllocator: can't allocate memory", Reason.OUT_OF_MEMORY),
    ("DefaultCPUAllocator: not enough memory", Reason.OUT_OF_MEMORY),
    ("CUDA out of memory", Reason.OUT_OF_MEMORY),
    ("CUDA error: out of memory", Reason.OUT_OF_MEMORY),
    ("device-side assert", Reason.USER_ERROR),  # an index out of range: the same again next time
    ("CUDA error", Reason.INFRASTRUCTURE),
    ("CUDA driver", Reason.INFRASTRUCTURE),
    ("CUDNN_STATUS", Reason.INFRASTRUCTURE),
    ("CUBLAS_STATUS", Reason.INFRASTRUCTURE),
    ("NCCL", Reason.INFRASTRUCTURE),
    ("/gloo/", Reason.INFRASTRUCTURE),
)
#: What collectives say where a rank is gone: the file that raised it, of gloo; and NCCL's name.
_OF_COLLECTIVES: Final = ("/gloo/", "NCCL")


def reason_of(error: BaseException) -> Reason:
    """Return the reason with which a run that raised this ends."""
    for cls, reason in _REASONS:
        if isinstance(error, cls):
            return reason
    if isinstance(error, RuntimeError):
        for text, reason in _TEXTS:
            if text in str(error):
                return reason
    return Reason.USER_ERROR


def misses_a_rank(error: BaseException) -> bool:
    """Return whether this was raised because another rank is gone, not for a reason of its own."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.distributed.DistError)
        or any(text in str(error) for text in _OF_COLLECTIVES)
    )


def end_of(error: BaseException) -> EndEvent:
    """Return the last event of a run that raised this."""
    explains_itself = isinstance(error, _SELF_EXPLAINING)
    named = not explains_itself and not isinstance(error, BuildError)
    text = f"{type(error).__name__}: {error}" if named else str(error)
    lines = "".join(traceback.format_exception(error))
    return EndEvent(
        reason_of(error),
        message=" ".join(text.partition(_FRAMES)[0].split())[:MESSAGE_LIMIT],
        traceback="" if explains_itself else lines[-TRACEBACK_LIMIT:],
    )
