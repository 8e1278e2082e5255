"""The plan of a run: which jobs, and which faults when; a pure function of its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedJob:
    """One training, submitted under a key of its own."""

    number: int
    #: A name of `specs.SHAPES`, and the seed of its weights.
    shape: str
    seed: int

    @property
    def key(self) -> str:
        """Return the idempotency key."""
        return f"chaos-{self.number}"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on purpose.

    When and where follow the run, not the clock, so that a plan means the same on a slow machine:
    it is due once so many jobs were submitted, and falls on one of those that it can fall on.
    """

    number: int
    #: A name of `faults.KINDS`.
    kind: str
    #: Jobs that must have been submitted, and seconds that must have passed since.
    due: int
    delay: float
    #: From 0 to 1: which of the possible targets, in the order of their names.
    pick: float
    #: From 0 to 1: how long a pause, which byte of a file or a reply.
    amount: float


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    seed: int
    jobs: Sequence[PlannedJob]
    faults: Sequence[Fault]
    #: Seconds between two faults at least.
    apart: float = 0.3


def draw(seed: int, jobs: int, faults: int, *, kinds: Sequence[str], shapes: Sequence[str]) -> Plan:
    """Return the plan of this seed; every kind of fault and every shape comes up equally often."""
    chance = random.Random(seed)
    trained = [
        PlannedJob(number, shape, 1 + number // len(shapes) % 2)
        for number, shape in enumerate(_in_turn(chance, shapes, jobs))
    ]
    happening = [
        Fault(
            number=number,
            kind=kind,
            due=1 + number * max(1, jobs - 2) // max(1, faults),
            delay=chance.uniform(0.2, 2.0),
            pick=chance.random(),
            amount=chance.random(),
        )
        for number, kind in enumerate(_in_turn(chance, kinds, faults))
    ]
    return Plan(seed, trained, happening)


def _in_turn(chance: random.Random, names: Sequence[str], count: int) -> list[str]:
    """Return so many names, shuffled, each as often as the others or once more."""
    found: list[str] = []
    while len(found) < count:
        found += chance.sample(names, len(names))
    return found[:count]
