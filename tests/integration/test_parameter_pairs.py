"""Every parameter of a topology works with every other, or the catalogue refuses the pair."""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch

from datamodules._base import Task
from jobs.errors import SpecError
from jobs.schema import Parameter
from jobs.spec import Component
from tests.integration.test_topology_contract import DATA, FILES, Toy, batches, public_classes
from worker.runner.catalog import topologies

Params = dict[str, Any]
#: Two parameters with a value of each.
Pair = frozenset[tuple[str, int]]

#: How often a completion of a pair is drawn before it counts as refused.
TRIES = 50
#: Small enough to be quick, and halved by a bidirectional encoder.
SIZES = (4, 6)


def values_of(parameter: Parameter) -> list[Any]:
    """Return a few values of a parameter: all choices, both of a bool, two of a number."""
    none = [None] if parameter.optional else []
    if parameter.choices:
        return [*none, *parameter.choices]
    if parameter.type == "bool":
        return [*none, False, True]
    if parameter.many or parameter.type == "str":
        return [parameter.default]
    if parameter.type == "float":
        return [*none, parameter.ge or 0.0, 0.3]
    if parameter.name.endswith("_size"):
        return [*none, *SIZES]
    low = int(parameter.ge or 0)
    return [*none, low, low + 1]


def pairs_of(choices: Mapping[str, Sequence[Any]]) -> set[Pair]:
    places = [[(name, at) for at in range(len(values))] for name, values in choices.items()]
    return {
        frozenset({one, other})
        for some, others in combinations(places, 2)
        for one in some
        for other in others
    }


def complete(
    pair: Pair,
    open_pairs: set[Pair],
    choices: Mapping[str, Sequence[Any]],
    refused: Callable[[Params], bool],
    chance: random.Random,
) -> dict[str, int] | None:
    """Give every parameter a value that nothing refuses, with as many open pairs as come by."""
    taken = dict(pair)

    def params() -> Params:
        return {name: choices[name][at] for name, at in taken.items()}

    for name in chance.sample(sorted(choices.keys() - taken.keys()), len(choices) - len(taken)):
        fitting = []
        for at in chance.sample(range(len(choices[name])), len(choices[name])):
            taken[name] = at
            if not refused(params()):
                gain = sum(
                    frozenset({(name, at), (other, place)}) in open_pairs
                    for other, place in taken.items()
                    if other != name
                )
                fitting.append((gain, at))
        if not fitting:
            return None
        taken[name] = max(fitting, key=lambda each: each[0])[1]
    return None if refused(params()) else taken


def cover(
    choices: Mapping[str, Sequence[Any]], refused: Callable[[Params], bool]
) -> tuple[list[Params], list[Params]]:
    """Return parameters in which every pair that can be had is, and the pairs that cannot."""
    chance = random.Random(7)
    open_pairs, covered, hopeless = pairs_of(choices), [], []
    while open_pairs:
        pair = min(open_pairs, key=sorted)
        found = (complete(pair, open_pairs, choices, refused, chance) for _ in range(TRIES))
        taken = next((each for each in found if each is not None), None)
        if taken is None:
            hopeless.append({name: choices[name][at] for name, at in pair})
            open_pairs.remove(pair)
        else:
            covered.append({name: choices[name][at] for name, at in taken.items()})
            open_pairs -= {frozenset(each) for each in combinations(taken.items(), 2)}
    return covered, hopeless


def cases() -> Iterator[tuple[str, Task]]:
    for name in FILES:
        (topology,) = public_classes(name)
        yield from ((name, task) for task in sorted(topology.accepts & DATA.keys()))


@pytest.mark.parametrize(
    ("name", "task"),
    [pytest.param(*each, id=f"{each[0]}-{each[1][0]}-{each[1][1]}") for each in cases()],
)
def test_every_pair_of_choices_trains_or_is_refused(name: str, task: Task) -> None:
    found, data = topologies().find(name), DATA[task]()
    entry = found.entry
    signature = inspect.signature(found.cls).parameters
    # What the data does not have is 0.
    dims = {name: signature[name].default for name in entry.from_data} | data.dims

    def refused(params: Params) -> bool:
        known = {**dims, **params}
        return any(each.applies(known) for each in entry.refusals)

    choices = {each.name: values_of(each) for each in entry.parameters}
    covered, hopeless = cover(choices, refused)
    assert covered
    for params in covered:
        checked = entry.check(Component(name, params), dims)
        given = {key: value for key, value in data.dims.items() if key in entry.from_data}
        torch.manual_seed(3)
        try_one(found.cls(**checked, **given), data, params)
    for pair in hopeless:
        with pytest.raises(SpecError) as caught:
            entry.check(Component(name, pair), dims)
        assert len(str(caught.value).splitlines()) == 1


def try_one(model: Any, data: Toy, params: Params) -> None:
    output = model.training_step(batches(data)[0], 0)
    output["loss"].backward()
    assert output["loss"].isfinite(), params
    gradients = {name: each.grad for name, each in model.named_parameters()}
    # Ranks wait for the gradient of every parameter.
    assert [name for name, each in gradients.items() if each is None] == [], params
    assert all(each.isfinite().all() for each in gradients.values()), params
    with torch.inference_mode():
        asked = replace(batches(data, "test")[0], targets=None, target_lengths=None)
        assert len(model.eval().predict(asked)) == len(asked), params
