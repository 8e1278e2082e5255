"""Energies: how well what the decoder is about fits what was read, e_ij = a(s, h_j).

Shapes: B sentences, N = B * k rows (k queries to each sentence), S source positions, H units of
the state that attends, C width of an annotation h_j, A width of a key, K filters.

With coverage, the key of h_j also says how much was attended to it, C_ij = Σ_{i'<i} α_i'j: for the
additive score a(s, h_j) = v · tanh(W s + U h_j + w C_ij + b), See, Liu & Manning 2017, "Get to the
point: summarization with pointer-generator networks", equation 11, after Tu et al. 2016; for those
that multiply, s · (k_j + w C_ij) with the key k_j. w starts at zero: at first, coverage changes
nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)

from datamodules._refusals import Refusal
from lightning_modules._additive import Fits, additive_energies
from lightning_modules._errors import ModelError
from lightning_modules._products import Linear, linear
from lightning_modules._score_steps import (
    AdditiveStep,
    DotStep,
    LocationStep,
    ScoreStep,
    decay,
)

ScoreName = Literal["additive", "dot", "scaled_dot", "general", "location"]


class Past(NamedTuple):
    """What was attended to before a step; each is empty, (N, 0), where the score does not ask."""

    #: α_{i-1}, (N, S).
    newest: Tensor
    #: C_i = Σ_{i'<i} α_i', (N, S).
    covered: Tensor


#: e = energies(visible state (N, H), what was attended to) -> (B, k, S); each row may be off by a
#: constant (softmax).
Energies = Callable[[Tensor, Past], Tensor]
#: What the past adds to the keys that a row sees, (B, k, S, A).
Added = Callable[[Past], Tensor]


class Score(nn.Module, ABC):
    """Hold the weights of a(s, h_j)."""

    #: Whether the energies depend on α_{i-1}; the state of the loop then carries it.
    looks_back: ClassVar[bool] = False

    def __init__(self, key_size: int, *, coverage: bool) -> None:
        super().__init__()
        #: w, (A,); None where the energies do not depend on coverage.
        self.covering = nn.Parameter(torch.zeros(key_size)) if coverage else None

    @property
    def covers(self) -> bool:
        """Whether the energies depend on coverage; the state of the loop then carries it."""
        return self.covering is not None

    @abstractmethod
    def keys(self, values: Tensor) -> Tensor:
        """Return what the score sees of the annotations, (B, S, C) -> (B, S, A)."""

    @abstractmethod
    def bind(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return the energies against these keys, weights cast once to `dtype`, of products."""

    def at_once(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return the energies of all steps at once, k = T, products in `dtype`.

        For scores that do not ask for what was attended to before.
        """
        return self.bind(keys, dtype)

    @abstractmethod
    def step(self, keys: Tensor, steps: int, dtype: torch.dtype) -> ScoreStep:
        """Return the energies of so many steps against these keys, with a backward by hand.

        Products are done in `dtype`. Coverage has none.
        """


class AdditiveScore(Score):
    """a(s, h) = v · tanh(W s + U h + b), Bahdanau et al. 2015, appendix A.1.2.

    tanh(x) = 2σ(2x) - 1, and the softmax does not see the constant -Σv, so the energies are
    computed as 2v · σ(2(W s + U h + b)): the same α, and σ takes a fifth of tanh's time on CPUs.
    """

    def __init__(
        self, query_size: int, value_size: int, size: int, *, coverage: bool = False
    ) -> None:
        super().__init__(size, coverage=coverage)
        self.query = Linear(query_size, size, bias=False)
        self.key = Linear(value_size, size)
        self.vector = nn.Parameter(torch.empty(size))
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.zeros_(self.key.bias)
        nn.init.uniform_(self.vector, -(size**-0.5), size**-0.5)

    def keys(self, values: Tensor) -> Tensor:
        """Return 2(U h + b)."""
        return linear(values, 2 * self.key.weight, 2 * self.key.bias)

    def bind(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return 2v · σ(2 W s + keys + what the past adds to them)."""
        if not (torch.is_grad_enabled() or self.covers or self.looks_back):
            return self._search(keys, dtype)
        keys = keys.to(dtype)
        additions = self.additions(keys)
        weight, vector = (2 * self.query.weight).to(dtype), (2 * self.vector).to(dtype)

        def energies(visible: Tensor, past: Past) -> Tensor:
            query = linear(visible.to(weight.dtype), weight)
            query = query.view(keys.shape[0], -1, 1, keys.shape[2])  # (B, k, 1, A)
            fits = query + keys[:, None]
            for add in additions:
                fits = fits + add(past)
            return linear(torch.sigmoid(fits), vector[None]).squeeze(-1)

        return energies

    def _search(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return the same without gradients, from exp(-keys), which is made here."""
        weight, vector = (2 * self.query.weight).to(dtype), 2 * self.vector
        decays = decay(keys)

        def energies(visible: Tensor, _: Past) -> Tensor:
            query = linear(visible.to(dtype), weight).to(keys.dtype)
            return Fits(decay(query).view(len(keys), -1, keys.shape[2]), decays).times(vector)

        return energies

    def at_once(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return the same for all steps at once; no (B, T, S, A) numbers are ever in memory."""
        weight, vector = (2 * self.query.weight).to(dtype), 2 * self.vector

        def energies(visible: Tensor, _: Past) -> Tensor:
            query = linear(visible.to(dtype), weight).to(keys.dtype)
            return additive_energies(query.view(len(keys), -1, keys.shape[2]), keys, vector)

        return energies

    def step(self, keys: Tensor, steps: int, dtype: torch.dtype) -> ScoreStep:
        """Return the same for a scan."""
        return AdditiveStep(keys, steps, (2 * self.query.weight).to(dtype), 2 * self.vector)

    def additions(self, keys: Tensor) -> list[Added]:
        """Return what the past adds to these keys: 2w C_ij with coverage, else nothing."""
        if self.covering is None:
            return []
        covering = (2 * self.covering).to(keys.dtype)

        def cover(past: Past) -> Tensor:
            covered = past.covered.to(covering.dtype).view(len(keys), -1, keys.shape[1], 1)
            return covered * covering

        return [cover]


class LocationScore(AdditiveScore):
    """a(s, h_j, α') = v · tanh(W s + U h_j + V f_j + b) with f = F * α', α' the weights before.

    Chorowski et al. 2015, "Attention-based models for speech recognition", equations 8 and 9: K
    filters F see α_{i-1} as far as `reach` positions to each side. Before the first step, attention
    stands on the first position.
    """

    looks_back = True

    def __init__(self, sizes: "ScoreSizes", *, filters: int, reach: int) -> None:
        super().__init__(sizes.query, sizes.value, sizes.width, coverage=sizes.coverage)
        size = sizes.width
        self.filters = nn.Parameter(torch.empty(filters, 1, 2 * reach + 1))
        self.feature = Linear(filters, size, bias=False)
        nn.init.xavier_uniform_(self.filters)
        nn.init.xavier_uniform_(self.feature.weight)

    def step(self, keys: Tensor, steps: int, dtype: torch.dtype) -> ScoreStep:
        """Return the same for a scan."""
        weight = (2 * self.query.weight).to(dtype)
        located = self.filters, 2 * self.feature.weight
        return LocationStep(keys, steps, weight, 2 * self.vector, located)

    def additions(self, keys: Tensor) -> list[Added]:
        """Return 2 V f, and what coverage adds."""
        dtype = keys.dtype
        filters, feature = self.filters.to(dtype), (2 * self.feature.weight).to(dtype)

        def locate(past: Past) -> Tensor:
            seen = F.conv1d(past.newest.to(dtype)[:, None], filters, padding="same")  # (N, K, S)
            features = linear(seen.transpose(1, 2), feature)  # (N, S, A)
            return features.view(len(keys), -1, *keys.shape[1:])

        return [locate, *super().additions(keys)]


class DotScore(Score):
    """a(s, h) = s · h, Luong, Pham & Manning 2015, equation 8: as many units on either side."""

    #: What keys are multiplied by, and w with them.
    scale: float = 1.0

    def keys(self, values: Tensor) -> Tensor:
        """Return h itself."""
        return values

    def bind(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return s · (keys + w C_ij)."""
        keys = keys.to(dtype)

        def energies(visible: Tensor, _: Past) -> Tensor:
            query = visible.to(keys.dtype).reshape(len(keys), -1, keys.shape[2])  # (B, k, A)
            return torch.bmm(query, keys.transpose(1, 2))

        if self.covering is None:
            return energies
        covering = (self.scale * self.covering).to(keys.dtype)

        def covered_energies(visible: Tensor, past: Past) -> Tensor:
            slope = linear(visible.to(keys.dtype), covering[None])  # s · w, (N, 1)
            more = slope * past.covered.to(keys.dtype)
            return energies(visible, past) + more.view(len(keys), -1, keys.shape[1])

        return covered_energies

    def step(self, keys: Tensor, steps: int, dtype: torch.dtype) -> ScoreStep:  # noqa: ARG002 (no product)
        """Return the same for a scan."""
        return DotStep(keys, steps)


class GeneralScore(DotScore):
    """a(s, h) = s · W h, Luong, Pham & Manning 2015, equation 8."""

    def __init__(self, query_size: int, value_size: int, *, coverage: bool = False) -> None:
        super().__init__(query_size, coverage=coverage)
        self.key = Linear(value_size, query_size, bias=False)
        nn.init.xavier_uniform_(self.key.weight)

    def keys(self, values: Tensor) -> Tensor:
        """Return W h."""
        return linear(values, self.key.weight)


class ScaledDotScore(DotScore):
    """a(s, h) = (W s) · (U h) / √A, Vaswani et al. 2017, equation 1, with one head."""

    def __init__(
        self, query_size: int, value_size: int, size: int, *, coverage: bool = False
    ) -> None:
        super().__init__(size, coverage=coverage)
        self.scale = size**-0.5
        self.state = Linear(query_size, size, bias=False)
        self.key = Linear(value_size, size, bias=False)
        nn.init.xavier_uniform_(self.state.weight)
        nn.init.xavier_uniform_(self.key.weight)

    def keys(self, values: Tensor) -> Tensor:
        """Return U h / √A: scaled here, once a sentence."""
        return linear(values, self.key.weight * self.scale)

    def bind(self, keys: Tensor, dtype: torch.dtype) -> Energies:
        """Return (W s) · (keys + w C_ij / √A)."""
        weight, compare = self.state.weight.to(dtype), super().bind(keys, dtype)
        return lambda visible, past: compare(linear(visible.to(dtype), weight), past)

    def step(self, keys: Tensor, steps: int, dtype: torch.dtype) -> ScoreStep:
        """Return the same for a scan."""
        return DotStep(keys, steps, self.state.weight.to(dtype))


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
    #: Whether the energies depend on how much was attended to before.
    coverage: bool = False

    @property
    def width(self) -> int:
        """Return the width of a key: a query's, where nothing was chosen."""
        return self.query if self.key is None else self.key


_MAKERS: Final[Mapping[ScoreName, Callable[[ScoreSizes], Score]]] = {
    "additive": lambda sizes: AdditiveScore(
        sizes.query, sizes.value, sizes.width, coverage=sizes.coverage
    ),
    "dot": lambda sizes: DotScore(sizes.query, coverage=sizes.coverage),
    "scaled_dot": lambda sizes: ScaledDotScore(
        sizes.query, sizes.value, sizes.width, coverage=sizes.coverage
    ),
    "general": lambda sizes: GeneralScore(sizes.query, sizes.value, coverage=sizes.coverage),
    "location": lambda sizes: LocationScore(
        sizes,
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
