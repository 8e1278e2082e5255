"""The attempt folder: all that a runner needs and all that it leaves; the one place for file names.

    spec.json       what to do, as it was submitted
    attempt.json    where and with what: paths, threads, the checkpoint to go on from
    data.json       sizes and times of the data's files, to notice that they changed
    start.ckpt      the checkpoint to go on from, or to use; not there where there is none
    first.jsonl, second.jsonl    rows of the evaluations that are compared
    events.jsonl    what the runner reports, one event a line, appended
    rank-N.jsonl    what its ranks but the first would have reported; their ends, above all
    ranks.lock      where the ranks meet, and beside it what they say to find each other
    output.log      standard output and standard error of the runner
    checkpoints/    complete checkpoints only (a temporary name until then)
    files/          what a person may want: predictions, pictures
    exit.json       how the runner's process ended, written by the guard

`python -m worker.runner FOLDER` runs it again, without Redis.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from jobs.spec import AnySpec, spec_from_dict

#: Bytes: what is left of a disk on which writing fails.
_NO_ROOM: Final = 65_536
#: Not `rank-1-0001.jsonl`, in which the events of an earlier run by hand are kept.
_OF_A_RANK: Final = re.compile(r"rank-\d+\.jsonl")


@dataclass(frozen=True)
class Attempt:
    """What the supervisor adds to a spec so that a runner can start."""

    job: str
    #: Number of the attempt: the fencing token.
    attempt: int
    #: Folders that data may be read from.
    roots: tuple[str, ...]
    #: Folder of prepared data, shared by all jobs of the home.
    cache: str
    #: Threads of each process.
    threads: int = 1
    #: Processes that train together.
    world_size: int = 1
    #: Indices of the GPUs of this attempt, as the machine numbers them.
    gpus: tuple[int, ...] = ()
    #: Checkpoint to go on from (training), or to use (evaluation, prediction).
    checkpoint: str | None = None
    #: Spec of the job whose checkpoint is evaluated or used, as plain JSON.
    trained: Mapping[str, Any] | None = None
    #: Name of the model that is used, by which a process may hold it; the same for the same one.
    model: str = ""
    #: SHA-256 that whoever reads the checkpoint must find; empty where it was looked at.
    unchecked: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Attempt":
        """Build an attempt from the plain JSON of its file."""
        return cls(**{**plain, "roots": tuple(plain["roots"]), "gpus": tuple(plain["gpus"])})


@dataclass(frozen=True)
class AttemptFolder:
    """Know every file of one attempt."""

    path: Path

    @property
    def spec_file(self) -> Path:
        """Return the path of the spec."""
        return self.path / "spec.json"

    @property
    def attempt_file(self) -> Path:
        """Return the path of what the supervisor adds to the spec."""
        return self.path / "attempt.json"

    @property
    def data_file(self) -> Path:
        """Return the path of what the data's files were like."""
        return self.path / "data.json"

    @property
    def start_checkpoint(self) -> Path:
        """Return the path of the checkpoint that the attempt starts from."""
        return self.path / "start.ckpt"

    @property
    def evaluations(self) -> tuple[Path, Path]:
        """Return the paths of the two evaluations that are compared, row by row."""
        return self.path / "first.jsonl", self.path / "second.jsonl"

    @property
    def events_file(self) -> Path:
        """Return the path of the runner's events."""
        return self.path / "events.jsonl"

    def events_of(self, rank: int) -> Path:
        """Return the path of what one rank of the runner says."""
        return self.path / f"rank-{rank}.jsonl" if rank else self.events_file

    @property
    def events_of_others(self) -> list[Path]:
        """Return what there is of ranks but the first."""
        found = self.path.glob("rank-*.jsonl")
        return sorted(path for path in found if _OF_A_RANK.fullmatch(path.name))

    @property
    def rendezvous_file(self) -> Path:
        """Return the path of the file by which ranks find each other."""
        return self.path / "ranks.lock"

    @property
    def log_file(self) -> Path:
        """Return the path of the runner's standard output and error."""
        return self.path / "output.log"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def files(self) -> Path:
        """Return the folder of further results."""
        return self.path / "files"

    @property
    def exit_file(self) -> Path:
        """Return the path of how the runner's process ended."""
        return self.path / "exit.json"

    def lay(self, spec: AnySpec, attempt: Attempt) -> None:
        """Create the folder, or raise FileExistsError: an attempt is laid once."""
        self.make()
        self.write(spec, attempt)

    def make(self) -> None:
        """Create the folder without its contents, or raise FileExistsError."""
        self.path.mkdir(parents=True, mode=0o700)
        self.checkpoints.mkdir()
        self.files.mkdir()

    def write(self, spec: AnySpec, attempt: Attempt) -> None:
        """Write what to do, and with what."""
        self.spec_file.write_text(json.dumps(spec.to_dict(), indent=1), encoding="utf-8")
        self.attempt_file.write_text(json.dumps(asdict(attempt), indent=1), encoding="utf-8")

    def lighten(self) -> None:
        """Remove what is large: checkpoints that count lie in the artifact store."""
        for path in (self.start_checkpoint, *self.checkpoints.glob("*")):
            path.unlink(missing_ok=True)

    def read_spec(self) -> AnySpec:
        """Return the spec. Raise SpecError."""
        return spec_from_dict(json.loads(self.spec_file.read_text(encoding="utf-8")))

    def read_attempt(self) -> Attempt:
        """Return what the supervisor added."""
        return Attempt.from_dict(json.loads(self.attempt_file.read_text(encoding="utf-8")))


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is whole or not there; if `durable`, also after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_full(folder: Path) -> bool:
    """Return whether the disk of a folder has no room for anything."""
    try:
        return shutil.disk_usage(folder).free < _NO_ROOM
    except OSError:
        return False
