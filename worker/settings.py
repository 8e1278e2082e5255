"""What a worker is told at its start, and the clocks that it goes by."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from jobs.errors import ArtifactError, SetupError
from worker.sources import PLUGINS

Start = Literal["fork", "interpreter"]


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """The times of a worker, in seconds; tests run with shorter ones."""

    #: How long a lease lives without a renewal.
    lease: float = 10.0
    #: Between two renewals, by which wishes such as a cancel are heard.
    renew: float = 0.5
    #: Between two looks at what the runner says.
    tick: float = 0.25
    #: Between two looks for a job that no bell announced.
    poll: float = 0.5
    #: Between two sweeps; well below half a lease, which the sweep takes for an outage.
    sweep: float = 1.0
    #: Between two publications of the catalogue, which an outage may have lost.
    catalog: float = 15.0
    #: Between two clearings of what nobody needs any more.
    clear: float = 60.0
    #: Between two looks at the data of schedules; new data counts after two.
    data: float = 15.0
    #: Between two looks whether the preloaded parent is there, with the code as it is.
    parent: float = 2.0
    #: How long a runner goes on with no renewal answered.
    grace: float = 300.0
    #: How long a runner may take to exit after its last word.
    linger: float = 10.0
    #: How long a draining worker waits for its runners' checkpoints: less than the half minute that
    #: machines which may be taken away are given to end.
    drain: float = 25.0


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """How many models stay in memory after they were used."""

    #: Bytes of all of them together; 0 for none.
    bytes: int = 1 << 30
    #: Seconds since a model was used last.
    seconds: float = 900.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a worker lives and whose jobs it takes."""

    home: Path
    #: Folders that data may be read from.
    roots: tuple[Path, ...]
    #: Where Redis is; carries the password.
    url: str = field(repr=False)
    namespace: str = "default"
    name: str = ""
    slots: int = 1
    #: Slots beside these for predictions and generations; 0 for none.
    answer_slots: int = 1
    queues: tuple[str, ...] = ("default",)
    labels: tuple[str, ...] = ()
    #: How runners start: forked from a preloaded parent, or each in an interpreter of its own.
    start: Start = "fork"
    warmth: Warmth = field(default_factory=Warmth)
    #: Days for which prepared data stays that no job uses.
    cache_days: float = 30.0
    clocks: Clocks = field(default_factory=Clocks)

    @property
    def attempts(self) -> Path:
        """Return the folder of attempt folders."""
        return self.home / "attempts"

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made again."""
        return self.home / "cache"

    def attempts_of(self, job: str) -> Path:
        """Return the folder of a job's attempts. Raise ArtifactError for what is no id."""
        if job in ("", ".", "..") or "/" in job:
            raise ArtifactError(f"{job!r} is no id of a job")
        return self.attempts / job

    def make_folders(self) -> None:
        """Create what a worker writes into. Raise SetupError for a home that cannot be used."""
        try:
            for folder in (self.attempts, self.cache, self.home / "data"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.attempts / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SetupError(
                f"cannot write to the home {self.home}: {error.strerror}; set UNROLL_HOME to a "
                "folder that you own"
            ) from None


def how_to_start() -> Start:
    """Return what UNROLL_START says. Raise SetupError for another word."""
    given = os.environ.get("UNROLL_START") or "fork"
    for way in get_args(Start):
        if given == way:
            return way  # type: ignore[no-any-return]
    raise SetupError(f"UNROLL_START is {given!r}; it may be {' or '.join(get_args(Start))}")


def warmth() -> Warmth:
    """Return what UNROLL_WARM_MB and UNROLL_WARM_SECONDS say. Raise SetupError for no number."""
    megabytes = _number("UNROLL_WARM_MB", Warmth.bytes / (1 << 20))
    return Warmth(
        bytes=int(megabytes * (1 << 20)), seconds=_number("UNROLL_WARM_SECONDS", Warmth.seconds)
    )


def cache_days() -> float:
    """Return what UNROLL_CACHE_DAYS says. Raise SetupError for no number."""
    return _number("UNROLL_CACHE_DAYS", Settings.cache_days)


def _number(variable: str, otherwise: float) -> float:
    given = os.environ.get(variable) or str(otherwise)
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise SetupError(f"{variable} is {given!r}; it must be a number from 0 on")
    return number


def data_roots(home: Path, start: Path) -> tuple[Path, ...]:
    """Return UNROLL_DATA_ROOTS, else the home's data folder and the folder of the start.

    A worker that is started in `/` or in a user's home opens neither as a whole. Raise SetupError
    for a root that is no folder.
    """
    if given := os.environ.get("UNROLL_DATA_ROOTS"):
        return _folders("UNROLL_DATA_ROOTS", given)
    start = start.resolve()
    too_wide = start == Path(start.anchor) or start in Path.home().resolve().parents
    data = (home / "data").absolute()
    return (data,) if too_wide or start == Path.home().resolve() else (data, start)


def resolve_plugins() -> None:
    """Make the folders of UNROLL_PLUGINS absolute: runners read it, and each starts in its own.

    Raise SetupError for one that is no folder.
    """
    if given := os.environ.get(PLUGINS):
        os.environ[PLUGINS] = os.pathsep.join(map(str, _folders(PLUGINS, given)))


def _folders(variable: str, given: str) -> tuple[Path, ...]:
    return tuple(_folder(variable, path) for path in given.split(os.pathsep) if path)


def _folder(variable: str, given: str) -> Path:
    folder = Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise SetupError(f"{variable} names {folder}, which is no folder: make it, or name another")
    return folder
