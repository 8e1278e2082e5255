"""The registry: named models, their numbered versions, and which of them is the champion.

A version is a training that has succeeded, as it ended; its record and its files are kept from then
on. Versions are numbered from 1 and never renumbered. `champion` is the one that people use, and is
only ever moved by `promote` and `rollback`: also the first version is no champion until somebody
says so. `challenger` is the newest version, until somebody has decided on it.

Whoever moves the champion says which one they saw: of two at once, one is refused.
"""

import getpass
import hashlib
import json
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import redis

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactError, NotAllowed, SpecError, UnknownModel, did_you_mean
from jobs.job import Checkpoint, Job
from jobs.store.base import StoreBase
from jobs.store.looking import Looker
from jobs.store.records import plain, text
from jobs.store.scripts import Clock
from jobs.wording import is_plain

Action = Literal["registered", "promoted", "kept", "rolled_back", "released"]

#: Names become keys, folders and parts of commands; those of jobs begin with a digit.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_CHAMPION, _CHALLENGER = "champion", "challenger"
#: Characters of a reason, a note and a name of who did it; bytes of evidence.
_MAX_TEXT: Final = 1_000
_MAX_EVIDENCE: Final = 64_000
#: What of a spec a model follows from.
_OF_A_MODEL: Final = ("model", "data", "trainer", "seed", "resume_from", "warm_from")


@dataclass(frozen=True)
class Version:
    """One version of a model: a training as it ended."""

    #: Name of the model.
    name: str
    number: int
    #: Id of the training.
    job: str
    #: The model: the training's best checkpoint.
    checkpoint: Checkpoint
    #: SHA-256 of what the training was told: model, data, trainer, seed, where it went on from.
    spec_digest: str
    #: SHA-256 of the data that it saw; empty where the training did not say.
    data_digest: str
    #: Number of the version that it was trained from; None from scratch.
    parent: int | None
    #: Seconds since 1970.
    created: float
    #: Who registered it, and what they noted.
    by: str
    note: str
    #: Id of the artifact store that holds the checkpoint.
    store: str = ""
    #: Whether its training is no longer kept for it: it can be looked at, and not promoted.
    released: bool = False

    @property
    def label(self) -> str:
        """Return the version as commands take it: `NAME@NUMBER`."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Model:
    """A named model as it was read."""

    name: str
    #: Number of the version in use; None while none was promoted.
    champion: int | None
    #: Number of the newest version; None once it was promoted, turned down or released.
    challenger: int | None
    #: All versions, the first first.
    versions: Sequence[Version]

    def version(self, number: int) -> Version:
        """Return a version by its number. Raise UnknownModel."""
        if type(number) is not int or not 1 <= number <= len(self.versions):
            raise UnknownModel(
                f"{self.name} has no version {number!r}: they are 1 to {len(self.versions)}"
            )
        return self.versions[number - 1]


@dataclass(frozen=True)
class Event:
    """One thing that was done with a model."""

    #: Seconds since 1970 of Redis server time.
    time: float
    by: str
    action: Action
    #: The version that it was done with; after a roll-back, the champion again.
    version: int
    #: The champion before; None where there was none.
    before: int | None
    reason: str = ""
    #: What it was decided on: metrics, intervals, digests, ids of evaluations.
    evidence: Mapping[str, Any] = field(default_factory=dict)


# The class has a method called `list`, so that inside it this type needs a name of its own.
Models = list[Model]
Events = list[Event]


class Registry(StoreBase):
    """Keep the models of one namespace; `store.beside(Registry)` shares a JobStore's connection.

    With `artifacts`, versions whose files lie there are looked at before they are promoted; whether
    that was so stands in the evidence as `files`: "checked" or "unchecked". All methods raise
    ServiceUnreachable where Redis does not answer.
    """

    def __init__(
        self,
        client: "redis.Redis",
        namespace: str = "default",
        clock: Clock | None = None,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        super().__init__(client, namespace, clock)
        self._artifacts = artifacts

    def register(
        self, name: str, job: str, *, by: str, parent: int | None = None, note: str = ""
    ) -> Version:
        """Make a training that has succeeded the next version of a model, and its challenger.

        The model is made with its first version. A job that is a version of it already is that
        version still. Raise SpecError for a name that cannot be one, UnknownJob, NotAllowed where
        the job has no model to show, UnknownModel for a parent that there is not.
        """
        _check_name(name)
        trained = self.beside(Looker).get(job)
        about = {
            "spec_digest": spec_digest(trained),
            "data_digest": str(trained.result.get("data_digest", "")),
            "by": _checked("by", by),
            "note": _checked("note", note),
        }
        number = self._run(
            "model_register",
            name=name,
            id=trained.id,
            parent=_written(parent),
            about=plain(about),
            by=by,
            reason=note,
            evidence="{}",
        )
        return self.get(name).version(number)

    def promote(
        self,
        name: str,
        number: int,
        *,
        expect: int | None,
        by: str,
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Model:
        """Let a version be the champion if `expect` (None: nobody) is the champion still.

        Raise UnknownModel, and NotAllowed where somebody else was faster, where it is the champion
        already, or where its files are gone.
        """
        files = self._check_files(self.get(name).version(number))
        done = self._run(
            "model_promote",
            name=name,
            number=number,
            expect=_written(expect),
            nonce=secrets.token_hex(8),
            **_signed(by, reason, {**(evidence or {}), "files": files}),
        )
        if not done:
            raise NotAllowed(self._overtaken(name, f"version {number} was not promoted", expect))
        return self.get(name)

    def rollback(self, name: str, *, by: str, reason: str = "") -> Model:
        """Let the champion before be the champion again; another roll-back goes further back.

        Raise UnknownModel, and NotAllowed where there was none before, where its files are gone,
        or where somebody moved the champion at the same time.
        """
        seen, earlier = self._before(name)
        files = self._check_files(seen.version(earlier)) if earlier else ""
        done = self._run(
            "model_rollback",
            name=name,
            expect=_written(seen.champion),
            nonce=secrets.token_hex(8),
            **_signed(by, reason, {"files": files}),
        )
        if not done:
            raise NotAllowed(self._overtaken(name, "nothing was rolled back", seen.champion))
        return self.get(name)

    def keep(
        self,
        name: str,
        number: int,
        *,
        by: str,
        reason: str,
        evidence: Mapping[str, Any] | None = None,
    ) -> Model:
        """Note that a version was turned down: the champion is kept. Raise UnknownModel."""
        self._run(
            "model_keep",
            name=name,
            number=number,
            nonce=secrets.token_hex(8),
            **_signed(by, reason, evidence or {}),
        )
        return self.get(name)

    def release(self, name: str, number: int, *, by: str, reason: str = "") -> Model:
        """Keep a version's training no more: it is then cleared as any other job is.

        The version stays in the list, and a roll-back goes past it. Raise UnknownModel, and
        NotAllowed for the champion.
        """
        self._run(
            "model_release",
            name=name,
            number=number,
            nonce=secrets.token_hex(8),
            **_signed(by, reason, {}),
        )
        return self.get(name)

    def get(self, name: str) -> Model:
        """Return a model. Raise UnknownModel."""
        found = self._read(name)
        if found is None:
            raise UnknownModel(f"no model is called {name!r}{did_you_mean(name, self._names())}")
        return found

    def list(self) -> Models:
        """Return all models, the oldest first."""
        return [found for name in self._names() if (found := self._read(name))]

    def history(self, name: str) -> Events:
        """Return everything that was done with a model, the oldest first. Raise UnknownModel."""
        self.get(name)
        with self._reaching():
            told = self._client.lrange(self.keys("trail", name), 0, -1)
        return [_read_event(each) for each in told]

    def resolve(self, target: str) -> Version:
        """Return the version that is meant by NAME (its champion), NAME@3, or NAME@challenger.

        Raise UnknownModel, and NotAllowed for a champion or challenger that there is not.
        """
        name, at, which = target.partition("@")
        found = self.get(name)
        if which.isdecimal():
            return found.version(int(which))
        if at and which not in (_CHAMPION, _CHALLENGER):
            raise UnknownModel(
                f"{target!r}: behind the @ stands a number, {_CHAMPION} or {_CHALLENGER}"
            )
        number = found.challenger if which == _CHALLENGER else found.champion
        if number is None:
            raise NotAllowed(
                f"{name} has no {which or _CHAMPION}; name one of its {len(found.versions)} "
                f"versions ({name}@{len(found.versions)}), or promote it"
            )
        return found.version(number)

    def knows(self, target: str) -> bool:
        """Return whether it names a model, or a version of one, rather than a job."""
        name = target.partition("@")[0]
        with self._reaching():
            return "@" in target or self._client.zscore(self.keys("models"), name) is not None

    def _names(self) -> Sequence[str]:
        with self._reaching():
            return [text(each) for each in self._client.zrange(self.keys("models"), 0, -1)]

    def _read(self, name: str) -> Model | None:
        fields, versions = self._fetch(name)
        if "versions" not in fields:
            return None
        return Model(
            name=name,
            champion=_number(fields["champion"]),
            challenger=_number(fields["challenger"]),
            versions=tuple(
                replace(_read_version(name, number, each), released=f"released:{number}" in fields)
                for number, each in enumerate(versions, start=1)
            ),
        )

    def _fetch(self, name: str) -> tuple[Mapping[str, str], Sequence[bytes]]:
        with self._reaching():
            pipe = self._client.pipeline(transaction=True)
            pipe.hgetall(self.keys("model", name))
            pipe.lrange(self.keys("versions", name), 0, -1)
            fields, versions = pipe.execute()
        return {text(key): text(value) for key, value in fields.items()}, versions

    def _before(self, name: str) -> tuple[Model, int | None]:
        """Return the model, and the champion that a roll-back leads to."""
        seen = self.get(name)
        before = json.loads(self._fetch(name)[0]["before"])
        return seen, int(before[-1]) if before else None

    def _check_files(self, version: Version) -> str:
        if self._artifacts is None or self._artifacts.id != version.store:
            return "unchecked"
        try:
            self._artifacts.check(version.checkpoint.artifact, version.checkpoint.digest)
        except ArtifactError as error:
            raise NotAllowed(f"{version.label} cannot be the champion: {error}") from None
        return "checked"

    def _overtaken(self, name: str, what: str, expect: int | None) -> str:
        moved = [each for each in self.history(name) if each.action in ("promoted", "rolled_back")]
        if not moved:
            return f"{what}: {name} has no champion yet, and version {expect} was taken for it"
        last = moved[-1]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(last.time))
        did = "promoted" if last.action == "promoted" else "rolled back to"
        return (
            f"{what}: {last.by} {did} version {last.version} of {name} on {when} UTC; "
            f"look at `unroll models history {name}` and decide again"
        )


def spec_digest(trained: Job) -> str:
    """Return the SHA-256 of what a model follows from, in hex."""
    told = {name: trained.spec[name] for name in _OF_A_MODEL if name in trained.spec}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def whoami() -> str:
    """Return who does something, as it stands in an audit trail: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name[:80]!r} cannot be the name of a model: it begins with a letter of a to z or A "
            "to Z, and has at most 64 of these, digits, '_', '.', '-'"
        )


def _checked(what: str, said: str) -> str:
    if len(said) > _MAX_TEXT or not all(map(is_plain, said)):
        raise SpecError(f"{what}: a line of at most {_MAX_TEXT} printable characters")
    return said


def _signed(by: str, reason: str, evidence: Mapping[str, Any]) -> dict[str, str]:
    written = plain(dict(evidence))
    if len(written) > _MAX_EVIDENCE:
        raise SpecError(f"the evidence has {len(written):,} bytes; at most {_MAX_EVIDENCE:,}")
    return {
        "by": _checked("by", by),
        "reason": _checked("reason", reason),
        "evidence": written,
    }


def _written(number: int | None) -> str:
    return "" if number is None else str(number)


def _number(written: str) -> int | None:
    return int(written) if written else None


def _read_version(name: str, number: int, content: bytes) -> Version:
    said = json.loads(content)
    return Version(
        name=name,
        number=number,
        job=said["job"],
        checkpoint=Checkpoint(**json.loads(said["checkpoint"])),
        parent=_number(said["parent"]),
        created=int(said["created"]) / 1000,
        store=said["store"],
        **json.loads(said["about"]),
    )


def _read_event(content: bytes) -> Event:
    said = json.loads(content)
    return Event(
        time=int(said["time"]) / 1000,
        by=said["by"],
        action=said["action"],
        version=int(said["version"]),
        before=_number(said["before"]),
        reason=said["reason"],
        evidence=json.loads(said["evidence"]),
    )
