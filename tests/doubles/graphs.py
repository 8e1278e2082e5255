"""What stands in for CUDA graphs where there is no GPU, and refuses what they would."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules._graphs import Capture, Graph, Work


class Reading(TorchDispatchMode):
    """Note where work reads what it has not made; refuse what a graph cannot hold."""

    def __init__(self, made: set[int]) -> None:
        super().__init__()
        self._made = made
        #: Addresses of storages.
        self.read: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Any,
        _types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what was called. Raise RuntimeError where it is random, or asks the device to wait."""
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise RuntimeError(f"a graph would repeat the numbers of {function}")
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError(f"a graph cannot wait for {function}")
        self.read |= {_address(each) for each in _tensors(args, kwargs)} - self._made
        result = function(*args, **(kwargs or {}))
        self._made |= {_address(each) for each in _tensors(result)} - self.read
        return result


class StandIn(Capture):
    """Do the work again at each replay, and see that it reads and writes where it did at first."""

    def __init__(self) -> None:
        #: How often work was recorded and replayed.
        self.captures = self.replays = 0
        self._made: set[int] = set()

    def __call__(self, work: Work) -> Graph:
        """Run the work once."""
        self.captures += 1
        with Reading(self._made) as first:
            outputs = work()

        def replay() -> None:
            self.replays += 1
            with Reading(self._made) as again:
                found = work()
            assert again.read <= first.read, "it reads tensors that do not stay where they are"
            for into, each in zip(outputs, found, strict=True):
                into.copy_(each)

        return Graph(replay, outputs)


def _tensors(*values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
