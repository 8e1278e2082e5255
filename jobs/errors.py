"""Everything that can go wrong between a person and a job.

UnrollError
├── SpecError            what was asked for is not possible; nothing was queued
├── UnknownJob           no job has this id
├── UnknownModel         no model has this name, or no version of it this number
├── UnknownSchedule      no schedule has this name
├── NotAllowed           the job's state does not permit this (retry of a running job, ...)
├── ServiceUnreachable   no service answers, or it refuses the password
│   ├── ServiceFull      its memory takes nothing more at the moment
│   └── Forbidden        the user of the address has not the role for this
├── WaitTimeout          the job had not ended when the wait ran out; the job goes on
├── JobFailed            the job ended without succeeding; carries reason and remote traceback
├── StaleToken           another attempt holds the job; this one may write no more
├── ArtifactError        a file that the record names is missing, torn or too large to carry
└── SetupError           this machine cannot run what was asked (home, server binary, port)
"""

import difflib
from collections.abc import Iterable


class UnrollError(Exception):
    """Base of all errors of this package: one clear line, with the mend where there is one."""


class SpecError(UnrollError):
    """What was asked for is not possible; nothing was queued."""


class UnknownJob(UnrollError):
    """No job has this id."""


class UnknownModel(UnrollError):
    """No model has this name, or no version of it this number."""


class UnknownSchedule(UnrollError):
    """No schedule has this name."""


class NotAllowed(UnrollError):
    """The job's state does not permit what was asked."""


class ServiceUnreachable(UnrollError):
    """No service answers at the address, or it refuses the password."""


class ServiceFull(ServiceUnreachable):
    """The service answers, and its memory takes nothing more at the moment."""


class Forbidden(ServiceUnreachable):
    """The user that the address names has not the role that this takes."""


class WaitTimeout(UnrollError):
    """The job had not ended when the wait ran out; the job goes on."""


class JobFailed(UnrollError):
    """The job ended without succeeding."""

    def __init__(self, message: str, *, reason: str, traceback: str = "") -> None:
        super().__init__(message)
        #: One of `jobs.job.Reason`.
        self.reason = reason
        #: The traceback on the worker, as text; empty where there was none.
        self.traceback = traceback


class StaleToken(UnrollError):
    """Another attempt holds the job; this one may write no more."""


class ArtifactError(UnrollError):
    """A file that the record names is missing, torn or too large to carry."""


class SetupError(UnrollError):
    """Nothing can be started here: the home, the server's binary or the port does not allow it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
