"""What an attempt starts from: its data roots, its checkpoint, the spec of the job that it uses."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.artifacts import ArtifactStore, link_or_copy, sha256
from jobs.comparing import SENTENCES_FILE
from jobs.errors import ArtifactError, SpecError, UnknownJob
from jobs.job import Checkpoint, Job, JobState
from jobs.spec import (
    AnySpec,
    CompareSpec,
    EvaluateSpec,
    GenerateSpec,
    PredictSpec,
    TrainSpec,
    spec_from_dict,
)
from worker.data_stamp import changed_data
from worker.devices import Share
from worker.folder import Attempt, AttemptFolder
from worker.settings import Settings

#: Returns the record of a job. Raises UnknownJob.
GetJob = Callable[[str], Job]

#: Returns a small file of a job. Raises ArtifactError.
ReadFile = Callable[[str, str], bytes]
#: Tells whether a process holds the model of this name.
IsWarm = Callable[[str], bool]


def _no_file(job: str, name: str) -> bytes:
    raise ArtifactError(f"job {job} has no file {name}")


class Unusable(ArtifactError):
    """A checkpoint that the record names is damaged, or gone from a store that is there."""


#: A checkpoint of a job that still runs may be replaced by a newer one while it is fetched.
_TRIES: Final = 3


class Inputs:
    """Gather what an attempt of one job needs, and lay it into the attempt's folder."""

    def __init__(
        self,
        job: Job,
        number: int,
        *,
        get: GetJob,
        artifacts: ArtifactStore,
        read_file: ReadFile = _no_file,
        is_warm: IsWarm = lambda _model: False,
    ) -> None:
        self._job = job
        self._number = number
        self._get = get
        self._artifacts = artifacts
        self._read_file = read_file
        self._is_warm = is_warm
        #: The spec that the model was trained by, where lines are answered with it; else empty.
        self._answers_with = ""
        #: Digest of the checkpoint where nobody has looked at it.
        self._unchecked = ""
        #: What a person should know of the choices made here.
        self.notes: list[str] = []
        #: Checkpoints of this job that cannot be gone on from, now or ever.
        self.unusable: list[Checkpoint] = []

    def lay(self, settings: Settings, share: Share) -> tuple[AttemptFolder, Attempt]:
        """Lay the folder of the attempt.

        Raise SpecError for a spec that cannot be run, ArtifactError where a checkpoint is not to
        be had, OSError where the folder cannot be written.
        """
        spec = spec_from_dict(self._job.spec)
        folder = AttemptFolder(settings.attempts_of(self._job.id) / f"{self._number:04d}")
        attempt = Attempt(
            job=self._job.id,
            attempt=self._number,
            roots=tuple(map(str, settings.roots)),
            cache=str(settings.cache),
            threads=share.threads,
            world_size=share.processes,
            gpus=share.gpus,
            trained=self._trained(spec),
        )
        folder.make()
        if isinstance(spec, PredictSpec | GenerateSpec):
            self._answers_with = json.dumps(attempt.trained, sort_keys=True)
        if checkpoint := self._fetch(spec, folder):
            attempt = replace(
                attempt,
                checkpoint=str(folder.start_checkpoint),
                model=self._model_name(checkpoint),
                unchecked=self._unchecked,
            )
        folder.write(spec, attempt)
        self._look_at_the_data(spec, settings, folder)
        for earlier in range(1, self._number):
            AttemptFolder(folder.path.with_name(f"{earlier:04d}")).lighten()
        return folder, attempt

    def _look_at_the_data(self, spec: AnySpec, settings: Settings, folder: AttemptFolder) -> None:
        # A file that is gone in this moment, or may not be looked at, is the runner's to refuse.
        with contextlib.suppress(OSError, ValueError):
            if said := changed_data(spec, settings.roots, folder):
                self.notes.append(said)

    def _trained(self, spec: AnySpec) -> Mapping[str, Any] | None:
        if isinstance(spec, TrainSpec | CompareSpec):
            return None
        trained = dict(self._source(spec.job).spec)
        if isinstance(spec, EvaluateSpec):
            trained["data"] = {**trained["data"], **spec.data}
        return trained

    def _source(self, job: str) -> Job:
        try:
            source = self._get(job)
        except UnknownJob:
            raise SpecError(f"job {job}, whose model is wanted, was removed") from None
        if source.kind != TrainSpec.kind:
            raise SpecError(f"job {job} is no training: it leaves no model ({source.kind})")
        return source

    def _fetch(self, spec: AnySpec, folder: AttemptFolder) -> Checkpoint | None:
        if isinstance(spec, CompareSpec):
            for job, place in zip((spec.first, spec.second), folder.evaluations, strict=True):
                self._fetch_evaluation(job, place)
            return None
        if not isinstance(spec, TrainSpec):
            return self._fetch_model(spec.job, folder, best=True)
        if own := self._fetch_own(folder):
            return own
        if spec.resume_from:
            return self._fetch_model(spec.resume_from, folder, best=False)
        return self._fetch_model(spec.warm_from, folder, best=True) if spec.warm_from else None

    def _fetch_evaluation(self, job: str, place: Path) -> None:
        """Lay the rows of an evaluation into the folder: from the store, else through Redis."""
        try:
            evaluation = self._get(job)
        except UnknownJob:
            raise SpecError(f"evaluation {job} was removed") from None
        if evaluation.kind != EvaluateSpec.kind or evaluation.state is not JobState.SUCCEEDED:
            raise SpecError(
                f"job {job} ({evaluation.kind}, {evaluation.state}) is no evaluation that has "
                "succeeded: there is nothing to compare"
            )
        key = f"jobs/{job}/attempt-{evaluation.attempt:04d}/files/{SENTENCES_FILE}"
        if self._artifacts.exists(key):
            link_or_copy(self._artifacts.path(key), place)
            return
        try:
            place.write_bytes(self._read_file(job, SENTENCES_FILE))
        except ArtifactError:
            raise SpecError(
                f"evaluation {job} keeps no rows to compare: it was made by an older version, or "
                "has too many; evaluate the model again"
            ) from None

    def _fetch_own(self, folder: AttemptFolder) -> Checkpoint | None:
        """Fetch the newest of this job's checkpoints that is whole; note those that are not."""
        for checkpoint in self._own():
            try:
                fetched = self._link(checkpoint, folder)
            except Unusable as error:
                self.unusable.append(checkpoint)
                self.notes.append(f"{error}: it is passed over")
            else:
                if self.unusable:
                    self.notes.append(f"going on from the checkpoint of step {checkpoint.step}")
                return fetched
        if self.unusable:
            self.notes.append("no checkpoint is left: going on from the start")
        return None

    def _own(self) -> Sequence[Checkpoint]:
        """Return this job's checkpoints that may be gone on from, the newest first."""
        newest, best = self._job.checkpoint, self._job.best
        known = {each.artifact: each for each in (newest, self._job.previous, best) if each}
        found = sorted(known.values(), key=lambda each: each.step, reverse=True)
        if best is None or newest is None or best.artifact == newest.artifact:
            return found
        try:
            self._require_whole(best)
        except Unusable as error:
            # Those after it remember it as the best: who went on from one of them would end with a
            # model that is nowhere.
            self.unusable += [each for each in found if each.step >= best.step]
            self.notes.append(f"{error}: it was the best, and what came after it is passed over")
        return [each for each in found if each not in self.unusable]

    def _require_whole(self, checkpoint: Checkpoint) -> None:
        try:
            self._artifacts.check(checkpoint.artifact, checkpoint.digest)
        except (FileNotFoundError, ArtifactError):
            self._artifacts.require()  # else it is the store that is gone, and may come back
            raise Unusable(f"{_named(checkpoint)} is gone or damaged") from None

    def _fetch_model(self, job: str, folder: AttemptFolder, *, best: bool) -> Checkpoint:
        failure = ArtifactError(f"job {job} has no checkpoint")
        for _ in range(_TRIES):
            source = self._source(job)
            found = _order(source, best=best)
            if not found:
                raise SpecError(f"job {job} has no checkpoint: it is {source.state}")
            for checkpoint in found:
                try:
                    return self._link(checkpoint, folder)
                except ArtifactError as error:
                    failure = error
        if isinstance(failure, Unusable):  # the store is there, and will be no better next time
            raise Unusable(f"{failure}: train it again, `unroll clone {job}`")
        raise failure

    def _link(self, checkpoint: Checkpoint, folder: AttemptFolder) -> Checkpoint:
        """Link the checkpoint into the folder: there it stays whatever its job keeps."""
        folder.start_checkpoint.unlink(missing_ok=True)
        named = _named(checkpoint)
        try:
            link_or_copy(self._artifacts.path(checkpoint.artifact), folder.start_checkpoint)
        except (FileNotFoundError, ArtifactError):
            self._artifacts.require()  # else it is the store that is gone, and may come back
            raise Unusable(f"{named} is gone") from None
        # Where its model is held, nobody will read the file; if somebody does, he looks first.
        self._unchecked = checkpoint.digest if self._is_warm(self._model_name(checkpoint)) else ""
        if not self._unchecked and sha256(folder.start_checkpoint) != checkpoint.digest:
            folder.start_checkpoint.unlink()
            raise Unusable(f"{named} is damaged")
        return checkpoint

    def _model_name(self, checkpoint: Checkpoint) -> str:
        """Return by what a process may hold the model: it is another as soon as anything is."""
        if not self._answers_with:
            return ""
        return hashlib.sha256(f"{checkpoint.digest} {self._answers_with}".encode()).hexdigest()


def _named(checkpoint: Checkpoint) -> str:
    return f"the checkpoint of step {checkpoint.step} ({checkpoint.artifact})"


def _order(source: Job, *, best: bool) -> Iterable[Checkpoint]:
    wanted = (source.best, source.checkpoint) if best else (source.checkpoint, source.best)
    return [each for each in wanted if each]
