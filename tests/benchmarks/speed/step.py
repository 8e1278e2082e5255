"""A training step of the attention model: forward, backward, clipping and the optimiser.

Held against the textbook's module in float32, and against its own matrix products alone: those of a
step are recorded, and done again on other numbers of the same shapes, layouts and type.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules._batch import Batch
from lightning_modules._cells import CellName
from lightning_modules._recipe import Recipe
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder
from tests.benchmarks.speed._measure import Row, in_turn
from tests.benchmarks.speed._textbook import Textbook


@dataclass(frozen=True)
class Size:
    """Say how large a batch and a model are."""

    batch: int
    source: int
    target: int
    embedding: int
    hidden: int
    symbols: int

    def __str__(self) -> str:
        return "({batch}, {source}, {target}, {embedding}, {hidden}, {symbols})".format(
            **vars(self)
        )


SIZES: Final = (
    Size(64, 25, 25, 256, 512, 8000),
    Size(80, 15, 15, 256, 256, 6000),
    Size(128, 12, 12, 128, 256, 50),
    Size(256, 12, 12, 64, 128, 40),
)
#: Sizes whose products are measured alone.
_WIDE: Final = SIZES[:2]
_BATCHES: Final = 4

_PRODUCTS: Final = frozenset(
    getattr(getattr(torch.ops.aten, name), overload)
    for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv")
    for overload in ("default", "out")
) | {
    torch.ops.mkldnn._linear_pointwise.default,
    torch.ops.aten.mkldnn_rnn_layer.default,
    torch.ops.aten.mkldnn_rnn_layer_backward.default,
}


def batches(size: Size) -> list[Batch]:
    """Return batches of like lengths, as the plan makes them."""
    generator = torch.Generator().manual_seed(1)

    def side(longest: int) -> tuple[Tensor, Tensor]:
        lengths = torch.randint(longest - 2, longest + 1, (size.batch,), generator=generator)
        lengths[0] = longest
        ids = torch.randint(4, size.symbols, (size.batch, longest), generator=generator)
        return ids.masked_fill(torch.arange(longest) >= lengths[:, None], 0), lengths

    return [
        Batch(*side(size.source), *side(size.target), {"index": torch.arange(size.batch)})
        for _ in range(_BATCHES)
    ]


def trained(model: nn.Module, loss: Callable[[Batch], Tensor], size: Size) -> Callable[[], None]:
    """Return one whole step of training on the next batch."""
    optimiser = Recipe(total_steps=10_000).optimisers(model.parameters())["optimizer"]
    waiting: list[Batch] = []

    def step() -> None:
        waiting[:] = waiting or batches(size)
        loss(waiting.pop()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def ours(size: Size, cell: CellName, dtype: torch.dtype) -> Callable[[], None]:
    """Return a step of our model."""
    torch.manual_seed(0)
    model = AttentionEncoderDecoder(
        hidden_size=size.hidden,
        embedding_size=size.embedding,
        cell=cell,
        source_vocabulary_size=size.symbols,
        target_vocabulary_size=size.symbols,
    ).train()

    def loss(batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model.losses(batch, 0.1).mean

    return trained(model, loss, size)


def theirs(size: Size, cell: CellName) -> Callable[[], None]:
    """Return a step of the textbook's model, in float32."""
    torch.manual_seed(0)
    model = Textbook(cell, size.embedding, size.hidden, size.symbols).train()
    return trained(model, model, size)


class Recorder(TorchDispatchMode):
    """Note every matrix product that is done."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self.operations = 0

    def __torch_dispatch__(
        self,
        function: Any,
        _types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what was called; remember how to do it again."""
        result = function(*args, **(kwargs or {}))
        if function in _PRODUCTS:
            self.operations += _operations(function, args)
            alike = [_alike(each) for each in args]
            named = {name: _alike(each) for name, each in (kwargs or {}).items()}
            self.calls.append(lambda: function(*alike, **named))
        return result


def _alike(value: Any) -> Any:
    """Return other numbers laid out like those of a tensor; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).normal_()
    return [_alike(each) for each in value] if isinstance(value, list) else value


def _operations(function: Any, args: Sequence[Any]) -> int:
    """Return the multiplications and additions of a call."""
    tensors = [each for each in args if isinstance(each, Tensor)]
    if "linear" in function.name():
        return 2 * tensors[0].numel() * len(tensors[1])
    if "mkldnn" in function.name():
        values, weight, recurrent = tensors[:3]
        forward = 2 * values.shape[0] * values.shape[1] * (weight.numel() + recurrent.numel())
        return forward * (2 if "backward" in function.name() else 1)
    left, right = tensors[-2:]
    return int(2 * left.numel() * (right.shape[-1] if right.ndim > 1 else 1))


def products(step: Callable[[], None]) -> tuple[Callable[[], None], int]:
    """Return the products of one step alone, and how many operations they are."""
    with Recorder() as recorder:
        step()

    def alone() -> None:
        for call in recorder.calls:
            call()

    return alone, recorder.operations


def rows() -> Iterator[Row]:
    """Measure every size, cell and type."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for size in SIZES:
        for cell in get_args(CellName):
            for dtype, goal in ((torch.bfloat16, 2.0), (torch.float32, 1.15)):
                yield from _rows(size, cell, dtype, goal)


def _rows(size: Size, cell: CellName, dtype: torch.dtype, goal: float) -> Iterator[Row]:
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    step = ours(size, cell, dtype)
    pairs = in_turn(step, theirs(size, cell), repeats=9)
    yield Row.of_pairs(
        pairs,
        name=f"training step, {cell}, {precision}",
        size=str(size),
        against_name="textbook, fp32",
        goal=f"≥ {goal} times as fast",
    )
    if size in _WIDE:
        alone, operations = products(step)
        pairs = in_turn(step, alone, repeats=9)
        yield Row(
            name=f"its products, {cell}, {precision}",
            size=str(size),
            figure=operations / pairs.our_median / 1e9,
            unit="GFLOP/s",
            against=operations / pairs.their_median / 1e9,
            against_name="the products alone",
            ratio=pairs.speedup,
            goal=f"≥ {0.65 if precision == 'bf16' else 0.85} of them",
        )
