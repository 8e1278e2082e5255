"""What the workers can build: topologies, kinds of data, and their parameters."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from jobs.errors import SpecError, did_you_mean
from jobs.refusal import Refusal, read_refusals
from jobs.schema import Parameter, check_all
from jobs.spec import Component, TrainerOptions, TrainSpec, places

#: What goes in and what comes out, e.g. ("tokens", "tokens").
Task = tuple[str, str]

#: What a topology is told of its data (its `FromData` parameters) only where this goes in, or comes
#: out; elsewhere it is 0.
_SIZES_IN: Final[Mapping[str, Sequence[str]]] = {
    "tokens": ("vocabulary_size", "source_vocabulary_size"),
    "label": ("source_classes",),
    "frames": ("feature_size",),
    "vector": ("feature_size",),
}
_SIZES_OUT: Final[Mapping[str, Sequence[str]]] = {
    "tokens": ("target_vocabulary_size",),
    "label": ("num_classes",),
    "tags": ("num_tags",),
    "labels": ("label_size",),
    "value": ("value_size",),
    "values": ("value_size",),
}


@dataclass(frozen=True)
class Entry:
    """Describe one topology or one kind of data."""

    name: str
    #: One sentence for people.
    summary: str
    parameters: tuple[Parameter, ...] = ()
    #: What a topology accepts, or a kind of data gives.
    tasks: frozenset[Task] = frozenset()
    #: Trainer options that it sets otherwise than the recipe.
    trainer_defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Names of the parameters that the data fills in, and nobody else.
    from_data: frozenset[str] = frozenset()
    #: Where a parameter decides which of `tasks`: its name, and the tasks of each of its values.
    tasks_by: tuple[str, Mapping[str, frozenset[Task]]] | None = None
    #: Parameters that do not go together.
    refusals: tuple[Refusal, ...] = ()
    #: Of a kind of data: every split that it may have; empty where nobody knows.
    splits: tuple[str, ...] = ()
    #: Of a kind of data: the metrics of texts that models of it write, by family ("rouge"), and the
    #: parameter that lists which of these are computed, if any; None where nobody knows.
    text_metrics: Mapping[str, Sequence[str]] | None = None
    text_metrics_by: str = ""

    def check(
        self,
        component: Component,
        data: Mapping[str, Any] = MappingProxyType({}),
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Return the component's parameters in their types. Raise SpecError.

        `data` are parameters of the data, of which those count that are `from_data` here;
        `elsewhere` says where other names belong (`check_all`).
        """
        for name in component.params:
            if name in self.from_data:
                raise SpecError(f"{self.name}: the data sets {name!r}; leave it out")
        checked = check_all(self.parameters, component.params, self.name, elsewhere)
        filled_in = {name: value for name, value in data.items() if name in self.from_data}
        params = {**self._defaults, **filled_in, **checked}
        for refusal in self.refusals:
            if refusal.applies(params):
                raise SpecError(f"{self.name}: {refusal.sentence(params)}")
        return checked

    def names(self, section: str) -> dict[str, str]:
        """Return that its parameters belong in this section of a spec."""
        return {each.name: f"in {section}" for each in self.parameters}

    def in_force(self, component: Component) -> dict[str, Any]:
        """Return all parameters with their values, given or by default. Raise SpecError."""
        return self._defaults | self.check(component)

    @property
    def _defaults(self) -> dict[str, Any]:
        return {each.name: each.default for each in self.parameters}

    def tasks_of(self, component: Component) -> frozenset[Task]:
        """Return what a component with these parameters accepts or gives. Raise SpecError."""
        params = self.in_force(component)
        if self.tasks_by is None:
            return self.tasks
        name, choices = self.tasks_by
        return choices[params[name]]

    def check_split(self, name: str) -> None:
        """Raise SpecError for a split that this kind of data cannot have."""
        if self.splits and name not in self.splits:
            raise SpecError(
                f"{self.name} has no split {name!r}{did_you_mean(name, self.splits)} (its splits: "
                f"{', '.join(self.splits)})"
            )

    def scores_of_text(self, component: Component) -> tuple[str, ...] | None:
        """Return the metrics of texts that such data reports; None where nobody knows."""
        if self.text_metrics is None:
            return None
        families = self.text_metrics
        if self.text_metrics_by:
            families = self.in_force(component)[self.text_metrics_by]
        return tuple(name for each in families for name in self.text_metrics.get(each, ()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "name": self.name,
            "summary": self.summary,
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "tasks": _plain(self.tasks),
            "trainer_defaults": dict(self.trainer_defaults),
            "from_data": sorted(self.from_data),
            "tasks_by": self.tasks_by
            and [
                self.tasks_by[0],
                {each: _plain(tasks) for each, tasks in self.tasks_by[1].items()},
            ],
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "splits": list(self.splits),
            "text_metrics": self.text_metrics
            and {family: list(names) for family, names in self.text_metrics.items()},
            "text_metrics_by": self.text_metrics_by,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Entry":
        """Build an entry from what `to_dict` gave."""
        return cls(
            name=plain["name"],
            summary=plain["summary"],
            parameters=tuple(map(Parameter.from_dict, plain["parameters"])),
            tasks=_tasks(plain["tasks"]),
            trainer_defaults=plain["trainer_defaults"],
            from_data=frozenset(plain.get("from_data", ())),
            tasks_by=_tasks_by(plain.get("tasks_by")),
            refusals=read_refusals(plain.get("refusals", ())),
            splits=tuple(plain.get("splits", ())),
            text_metrics=plain.get("text_metrics"),
            text_metrics_by=plain.get("text_metrics_by", ""),
        )


@dataclass(frozen=True)
class Catalog:
    """Hold the entries by name."""

    models: Mapping[str, Entry]
    data: Mapping[str, Entry]

    def check(self, spec: TrainSpec) -> None:
        """Refuse a spec that no worker of this catalogue could build. Raise SpecError."""
        model = _find(self.models, spec.model.name, "topology")
        data = _find(self.data, spec.data.name, "kind of data")
        model.check(spec.model, elsewhere=places(TrainSpec) | data.names("[data]"))
        data.check(spec.data, elsewhere=places(TrainSpec) | model.names("[model]"))
        given = data.tasks_of(spec.data)
        if not model.tasks & given:
            fitting = ", ".join(
                name for name, each in sorted(self.models.items()) if each.tasks & given
            )
            raise SpecError(
                f"{model.name} accepts {_words(model.tasks)}, {data.name}{_chosen(data, spec)} "
                f"gives {_words(given)}; topologies that fit: {fitting or 'none'}"
            )
        # What goes together may depend on the data: its parameters, and what it does not have.
        model.check(spec.model, {**data.in_force(spec.data), **_absent(model.tasks & given)})

    def trainer(self, spec: TrainSpec) -> TrainerOptions:
        """Return the trainer options in force for a spec."""
        return spec.trainer.resolved(
            self.models[spec.model.name].trainer_defaults,
            self.data[spec.data.name].trainer_defaults,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "models": [entry.to_dict() for _, entry in sorted(self.models.items())],
            "data": [entry.to_dict() for _, entry in sorted(self.data.items())],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Catalog":
        """Build a catalogue from what `to_dict` gave."""
        models, data = (
            {entry["name"]: Entry.from_dict(entry) for entry in plain[kind]}
            for kind in ("models", "data")
        )
        return cls(models, data)

    @property
    def digest(self) -> str:
        """Return a short digest of everything in the catalogue."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _find(entries: Mapping[str, Entry], name: str, what: str) -> Entry:
    if name not in entries:
        known = f" (there are: {', '.join(sorted(entries))})"
        raise SpecError(f"no {what} is called {name!r}{did_you_mean(name, entries) or known}")
    return entries[name]


def _chosen(data: Entry, spec: TrainSpec) -> str:
    """Return by which of its parameters a kind of data gives what it gives, for an error."""
    if data.tasks_by is None:
        return ""
    name = data.tasks_by[0]
    return f" with {name} = {data.in_force(spec.data)[name]!r}"


def _plain(tasks: frozenset[Task]) -> list[list[str]]:
    return sorted(map(list, tasks))


def _tasks(plain: Any) -> frozenset[Task]:
    return frozenset((given, wanted) for given, wanted in plain)


def _tasks_by(plain: Any) -> tuple[str, dict[str, frozenset[Task]]] | None:
    if plain is None:
        return None
    name, choices = plain
    return name, {value: _tasks(tasks) for value, tasks in choices.items()}


def _absent(tasks: frozenset[Task]) -> dict[str, int]:
    """Return the sizes that are 0 whichever of these tasks it is."""
    absent: dict[str, int] = {}
    for place, sizes in enumerate((_SIZES_IN, _SIZES_OUT)):
        there = {size for task in tasks for size in sizes.get(task[place], ())}
        absent |= {size: 0 for each in sizes.values() for size in each if size not in there}
    return absent


def _words(tasks: frozenset[Task]) -> str:
    return " or ".join(sorted(f"{given} -> {wanted}" for given, wanted in tasks))
