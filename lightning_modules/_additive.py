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


class Fits:
    """Make σ(q_i + k_j) piece by piece, from exp(-q_i) (B, T, A) and exp(-k_j) (B, S, A)."""

    def __init__(self, scales: Tensor, decays: Tensor) -> None:
        self._scales, self._decays = scales, decays
        rows, total, _ = scales.shape
        budget = _CPU_PIECE if scales.device.type == "cpu" else _OTHER_PIECE
        per_step = max(1, decays.shape[1] * decays.shape[2] * decays.element_size())
        #: How many steps a piece has at most, and how many sentences.
        self._steps = min(max(1, budget // per_step), max(1, total))
        self._sentences = min(max(1, budget // (per_step * self._steps)), max(1, rows))

    def room(self) -> Tensor:
        """Return a buffer for one piece."""
        _, positions, size = self._decays.shape
        return self._decays.new_empty(self._sentences * self._steps * positions * size)

    def __iter__(self) -> Iterator[tuple[Piece, Tensor]]:
        """Yield each piece and its numbers, (b, t, S, A), all in one buffer."""
        rows, total, _ = self._scales.shape
        room, one = self.room(), self._scales.new_ones(())
        for first in range(0, rows, self._sentences):
            for at in range(0, total, self._steps):
                piece = slice(first, first + self._sentences), slice(at, at + self._steps)
                scales, decays = self._scales[piece][:, :, None], self._decays[piece[0], None]
                shape = torch.Size([*scales.shape[:2], *decays.shape[2:]])
                fits = room[: shape.numel()].view(shape)
                yield piece, torch.addcmul(one, scales, decays, out=fits).reciprocal_()

    def times(self, vector: Tensor) -> Tensor:
        """Return v · σ(q_i + k_j), (B, T, S)."""
        energies = self._decays.new_empty(*self._scales.shape[:2], self._decays.shape[1])
        for piece, fits in self:
            energies[piece] = (fits.flatten(0, 2) @ vector).view(fits.shape[:3])
        return energies


class AdditiveEnergies(Loop):
    """The energies of one batch."""

    def __init__(self, queries: Tensor, keys: Tensor, vector: Tensor) -> None:
        self._queries, self._keys, self._vector = queries, keys, vector

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Queries, keys and v."""
        return self._queries, self._keys, self._vector

    def forward(self) -> tuple[Tensor]:
        """Return the energies."""
        self._fits = Fits(decay(self._queries), decay(self._keys))
        return (self._fits.times(self._vector),)

    def backward(self, *gradients: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of queries, keys and v for de (B, T, S)."""
        (grad,) = gradients
        of_queries, of_keys, of_vector = (torch.zeros_like(each) for each in self.parameters)
        if grad is None:
            return of_queries, of_keys, of_vector
        room = self._fits.room()
        for piece, fits in self._fits:
            some = grad[piece]  # (b, t, S)
            of_vector += (some.reshape(1, -1) @ fits.flatten(0, 2))[0]
            slopes = room[: fits.numel()].view_as(fits)
            torch.addcmul(fits, fits, fits, value=-1, out=slopes).mul_(some[..., None])
            of_queries[piece] = slopes.sum(dim=2)
            of_keys[piece[0]] += slopes.sum(dim=1)
        return of_queries.mul_(self._vector), of_keys.mul_(self._vector), of_vector
