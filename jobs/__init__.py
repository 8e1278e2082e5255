"""What a job is, and everything that speaks to Redis. Never imports torch.

The names below are the public ones; each is imported when it is first asked for, so that naming a
spec does not cost importing what runs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jobs.client import Client
    from jobs.errors import (
        ArtifactError,
        JobFailed,
        NotAllowed,
        ServiceUnreachable,
        SetupError,
        SpecError,
        UnknownJob,
        UnknownModel,
        UnknownSchedule,
        UnrollError,
        WaitTimeout,
    )
    from jobs.handle import Hypothesis, JobHandle, Result
    from jobs.job import Job, JobState, MetricPoint, Progress, Reason
    from jobs.registry import Event, Model, Registry, Version
    from jobs.spec import (
        CompareSpec,
        Component,
        EvaluateSpec,
        ExportSpec,
        GenerateSpec,
        Policy,
        PredictSpec,
        Resources,
        SearchOptions,
        TrainerOptions,
        TrainSpec,
    )

__all__ = [
    "ArtifactError",
    "Client",
    "CompareSpec",
    "Component",
    "EvaluateSpec",
    "Event",
    "ExportSpec",
    "GenerateSpec",
    "Hypothesis",
    "Job",
    "JobFailed",
    "JobHandle",
    "JobState",
    "MetricPoint",
    "Model",
    "NotAllowed",
    "Policy",
    "PredictSpec",
    "Progress",
    "Reason",
    "Registry",
    "Resources",
    "Result",
    "SearchOptions",
    "ServiceUnreachable",
    "SetupError",
    "SpecError",
    "TrainSpec",
    "TrainerOptions",
    "UnknownJob",
    "UnknownModel",
    "UnknownSchedule",
    "UnrollError",
    "Version",
    "WaitTimeout",
]

#: Where the names live that are not in `jobs.spec`.
_HOMES: Final = {
    "Client": "jobs.client",
    **dict.fromkeys(("Hypothesis", "JobHandle", "Result"), "jobs.handle"),
    **dict.fromkeys(("Job", "JobState", "MetricPoint", "Progress", "Reason"), "jobs.job"),
    **dict.fromkeys(
        ("ArtifactError", "JobFailed", "NotAllowed", "ServiceUnreachable"), "jobs.errors"
    ),
    **dict.fromkeys(("SetupError", "SpecError", "UnknownJob", "UnrollError"), "jobs.errors"),
    **dict.fromkeys(("UnknownModel", "UnknownSchedule", "WaitTimeout"), "jobs.errors"),
    **dict.fromkeys(("Event", "Model", "Registry", "Version"), "jobs.registry"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "jobs.spec")), name)


def __dir__() -> list[str]:
    return __all__
