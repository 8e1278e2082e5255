"""Additive energies of all steps at once, with a backward by hand.

Shapes: B sentences, T steps, S source positions, A width of a key; b sentences and t steps of a
piece.

e_ij = v · σ(q_i + k_j), computed as in `_score_steps.AdditiveStep`. All σ(q_i + k_j) are B T S A
numbers: they are made piece by piece in one buffer that stays in the processor's cache, and once
more in the backward.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from lightning_modules._recurrence import Loop
from lightning_modules._score_steps import decay

#: Bytes of σ(q + k) that are made at a time: on CPUs what stays in the cache of one core, elsewhere
#: enough to be worth a launch.
_CPU_PIECE: Final = 1 << 20
_OTHER_PIECE: Final = 64 << 20

#: Sentences, and steps of each.
Piece = tuple[slice, slice]


def additive_energies(queries: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return v · σ(q_i + k_j), (B, T, S), for queries (B, T, A), keys (B, S, A) and v (A,)."""
    (energies,) = AdditiveEnergies(queries, keys, vector).run()
    return energies


class AdditiveEnergies(Loop):
    """The pieces of one batch."""

    def __init__(self, queries: Tensor, keys: Tensor, vector: Tensor) -> None:
        self.tensors = queries, keys, vector

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Queries, keys and v."""
        return self.tensors

    def forward(self) -> tuple[Tensor]:
        """Return the energies."""
        queries, keys, vector = self.tensors
        #: exp(-q_i) and exp(-k_j).
        self._scales, self._decays = decay(queries), decay(keys)
        energies = keys.new_empty(*queries.shape[:2], keys.shape[1])
        room = self._room()
        for piece in self._pieces():
            fits = self._fits(piece, room)
            energies[piece] = (fits.flatten(0, 2) @ vector).view(fits.shape[:3])
        return (energies,)

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of queries, keys and v for de (B, T, S)."""
        *_, vector = self.tensors
        (grad,) = gradients
        of_queries, of_keys, of_vector = (torch.zeros_like(each) for each in self.tensors)
        if grad is None:
            return of_queries, of_keys, of_vector
        room, slope_room = self._room(), self._room()
        for piece in self._pieces():
            sentences, _ = piece
            some = grad[piece]  # (b, t, S)
            fits = self._fits(piece, room)
            of_vector += (some.reshape(1, -1) @ fits.flatten(0, 2))[0]
            slopes = slope_room[: fits.numel()].view_as(fits)
            torch.addcmul(fits, fits, fits, value=-1, out=slopes).mul_(some[..., None])
            of_queries[piece] = slopes.sum(dim=2)
            of_keys[sentences] += slopes.sum(dim=1)
        return of_queries.mul_(vector), of_keys.mul_(vector), of_vector

    def _fits(self, piece: Piece, room: Tensor) -> Tensor:
        """Return σ(q_i + k_j) of a piece, (b, t, S, A), in a part of `room`."""
        sentences, steps = piece
        scales, decays = self._scales[sentences, steps, None], self._decays[sentences, None]
        shape = *scales.shape[:2], *decays.shape[2:]
        fits = room[: torch.Size(shape).numel()].view(shape)
        return torch.addcmul(fits.new_ones(()), scales, decays, out=fits).reciprocal_()

    def _room(self) -> Tensor:
        sentences, steps = self._sizes()
        _, keys, _ = self.tensors
        return keys.new_empty(sentences * steps * keys.shape[1] * keys.shape[2])

    def _pieces(self) -> Iterator[Piece]:
        queries, *_ = self.tensors
        sentences, steps = self._sizes()
        for first in range(0, queries.shape[0], sentences):
            for at in range(0, queries.shape[1], steps):
                yield slice(first, first + sentences), slice(at, at + steps)

    def _sizes(self) -> tuple[int, int]:
        """Return of how many sentences, and how many steps of each, a piece is at most."""
        queries, keys, _ = self.tensors
        rows, total, _ = queries.shape
        budget = _CPU_PIECE if keys.device.type == "cpu" else _OTHER_PIECE
        per_step = max(1, keys[0].numel() * keys.element_size()) if rows else 1
        steps = min(max(1, budget // per_step), max(1, total))
        sentences = min(max(1, budget // (per_step * steps)), max(1, rows))
        return sentences, steps
