"""Named models in a person's hands: `client.models["de-en"].champion.predict([...])`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from jobs.errors import NotAllowed, UnknownJob, UnknownModel
from jobs.handle import JobHandle, Submitter

if TYPE_CHECKING:
    from jobs.registry import Event, Model, Registry, Version

#: Value of `expect` where the champion of the moment is meant.
_AS_IT_IS: Final[Any] = object()


class Registrar(Submitter, Protocol):
    """What models need of the client that they belong to."""

    @property
    def registry(self) -> "Registry":
        """The names, versions and champions."""

    def get(self, id: str) -> JobHandle:  # noqa: A002 - the name in the record
        """Return a job by the beginning of its id."""


class VersionHandle(JobHandle):
    """One version of a model: a training that can be used, and what it is registered as."""

    def __init__(self, client: Submitter, version: "Version") -> None:
        super().__init__(client, version.job)
        self.version: Final = version

    def __repr__(self) -> str:
        return f"VersionHandle({self.label!r})"

    @property
    def label(self) -> str:
        """Return the version as commands take it: `NAME@NUMBER`."""
        return self.version.label

    @property
    def number(self) -> int:
        """Return the number of the version."""
        return self.version.number


class ModelHandle:
    """One named model: its versions, and which of them is the champion."""

    def __init__(self, client: Registrar, name: str) -> None:
        self._client = client
        self.name: Final = name

    def __repr__(self) -> str:
        return f"ModelHandle({self.name!r})"

    @property
    def record(self) -> "Model":
        """Return the model as it is now."""
        return self._client.registry.get(self.name)

    @property
    def champion(self) -> VersionHandle:
        """Return the version that is in use. Raise NotAllowed while none was promoted."""
        return self._resolved("champion")

    @property
    def challenger(self) -> VersionHandle:
        """Return the newest version. Raise NotAllowed once somebody has decided on it."""
        return self._resolved("challenger")

    @property
    def versions(self) -> list[VersionHandle]:
        """Return all versions, the first first."""
        return [VersionHandle(self._client, each) for each in self.record.versions]

    def version(self, number: int) -> VersionHandle:
        """Return a version by its number. Raise UnknownModel."""
        return VersionHandle(self._client, self.record.version(number))

    def register(self, id: str, *, parent: int | None = None, note: str = "") -> VersionHandle:  # noqa: A002 - the name in the record
        """Make a training that has succeeded the next version; see `Registry.register`."""
        return Models(self._client).register(self.name, id, parent=parent, note=note)

    def promote(
        self, number: int, *, expect: int | None = _AS_IT_IS, reason: str = "", **evidence: Any
    ) -> "Model":
        """Let a version be the champion; see `Registry.promote`.

        `expect` is the champion that the decision was made against, by default that of now.
        """
        seen = self.record.champion if expect is _AS_IT_IS else expect
        return self._client.registry.promote(
            self.name, number, expect=seen, by=_whoami(), reason=reason, evidence=evidence
        )

    def rollback(self, reason: str = "") -> "Model":
        """Let the champion before be the champion again; see `Registry.rollback`."""
        return self._client.registry.rollback(self.name, by=_whoami(), reason=reason)

    def release(self, number: int, reason: str = "") -> "Model":
        """Keep a version's training no more; see `Registry.release`."""
        return self._client.registry.release(self.name, number, by=_whoami(), reason=reason)

    def history(self) -> "Sequence[Event]":
        """Return everything that was done with the model, the oldest first."""
        return self._client.registry.history(self.name)

    def _resolved(self, alias: str) -> VersionHandle:
        version = self._client.registry.resolve(f"{self.name}@{alias}")
        return VersionHandle(self._client, version)


class Models:
    """The named models of a service, by name."""

    def __init__(self, client: Registrar) -> None:
        self._client = client

    def __iter__(self) -> Iterator[ModelHandle]:
        return (ModelHandle(self._client, each.name) for each in self._client.registry.list())

    def __contains__(self, name: object) -> bool:
        return any(each.name == name for each in self._client.registry.list())

    def __getitem__(self, name: str) -> ModelHandle:
        """Return a model. Raise UnknownModel."""
        return ModelHandle(self._client, self._client.registry.get(name).name)

    def register(
        self,
        name: str,
        id: str,  # noqa: A002 - the name in the record
        *,
        parent: int | None = None,
        note: str = "",
    ) -> VersionHandle:
        """Make a training that has succeeded the next version of a model, perhaps its first."""
        version = self._client.registry.register(
            name, self._client.get(id).id, by=_whoami(), parent=parent, note=note
        )
        return VersionHandle(self._client, version)

    def trained(self, target: str) -> JobHandle:
        """Return the training that a job's id, or NAME, NAME@3 or NAME@challenger stands for.

        Of a model it is a VersionHandle. Raise UnknownJob, UnknownModel, NotAllowed.
        """
        registry = self._client.registry
        if registry.knows(target):
            version = registry.resolve(target)
            if version.released:
                self._require_training(version)
            return VersionHandle(self._client, version)
        try:
            return self._client.get(target)
        except UnknownJob as error:
            if not target[:1].isalpha():
                raise
            raise UnknownModel(f"{error}; no model is called so either") from None

    def _require_training(self, version: "Version") -> None:
        try:
            self._client.get(version.job)
        except UnknownJob:
            raise NotAllowed(
                f"{version.label} was released, and its job {version.job} is gone; take another "
                f"version: `unroll models show {version.name}`"
            ) from None


def _whoami() -> str:
    from jobs.registry import whoami  # noqa: PLC0415 - imports Redis

    return whoami()
