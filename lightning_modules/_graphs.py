"""Loops as recorded graphs: on a GPU one launch in place of one for every operation.

A step of a loop is some twenty small operations, and to launch one takes a GPU's driver longer than
the GPU takes to do it. A CUDA graph launches all that it was recorded from at once, and always does
it with the same memory. So a `Recorder` keeps, for each set of shapes,

    the tensors that a loop reads, at addresses of their own, to which those of a batch are copied;
    a graph of the loop's forward and one of its backward, which share what the forward keeps;
    what both write, which is copied before anybody sees it: the next replay writes there again.

All graphs of a recorder work in one pool of memory, so that all of them need what the largest one
needs. Hence at most one forward may wait for its backward; a second one meanwhile is not recorded.
Random numbers are drawn outside: a graph would repeat them. Shapes are rounded up (`roomy`), so
that they are few, and their number is bounded. Where a graph cannot be recorded loops run as they
do on CPUs.

The rules are those of https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. How a graph
is recorded (`Capture`) is apart from what is done with it, which therefore runs on any device.
"""

import logging
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from lightning_modules._recurrence import Loop, wants_gradients

_log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
#: Reads tensors that stay where they are, and returns what it has made of them.
Work = Callable[[], Tensors]
#: Which loop, whether gradients are wanted, and the shape, dtype and device of every tensor.
Key = tuple[type[Loop], bool, tuple[tuple[torch.Size, torch.dtype, torch.device], ...]]

#: Sets of shapes that a recorder keeps graphs of.
_MOST: Final = 64
#: Runs before a recording: libraries then have their handles and workspaces, and have chosen.
_WARM_UPS: Final = 3

_copy_all: Any = torch._foreach_copy_


@dataclass(frozen=True)
class Graph:
    """Hold work that was recorded, and where it writes what it makes."""

    replay: Callable[[], None]
    outputs: Tensors


class Capture(ABC):
    """Record work, all of it in one pool of memory."""

    @abstractmethod
    def __call__(self, work: Work) -> Graph:
        """Record the work. Raise RuntimeError where that cannot be done."""


class CudaCapture(Capture):
    """Record CUDA graphs.

    Everything is warmed up and recorded on one stream, which lets graphs share memory and keeps
    handles of libraries from being made in a recording.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, work: Work) -> Graph:
        """Record the work."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Threads that pin memory or watch collectives call CUDA meanwhile, and may.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            outputs = work()
        return Graph(graph.replay, outputs)


#: How loops are recorded, by type of device.
CAPTURES: Final[dict[str, Callable[[], Capture]]] = {"cuda": CudaCapture}


class Recording:
    """A loop for one set of shapes: its tensors, and both of its ways.

    Raises RuntimeError where one cannot be recorded.
    """

    def __init__(self, loop: Loop, capture: Capture, *, keeps: bool) -> None:
        # Tensors made under inference mode could not be written to outside it.
        with torch.inference_mode(mode=False), torch.no_grad():
            given = tensors_of(loop)
            self._inputs = tuple(_room_for(each).copy_(each) for each in given)
            places = {id(a): b for a, b in zip(given, self._inputs, strict=True)}
            twin = deepcopy(loop, dict(places))
            twin.keeps = keeps
            with torch.autocast(given[0].device.type, enabled=False):
                self._forward = capture(twin.forward)
                self._upstream = tuple(torch.zeros_like(each) for each in self._forward.outputs)
                self._backward = capture(lambda: twin.backward(*self._upstream)) if keeps else None

    def forward(self, given: Tensors) -> Tensors:
        """Return what the loop gives for other tensors of the same shapes."""
        _copy_all(self._inputs, given)
        self._forward.replay()
        return tuple(each.clone() for each in self._forward.outputs)

    def backward(self, upstream: Sequence[Tensor | None]) -> Tensors:
        """Return the gradients of the loop's parameters, for those of what it gave last."""
        assert self._backward is not None  # noqa: S101 (autograd asks only where it may)
        for into, grad in zip(self._upstream, upstream, strict=True):
            if grad is None:
                into.zero_()
            else:
                into.copy_(grad)
        self._backward.replay()
        return tuple(each.clone() for each in self._backward.outputs)


class Replayed(Loop):
    """A loop that is run by its recording."""

    def __init__(self, loop: Loop, recording: Recording, recorder: "Recorder") -> None:
        self._loop, self._recording, self._recorder = loop, recording, recorder
        #: Whether a backward of it may still come.
        self.waits = False

    @property
    def parameters(self) -> Tensors:
        """Those of the loop."""
        return self._loop.parameters

    def forward(self) -> Tensors:
        """Return what the loop gives."""
        self._recorder.latest = weakref.ref(self)
        self.waits = self.keeps
        return self._recording.forward(tensors_of(self._loop))

    def backward(self, *gradients: Tensor | None) -> Tensors:
        """Return the gradients. Raise RuntimeError where another forward has come in between."""
        if self._recorder.latest is None or self._recorder.latest() is not self:
            raise RuntimeError(
                "what this loop kept for its backward is gone, since another one has run: go back "
                "only once, and before the next forward"
            )
        self.waits = False
        return self._recording.backward(gradients)


class Recorder:
    """Record the loops of one model, each set of shapes when it comes the second time.

    Of more sets than there is room for, those that come most often are kept: one takes the place of
    another when it has come twice as often.
    """

    def __init__(self, capture: Capture, most: int = _MOST) -> None:
        self._capture, self._most = capture, most
        self._recordings: dict[Key, Recording] = {}
        self._seen: Counter[Key] = Counter()
        self._works = True
        #: The loop whose numbers are in the pool.
        self.latest: weakref.ref[Replayed] | None = None

    def take(self, loop: Loop) -> Loop:
        """Return the loop as it should run now: by a recording, or as it is."""
        waiting = self.latest and self.latest()
        if not self._works or (waiting and waiting.waits):
            return loop
        recording = self._recording(loop)
        return loop if recording is None else Replayed(loop, recording, self)

    def _recording(self, loop: Loop) -> Recording | None:
        key = _key_of(loop)
        self._seen[key] += 1
        if key in self._recordings:
            return self._recordings[key]
        if self._seen[key] < 2 or not self._has_room(key):
            return None
        try:
            self._recordings[key] = Recording(loop, self._capture, keeps=key[1])
        except RuntimeError as error:  # of CUDA, of memory too
            self._works = False
            self._recordings.clear()
            _log.warning("loops run without CUDA graphs: %s", str(error).partition("\n")[0])
            return None
        self.latest = None  # the pool holds numbers of no batch
        return self._recordings[key]

    def _has_room(self, key: Key) -> bool:
        if len(self._recordings) < self._most:
            return True
        least = min(self._recordings, key=lambda each: self._seen[each])
        if self._seen[key] < 2 * self._seen[least]:
            return False
        del self._recordings[least]
        return True


_recorders: Final["weakref.WeakKeyDictionary[nn.Module, Recorder]"] = weakref.WeakKeyDictionary()


def recorded(loop: Loop, owner: nn.Module) -> Loop:
    """Return the loop as it should run on its device; its graphs live as long as the owner.

    Loops of one class and owner differ in nothing but their tensors.
    """
    capture = CAPTURES.get(loop.parameters[0].device.type)
    if capture is None:
        return loop
    if owner not in _recorders:
        _recorders[owner] = Recorder(capture())
    return _recorders[owner].take(loop)


def roomy(size: int, device: torch.device) -> int:
    """Return how many rows, steps or positions to make of so many: at most an eighth more.

    Where loops are recorded that is one of eight numbers between a power of two and the next.
    """
    if device.type not in CAPTURES:
        return size
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


def widened(values: Tensor, *sizes: int, fill: float = 0.0) -> Tensor:
    """Return values with their first dimensions as long as `sizes`."""
    missing = [size - have for size, have in zip(sizes, values.shape, strict=False)]
    if not any(missing):
        return values
    pads = [0, 0] * (values.ndim - len(sizes))
    for each in reversed(missing):
        pads += [0, each]
    return F.pad(values, pads, value=fill)


def tensors_of(loop: Loop) -> Tensors:
    """Return every tensor that a loop reads and does not make."""
    return *loop.parameters, *loop.constants


def _key_of(loop: Loop) -> Key:
    given = tensors_of(loop)
    wanted = wants_gradients(loop.parameters)
    return type(loop), wanted, tuple((each.shape, each.dtype, each.device) for each in given)


def _room_for(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
