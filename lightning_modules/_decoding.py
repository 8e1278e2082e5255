"""Search for the best output of a model that writes one symbol at a time.

Shapes: B sentences still searched, k beam, N = B * k rows (sentence by sentence), V symbols, W
width of a state, L longest allowed output.

A model takes part by offering a `StepDecoder`. All sentences of a batch are searched at once; a
sentence that is done leaves, and the others get cheaper. No random choice is made anywhere.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

import torch
from torch import Tensor

from datamodules._vocab import BOS, EOS, PAD
from lightning_modules._errors import ModelError

#: Symbols that are never written: they stand around sequences, not inside.
_NEVER: Final = (PAD, BOS)


class StepDecoder(Protocol):
    """One step of a model over the rows of a batch, and what it knows of the batch's inputs."""

    def start(self) -> Tensor:
        """Return the state before the first symbol, (B, W)."""
        ...

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read symbols (N,), return log-probabilities of the next (N, V) and the state (N, W)."""
        ...

    def keep(self, index: Tensor) -> Self:
        """Return the decoder of only these sentences (index into B)."""
        ...


@dataclass(frozen=True)
class Search:
    """Say how outputs are searched for. The default is greedy."""

    #: Prefixes kept for each sentence; 1 is greedy search.
    beam: int = 1
    #: α of Wu et al. 2016, equation 14: scores are divided by ((5 + length) / 6)^α.
    length_normalisation: float = 1.0
    #: Symbols, end included, that an output may have for each input symbol ...
    max_length_ratio: float = 2.0
    #: ... and how many more.
    max_length_extra: int = 10
    #: Symbols, end not included, that an output has at least.
    min_length: int = 0
    #: Outputs returned for each sentence, best first; at most the beam.
    n_best: int = 1
    #: Whether hypotheses carry the attention that wrote them.
    attention: bool = False

    def __post_init__(self) -> None:
        """Refuse a search that cannot be done."""
        if self.beam < 1:
            raise ModelError(f"beam is {self.beam}; it must be at least 1")
        if not 1 <= self.n_best <= self.beam:
            raise ModelError(f"n_best is {self.n_best}; it must lie between 1 and beam {self.beam}")
        if self.length_normalisation < 0:
            raise ModelError("length_normalisation must not be negative")
        if self.max_length_ratio < 0 or self.max_length_extra < 1:
            raise ModelError("max_length_ratio must be at least 0 and max_length_extra at least 1")

    def limits(self, lengths: Tensor) -> Tensor:
        """Return the longest allowed output of each input, end included, (B,)."""
        limits = (lengths * self.max_length_ratio).floor().long() + self.max_length_extra
        return limits.clamp_min(self.min_length + 1)

    def penalty(self, length: int) -> float:
        """Return what a log-probability is divided by."""
        return float(((5 + length) / 6) ** self.length_normalisation)


@dataclass(frozen=True)
class Hypothesis:
    """Hold one output."""

    #: Its symbols, the end symbol included.
    ids: tuple[int, ...]
    #: Its log-probability over the length penalty.
    score: float
    #: α_ij of its symbols over the input's positions, (len(ids), S) with S the input's own length.
    attention: Tensor | None = None


def search(decoder: StepDecoder, lengths: Tensor, how: Search) -> list[list[Hypothesis]]:
    """Return the n best outputs of each sentence, best first; `lengths` (B,) are the inputs'.

    Every output ends with the end symbol: at its longest allowed length nothing else may follow.
    """
    if how.beam == 1:
        return [[best] for best in greedy(decoder, lengths, how)]
    return beam_search(decoder, lengths, how)


def _forbid(candidates: Tensor, at: int, limits: Tensor, min_length: int) -> None:
    """Make -inf of candidates (B, k, V), in place, where symbol number `at` (from 0) may not be."""
    candidates[..., list(_NEVER)] = -math.inf
    if at < min_length:
        candidates[..., EOS] = -math.inf
    last = limits == at + 1
    if bool(last.any()):
        end = candidates[last, :, EOS]
        candidates[last] = -math.inf
        candidates[last, :, EOS] = end


@torch.no_grad()
def greedy(decoder: StepDecoder, lengths: Tensor, how: Search) -> list[Hypothesis]:
    """Follow the most probable symbol at each step."""
    limits, rows = how.limits(lengths), torch.arange(len(lengths), device=lengths.device)
    written = torch.full((len(rows), int(limits.max())), PAD, device=rows.device)
    symbols, state = torch.full_like(rows, BOS), decoder.start()
    finals = state.new_zeros(len(rows))
    totals = finals
    for at in range(written.shape[1]):
        log_probs, state = decoder.step(symbols, state)
        candidates = totals[:, None, None] + log_probs[:, None]
        _forbid(candidates, at, limits, how.min_length)
        totals, symbols = candidates[:, 0].max(dim=-1)
        written[rows, at], finals[rows] = symbols, totals
        going = (symbols != EOS).nonzero().squeeze(1)
        if len(going) < len(rows):
            if not len(going):
                break
            rows, limits, totals = rows[going], limits[going], totals[going]
            symbols, state, decoder = symbols[going], state[going], decoder.keep(going)
    return [
        _hypothesis(ids, total, how)
        for ids, total in zip(written.tolist(), finals.tolist(), strict=True)
    ]


def _hypothesis(ids: list[int], total: float, how: Search) -> Hypothesis:
    symbols = tuple(ids[: ids.index(EOS) + 1])
    return Hypothesis(symbols, total / how.penalty(len(symbols)))


@dataclass(frozen=True)
class _Beam:
    """All prefixes of the sentences still searched, and the outputs found for them."""

    #: Which sentences of the batch these are, (B,).
    sentences: Tensor
    #: Longest allowed output, (B,).
    limits: Tensor
    #: Symbols so far, (B, k, L).
    prefixes: Tensor
    #: Their log-probabilities, -inf where there is no such prefix, (B, k).
    totals: Tensor
    #: Outputs found, best first, (B, n, L), and their scores, -inf where none, (B, n).
    found: Tensor
    scores: Tensor

    @classmethod
    def start(cls, limits: Tensor, how: Search, dtype: torch.dtype) -> "_Beam":
        size, device = len(limits), limits.device
        totals = torch.full((size, how.beam), -math.inf, dtype=dtype, device=device)
        totals[:, 0] = 0.0
        blank = torch.full((size, 1, int(limits.max())), PAD, device=device)
        return cls(
            sentences=torch.arange(size, device=device),
            limits=limits,
            prefixes=blank.repeat(1, how.beam, 1),
            totals=totals,
            found=blank.repeat(1, how.n_best, 1),
            scores=torch.full((size, how.n_best), -math.inf, dtype=dtype, device=device),
        )

    def extend(self, log_probs: Tensor, at: int, how: Search) -> tuple["_Beam", Tensor]:
        """Read log-probabilities (B, k, V); return the next beam, each prefix's parent (B, k).

        An output is found where the end symbol is among the k best continuations. Twice as many
        are looked at: at most k of them end, so that k prefixes are left to go on.
        """
        candidates = self.totals[..., None] + log_probs
        _forbid(candidates, at, self.limits, how.min_length)
        totals, choice = candidates.flatten(1).topk(2 * how.beam, dim=1)
        parent, symbol = choice // log_probs.shape[2], choice % log_probs.shape[2]
        prefixes = _pick(self.prefixes, parent)
        prefixes[..., at] = symbol
        ends = symbol == EOS
        ended = totals.masked_fill(~ends, -math.inf)[:, : how.beam]
        found = self._collect(prefixes[:, : how.beam], ended / how.penalty(at + 1))
        totals, going = totals.masked_fill(ends, -math.inf).topk(how.beam, dim=1)
        extended = replace(found, prefixes=_pick(prefixes, going), totals=totals)
        return extended, parent.gather(1, going)

    def _collect(self, outputs: Tensor, scores: Tensor) -> "_Beam":
        """Take outputs (B, k, L) with scores (B, k), -inf for none, among the best found."""
        best, choice = torch.cat([self.scores, scores], dim=1).topk(self.scores.shape[1], dim=1)
        found = _pick(torch.cat([self.found, outputs], dim=1), choice)
        return replace(self, found=found, scores=best)

    def done(self, how: Search) -> Tensor:
        """Say for which sentences no prefix can still overtake the worst output kept, (B,).

        A log-probability only falls, so that a prefix ends at best with the one it has, over the
        penalty of the longest allowed output.
        """
        penalties = ((5.0 + self.limits) / 6) ** how.length_normalisation
        reachable = self.totals.amax(dim=1) / penalties
        return reachable <= self.scores[:, -1]

    def keep(self, index: Tensor) -> "_Beam":
        return _Beam(**{name: tensor[index] for name, tensor in vars(self).items()})


def _pick(table: Tensor, choice: Tensor) -> Tensor:
    """Return for each sentence the chosen rows (B, m) of a table (B, n, L)."""
    return table.gather(1, choice[..., None].expand(-1, -1, table.shape[2]))


@torch.no_grad()
def beam_search(decoder: StepDecoder, lengths: Tensor, how: Search) -> list[list[Hypothesis]]:
    """Keep the `beam` most probable prefixes of each sentence at every step."""
    results: list[list[Hypothesis]] = [[] for _ in range(len(lengths))]
    state = decoder.start()
    symbols = torch.full((len(lengths),), BOS, device=lengths.device)
    log_probs, state = decoder.step(symbols, state)
    beam = _Beam.start(how.limits(lengths), how, log_probs.dtype)
    log_probs = log_probs.repeat_interleave(how.beam, dim=0)
    state = state.repeat_interleave(how.beam, dim=0)
    for at in range(int(beam.limits.max())):
        if at:
            log_probs, state = decoder.step(beam.prefixes[..., at - 1].flatten(), state)
        beam, parent = beam.extend(log_probs.view(len(beam.sentences), how.beam, -1), at, how)
        state = _pick(state.view(len(parent), how.beam, -1), parent)
        done = beam.done(how)
        if bool(done.any()):
            _report(beam.keep(done), results)
            going = (~done).nonzero().squeeze(1)
            if not len(going):
                break
            beam, state, decoder = beam.keep(going), state[going], decoder.keep(going)
        state = state.flatten(0, 1)
    return results


def _report(beam: _Beam, results: list[list[Hypothesis]]) -> None:
    found, scores = beam.found.tolist(), beam.scores.tolist()
    for sentence, outputs, values in zip(beam.sentences.tolist(), found, scores, strict=True):
        results[sentence] = [
            Hypothesis(tuple(ids[: ids.index(EOS) + 1]), score)
            for ids, score in zip(outputs, values, strict=True)
            if score > -math.inf
        ]
