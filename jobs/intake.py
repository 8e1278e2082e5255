"""What is looked at before a job is queued, so that a bad one costs a line and not a run."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.catalog import Catalog
from jobs.comparing import require_comparable
from jobs.errors import NotAllowed, SpecError, did_you_mean
from jobs.job import Job, JobState
from jobs.slicing import require_property, row_slice
from jobs.spec import (
    AnySpec,
    CompareSpec,
    EvaluateSpec,
    GenerateSpec,
    PredictSpec,
    TrainSpec,
    spec_from_dict,
)
from jobs.wording import is_plain

#: Note of a job that no catalogue was there to check.
UNCHECKED = "unchecked"
#: Characters of a job's name: it stands in a line of `unroll ls`.
MAX_NAME: Final = 100


def checked(spec: AnySpec) -> AnySpec:
    """Return the spec as a worker will read it back. Raise SpecError.

    Dataclasses take any value; the way through JSON is where types and ranges are looked at.
    """
    plain = json.loads(spec.to_json())
    _refuse_half_characters(plain)
    read = spec_from_dict(plain)
    refuse_control_characters("name", [read.name])
    refuse_control_characters("tags", read.tags)
    if len(read.name) > MAX_NAME:
        raise SpecError(f"name: at most {MAX_NAME} characters, not {len(read.name):,}")
    if isinstance(read, PredictSpec):
        check_lines(read.lines, read.first)
    if isinstance(read, GenerateSpec) and "\0" in read.prompt:
        raise SpecError("the prompt holds a NUL byte")
    return read


def _refuse_half_characters(plain: Any) -> None:
    # Python reads bytes of an argument that are not UTF-8 as such; no terminal can print them.
    try:
        json.dumps(plain, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise SpecError(f"the spec holds {found!r}: text that is not valid UTF-8") from None


def refuse_control_characters(what: str, texts: Iterable[str]) -> None:
    """Raise SpecError where a text that people will see would act on their terminal."""
    for text in texts:
        if isinstance(text, str) and not all(map(is_plain, text)):
            raise SpecError(f"{what}: {text!r} holds a character that cannot be printed")


def check_lines(lines: Iterable[str], before: int = 0) -> None:
    """Raise SpecError for a line to predict that is not one line of text.

    Its number counts the lines that stand `before` these.
    """
    for number, line in enumerate(lines, start=before + 1):
        for character, name in (("\0", "a NUL byte"), ("\n", "a line break")):
            if character in line:
                raise SpecError(f"line {number} to predict holds {name}")


def absolute_root(params: Mapping[str, Any], base: Path) -> Mapping[str, Any]:
    """Return parameters of a kind of data, a relative `root` made absolute against `base`.

    A `~` is the user's home, as in a shell; a URL (`hf://owner/name`) is no path.
    """
    root = params.get("root")
    if not isinstance(root, str) or not root or "://" in root:
        return params
    try:
        expanded = Path(root).expanduser()
    except RuntimeError:  # ~nobody: the worker's refusal will name it
        return params
    return {**params, "root": str((base / expanded).absolute())}


def check_training(spec: TrainSpec, catalog: Catalog | None) -> str:
    """Raise SpecError for a spec that no worker can build; return the note of the job."""
    if catalog is None:
        return UNCHECKED
    catalog.check(spec)
    return ""


def check_evaluation(spec: EvaluateSpec, trained: Job, catalog: Catalog | None) -> str:
    """Raise SpecError for data or a split that the trained job's kind has not; return the note."""
    kind = trained.spec["data"]["name"]
    if "name" in spec.data:
        raise SpecError(f"an evaluation keeps the kind of data of its job ({kind})")
    if catalog is None or kind not in catalog.data:
        return UNCHECKED
    check_parameters(kind, spec.data, catalog)
    catalog.data[kind].check_split(spec.split)
    return ""


def check_parameters(kind: str, given: Mapping[str, Any], catalog: Catalog) -> None:
    """Raise SpecError for parameters that a kind of data does not take."""
    known = {parameter.name: parameter for parameter in catalog.data[kind].parameters}
    for name, value in given.items():
        if name not in known:
            raise SpecError(f"{kind} takes no {name!r}{did_you_mean(name, known)}")
        known[name].check(value, kind)


def require_model(trained: Job, *, later: bool = False) -> None:
    """Raise NotAllowed unless the job has a model to use, or `later` will have."""
    if trained.kind != TrainSpec.kind:
        raise NotAllowed(f"job {trained.id} is no training: it leaves no model ({trained.kind})")
    if trained.checkpoint is None and trained.best is None and not later:
        mend = "" if trained.state.ended else f"; wait for it with `unroll wait {trained.id}`"
        raise NotAllowed(f"job {trained.id} has no model yet: it is {trained.state}{mend}")


def require_evaluations(spec: CompareSpec, first: Job, second: Job) -> None:
    """Raise NotAllowed unless both are evaluations that have succeeded, and of one kind."""
    for each in (first, second):
        if each.kind != EvaluateSpec.kind:
            raise NotAllowed(f"job {each.id} is no evaluation ({each.kind}): `unroll evaluate`")
        if each.state is not JobState.SUCCEEDED:
            mend = "" if each.state.ended else f"; wait for it with `unroll wait {each.id}`"
            raise NotAllowed(f"evaluation {each.id} has not succeeded: it is {each.state}{mend}")
    require_comparable(
        first.result,
        second.result,
        metric=spec.metric,
        across=spec.across,
        names=(first.id, second.id),
    )
    if spec.slice:
        require_property(first.result, row_slice(spec.slice), first.id)


def source_of(spec: AnySpec) -> str | None:
    """Return the training whose model a job needs; None where it needs none."""
    if isinstance(spec, TrainSpec):
        return spec.resume_from or spec.warm_from
    return None if isinstance(spec, CompareSpec) else spec.job


def after_its_model(spec: AnySpec, get: Callable[[str], Job]) -> AnySpec:
    """Let a job that needs the model of a training wait for it, where there is none yet.

    Raise UnknownJob.
    """
    source = source_of(spec)
    if source is None or source in spec.after:
        return spec
    trained = get(source)
    has_model = trained.checkpoint is not None or trained.best is not None
    if trained.kind != TrainSpec.kind or trained.state.ended or has_model:
        return spec
    return replace(spec, after=(*spec.after, source))


def with_whole_ids(spec: AnySpec, resolve: Callable[[str], str]) -> AnySpec:
    """Return the spec with prefixes of other jobs' ids made whole."""
    spec = replace(
        spec,
        after=tuple(map(resolve, spec.after)),
        after_ended=tuple(map(resolve, spec.after_ended)),
    )
    if isinstance(spec, TrainSpec):
        return replace(
            spec,
            resume_from=spec.resume_from and resolve(spec.resume_from),
            warm_from=spec.warm_from and resolve(spec.warm_from),
        )
    if isinstance(spec, CompareSpec):
        return replace(spec, first=resolve(spec.first), second=resolve(spec.second))
    return replace(spec, job=resolve(spec.job))
