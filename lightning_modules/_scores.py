"""Energies: how well what the decoder is about fits what was read, e_ij = a(s, h_j).

Shapes: B sentences, N = B * k rows (k queries to each sentence), S source positions, H units of
the state that attends, C width of an annotation h_j, A width of a key, K filters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from datamodules._refusals import Refusal
from lightning_modules._errors import ModelError

ScoreName = Literal["additive", "dot", "scaled_dot", "general", "location"]

#: e = energies(visible state (N, H), α_{i-1} (N, S)) -> (B, k, S); each row may be off by a
#: constant (softmax). α_{i-1} is empty, (N, 0), for a score that does not look back.
Energies = Callable[[Tensor, Tensor], Tensor]


class Score(nn.Module, ABC):
    """Hold the weights of a(s, h_j)."""

    #: Whether the energies depend on α_{i-1}; the state of the loop then carries it.
    looks_back: ClassVar[bool] = False

    @abstractmethod
    def keys(self, values: Tensor) -> Tensor:
        """Return what the score sees of the annotations, (B, S, C) -> (B, S, A)."""

    @abstractmethod
    def bind(self, keys: Tensor) -> Energies:
        """Return the energies against these keys, weights cast to their dtype once."""


class AdditiveScore(Score):
    """a(s, h) = v · tanh(W s + U h + b), Bahdanau et al. 2015, appendix A.1.2.

    tanh(x) = 2σ(2x) - 1, and the softmax does not see the constant -Σv, so the energies are
    computed as 2v · σ(2(W s + U h + b)): the same α, and σ takes a fifth of tanh's time on CPUs.
    """

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, size, bias=False)
        self.key = nn.Linear(value_size, size)
        self.vector = nn.Parameter(torch.empty(size))
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.zeros_(self.key.bias)
        nn.init.uniform_(self.vector, -(size**-0.5), size**-0.5)

    def keys(self, values: Tensor) -> Tensor:
        """Return 2(U h + b)."""
        return F.linear(values, 2 * self.key.weight, 2 * self.key.bias)

    def bind(self, keys: Tensor) -> Energies:
        """Return 2v · σ(2 W s + keys)."""
        weight, vector = (2 * self.query.weight).to(keys.dtype), (2 * self.vector).to(keys.dtype)

        def energies(visible: Tensor, _: Tensor) -> Tensor:
            query = F.linear(visible.to(weight.dtype), weight)
            query = query.view(keys.shape[0], -1, 1, keys.shape[2])  # (B, k, 1, A)
            return F.linear(torch.sigmoid(query + keys[:, None]), vector[None]).squeeze(-1)

        return energies


class LocationScore(AdditiveScore):
    """a(s, h_j, α') = v · tanh(W s + U h_j + V f_j + b) with f = F * α', α' the weights before.

    Chorowski et al. 2015, "Attention-based models for speech recognition", equations 8 and 9: K
    filters F see α_{i-1} as far as `reach` positions to each side. Before the first step, attention
    stands on the first position.
    """

    looks_back = True

    def __init__(
        self, query_size: int, value_size: int, size: int, *, filters: int, reach: int
    ) -> None:
        super().__init__(query_size, value_size, size)
        self.filters = nn.Parameter(torch.empty(filters, 1, 2 * reach + 1))
        self.feature = nn.Linear(filters, size, bias=False)
        nn.init.xavier_uniform_(self.filters)
        nn.init.xavier_uniform_(self.feature.weight)

    def bind(self, keys: Tensor) -> Energies:
        """Return 2v · σ(2 W s + keys + 2 V f)."""
        dtype, positions = keys.dtype, keys.shape[1]
        weight, vector = (2 * self.query.weight).to(dtype), (2 * self.vector).to(dtype)
        filters, feature = self.filters.to(dtype), (2 * self.feature.weight).to(dtype)

        def energies(visible: Tensor, before: Tensor) -> Tensor:
            query = F.linear(visible.to(dtype), weight).view(len(keys), -1, 1, keys.shape[2])
            seen = F.conv1d(before.to(dtype)[:, None], filters, padding="same")  # (N, K, S)
            features = F.linear(seen.transpose(1, 2), feature)  # (N, S, A)
            features = features.view(len(keys), -1, positions, keys.shape[2])
            fits = torch.sigmoid(query + keys[:, None] + features)
            return F.linear(fits, vector[None]).squeeze(-1)

        return energies


class DotScore(Score):
    """a(s, h) = s · h, Luong, Pham & Manning 2015, equation 8: as many units on either side."""

    def keys(self, values: Tensor) -> Tensor:
        """Return h itself."""
        return values

    def bind(self, keys: Tensor) -> Energies:
        """Return s · keys."""

        def energies(visible: Tensor, _: Tensor) -> Tensor:
            query = visible.to(keys.dtype).reshape(len(keys), -1, keys.shape[2])  # (B, k, A)
            return torch.bmm(query, keys.transpose(1, 2))

        return energies


class GeneralScore(DotScore):
    """a(s, h) = s · W h, Luong, Pham & Manning 2015, equation 8."""

    def __init__(self, query_size: int, value_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(value_size, query_size, bias=False)
        nn.init.xavier_uniform_(self.key.weight)

    def keys(self, values: Tensor) -> Tensor:
        """Return W h."""
        return F.linear(values, self.key.weight)


class ScaledDotScore(DotScore):
    """a(s, h) = (W s) · (U h) / √A, Vaswani et al. 2017, equation 1, with one head."""

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.state = nn.Linear(query_size, size, bias=False)
        self.key = nn.Linear(value_size, size, bias=False)
        nn.init.xavier_uniform_(self.state.weight)
        nn.init.xavier_uniform_(self.key.weight)

    def keys(self, values: Tensor) -> Tensor:
        """Return U h / √A: scaled here, once a sentence."""
        return F.linear(values, self.key.weight * self.key.out_features**-0.5)

    def bind(self, keys: Tensor) -> Energies:
        """Return (W s) · keys."""
        weight, compare = self.state.weight.to(keys.dtype), super().bind(keys)
        return lambda visible, before: compare(F.linear(visible.to(weight.dtype), weight), before)


@dataclass(frozen=True)
class ScoreSizes:
    """Say what a score stands between, and what the user chose of it (None: nothing)."""

    #: Units of the state that attends, H, and of an annotation, C.
    query: int
    value: int
    #: Width in which both are compared, A.
    key: int | None = None
    #: Filters of a location-aware score, K, and how many positions to each side they see.
    filters: int | None = None
    reach: int | None = None

    @property
    def width(self) -> int:
        """Return the width of a key: a query's, where nothing was chosen."""
        return self.query if self.key is None else self.key


_MAKERS: Final[Mapping[ScoreName, Callable[[ScoreSizes], Score]]] = {
    "additive": lambda sizes: AdditiveScore(sizes.query, sizes.value, sizes.width),
    "dot": lambda _: DotScore(),
    "scaled_dot": lambda sizes: ScaledDotScore(sizes.query, sizes.value, sizes.width),
    "general": lambda sizes: GeneralScore(sizes.query, sizes.value),
    "location": lambda sizes: LocationScore(
        sizes.query,
        sizes.value,
        sizes.width,
        filters=10 if sizes.filters is None else sizes.filters,
        reach=15 if sizes.reach is None else sizes.reach,
    ),
}


_NO_FILTERS: Final = (
    "score '{score}' has no filters: leave out location_filters and location_reach, or choose "
    "score = 'location'"
)
#: For a topology that takes a score's choices under the names used here.
SCORE_REFUSALS: Final = (
    Refusal(unless={"score": ("location",), "location_filters": (None,)}, because=_NO_FILTERS),
    Refusal(unless={"score": ("location",), "location_reach": (None,)}, because=_NO_FILTERS),
    Refusal(
        when={"score": ("dot", "general")},
        unless={"attention_size": (None,)},
        because="score '{score}' compares states as they are: leave out attention_size",
    ),
    Refusal(
        when={"score": ("dot",), "bidirectional": (True,)},
        because="score 'dot' multiplies a state with an annotation, which both directions make "
        "twice as wide: set bidirectional = false, or choose score = 'general'",
    ),
)


def make_score(name: ScoreName, sizes: ScoreSizes) -> Score:
    """Return the score of this name; what does not go together, `SCORE_REFUSALS` has said."""
    if name not in _MAKERS:
        raise ModelError(f"score is {name!r}; it must be one of {', '.join(_MAKERS)}")
    return _MAKERS[name](sizes)
