"""What an attempt starts from: its data roots, its checkpoint, the spec of the job that it uses."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobs.artifacts import ArtifactStore, link_or_copy, sha256
from jobs.errors import ArtifactError, SpecError, UnknownJob
from jobs.job import Checkpoint, Job
from jobs.spec import AnySpec, EvaluateSpec, TrainSpec, spec_from_dict
from worker.devices import Share
from worker.folder import Attempt, AttemptFolder
from worker.settings import Settings

#: Returns the record of a job. Raises UnknownJob.
GetJob = Callable[[str], Job]

#: A checkpoint of a job that still runs may be replaced by a newer one while it is fetched.
_TRIES: Final = 3


class Inputs:
    """Gather what an attempt of one job needs, and lay it into the attempt's folder."""

    def __init__(self, job: Job, number: int, *, get: GetJob, artifacts: ArtifactStore) -> None:
        self._job = job
        self._number = number
        self._get = get
        self._artifacts = artifacts
        #: What a person should know of the choices made here.
        self.notes: list[str] = []

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
        checkpoint = self._fetch(spec, folder)
        attempt = replace(attempt, checkpoint=str(checkpoint) if checkpoint else None)
        folder.write(spec, attempt)
        for earlier in range(1, self._number):
            AttemptFolder(folder.path.with_name(f"{earlier:04d}")).lighten()
        return folder, attempt

    def _trained(self, spec: AnySpec) -> Mapping[str, Any] | None:
        if isinstance(spec, TrainSpec):
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

    def _fetch(self, spec: AnySpec, folder: AttemptFolder) -> Path | None:
        if not isinstance(spec, TrainSpec):
            return self._fetch_model(spec.job, folder, best=True)
        own = [each for each in (self._job.checkpoint, self._job.best) if each]
        for checkpoint in own:
            try:
                return self._link(checkpoint, folder)
            except ArtifactError as error:
                self.notes.append(f"{error}; going on from an older one, or from the start")
        if spec.resume_from:
            return self._fetch_model(spec.resume_from, folder, best=False)
        return None

    def _fetch_model(self, job: str, folder: AttemptFolder, *, best: bool) -> Path:
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
        raise failure

    def _link(self, checkpoint: Checkpoint, folder: AttemptFolder) -> Path:
        """Link the checkpoint into the folder: there it stays whatever its job keeps."""
        folder.start_checkpoint.unlink(missing_ok=True)
        try:
            link_or_copy(self._artifacts.path(checkpoint.artifact), folder.start_checkpoint)
        except FileNotFoundError:
            raise ArtifactError(f"{checkpoint.artifact} is gone") from None
        if sha256(folder.start_checkpoint) != checkpoint.digest:
            folder.start_checkpoint.unlink()
            raise ArtifactError(
                f"the checkpoint of step {checkpoint.step} ({checkpoint.artifact}) is damaged"
            )
        return folder.start_checkpoint


def _order(source: Job, *, best: bool) -> Iterable[Checkpoint]:
    wanted = (source.best, source.checkpoint) if best else (source.checkpoint, source.best)
    return [each for each in wanted if each]
