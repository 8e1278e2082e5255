"""Keep what an attempt leaves: its log, its files, and the whole history of the job's metrics."""

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError
from jobs.files import PREDICTIONS_FILE
from jobs.job import Job, Lease, MetricPoint
from jobs.spec import MAX_CARRIED_BYTES, GenerateSpec, PredictSpec
from jobs.store import JobStore
from worker.folder import AttemptFolder
from worker.relay import attempt_key


class Leavings:
    """Put the files of one ended attempt where people find them; each step may be repeated."""

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        job: Job,
        lease: Lease,
        folder: AttemptFolder,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        #: Answers can be asked for again: nobody waits until they lie on the disk.
        self._durable = job.kind not in (PredictSpec.kind, GenerateSpec.kind)
        self._folder = folder

    def keep(self) -> None:
        """Keep everything. Raise ServiceUnreachable, StaleToken, OSError, ArtifactError."""
        self.keep_log()
        for path in sorted(self._folder.files.rglob("*"), key=_turn):
            if path.is_file() and not path.is_symlink():
                self._keep_file(path)
        self._keep_metrics()

    def keep_log(self) -> None:
        """Keep the log alone. Raise OSError, ArtifactError."""
        if self._folder.log_file.exists():
            self._put("output.log", self._folder.log_file)

    def _keep_file(self, path: Path) -> None:
        name = path.relative_to(self._folder.files).as_posix()
        self._put(f"files/{name}", path)
        if path.stat().st_size > MAX_CARRIED_BYTES:
            return  # it is in the artifact store, for who can reach that
        try:
            self._store.put_file(self._lease, name, path.read_bytes())
        except ArtifactError:
            return  # likewise: the others have filled the room that there is

    def _put(self, name: str, path: Path) -> None:
        key = f"{attempt_key(self._lease)}/{name}"
        self._artifacts.put(key, path, durable=self._durable)

    def _keep_metrics(self) -> None:
        """Write the job's sequence of points, over all attempts, as the record has it."""
        if not self._durable:
            return  # answers have no points
        with tempfile.TemporaryDirectory(dir=self._folder.path) as folder:
            path = Path(folder) / "metrics.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for point in self._store.metrics(self._lease.job):
                    file.write(_line(point) + "\n")
            self._store.report(self._lease)  # nothing, but who may not write learns of it here
            self._artifacts.put(f"jobs/{self._lease.job}/metrics.jsonl", path)


def _turn(path: Path) -> tuple[bool, Path]:
    # Answers first: what is carried has a bound, and pictures may fill all of it.
    return path.name != PREDICTIONS_FILE, path


def _line(point: MetricPoint) -> str:
    # Strict JSON, for any reader: what is no number is null, as the command line prints it.
    value = point.value if math.isfinite(point.value) else None
    return json.dumps({**asdict(point), "value": value}, allow_nan=False)
