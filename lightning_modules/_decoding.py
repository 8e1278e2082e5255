"""Search for the best output of a model that writes one symbol at a time.

Shapes: B sentences still searched, k beam, N = B * k rows (sentence by sentence), V symbols, W
width of a state, L longest allowed output.

A model takes part by offering a `StepDecoder`. All sentences of a batch are searched at once; a
sentence that is done leaves, and the others get cheaper; to learn which are is all that the host
waits for in a step. Nothing is left to chance but where `Search.sampling` asks for it, and there a
seed decides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

import torch
from torch import Tensor

from datamodules._vocab import BOS, EOS, PAD
from lightning_modules._coverage import AttendingDecoder, Covered
from lightning_modules._errors import ModelError
from lightning_modules._largest import first_largest, largest
from lightning_modules._rules import forbid
from lightning_modules._sampling import Sampling


class StepDecoder(Protocol):
    """One step of a model over the rows of a batch, and what it knows of the batch's inputs."""

    def start(self) -> Tensor:
        """Return the state before the first symbol, (B, W)."""
        ...

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read symbols (N,), return log-probabilities of the next (N, V) and the state (N, W).

        What is returned belongs to the search, which writes into it.
        """
        ...

    def keep(self, index: Tensor) -> Self:
        """Return the decoder of these sentences alone (index into B, some maybe repeatedly)."""
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
    #: Symbols, end not included, that an output has at most; None: as many as the two above say.
    max_length: int | None = None
    #: Symbols, end not included, that an output has at least, as far as other rules leave any.
    min_length: int = 0
    #: Length of the sequences of symbols that no output holds twice; 0: they may.
    no_repeat_ngram: int = 0
    #: β of Wu et al. 2016, equation 14: scores gain β Σ_j log min(Σ_i α_ij, 1), which is negative.
    coverage_penalty: float = 0.0
    #: How symbols are drawn; None: the most probable outputs are searched for.
    sampling: Sampling | None = None
    #: Outputs returned for each sentence, best first; at most the beam, or as many as drawn.
    n_best: int = 1
    #: Whether hypotheses carry the attention that wrote them.
    attention: bool = False

    def __post_init__(self) -> None:
        """Refuse a search that cannot be done."""
        if self.beam < 1:
            raise ModelError(f"beam is {self.beam}; it must be at least 1")
        if self.sampling and self.beam > 1:
            raise ModelError(f"beam is {self.beam}; outputs that are drawn need no beam")
        if self.n_best < 1 or (self.n_best > self.beam and not self.sampling):
            raise ModelError(f"n_best is {self.n_best}; it must lie between 1 and beam {self.beam}")
        for name in ("length_normalisation", "coverage_penalty", "no_repeat_ngram", "min_length"):
            if getattr(self, name) < 0:
                raise ModelError(f"{name} must not be negative")
        if self.max_length_ratio < 0 or self.max_length_extra < 1:
            raise ModelError("max_length_ratio must be at least 0 and max_length_extra at least 1")
        if self.max_length is not None and self.max_length < max(1, self.min_length):
            raise ModelError(
                f"max_length is {self.max_length}; it must be at least 1 and min_length "
                f"{self.min_length}"
            )

    def at_least(self, count: int) -> "Search":
        """Return the search that finds so many outputs of each input, or more as it is."""
        if self.n_best >= count:
            return self
        beam = self.beam if self.sampling else max(self.beam, count)
        return replace(self, n_best=count, beam=beam)

    def limits(self, lengths: Tensor) -> Tensor:
        """Return the longest allowed output of each input, end included, (B,)."""
        if self.max_length is not None:
            return torch.full_like(lengths, self.max_length + 1)
        limits = (lengths * self.max_length_ratio).floor().long() + self.max_length_extra
        return limits.clamp_min(self.min_length + 1)

    def penalty(self, length: int) -> float:
        """Return what a log-probability is divided by."""
        return float(((5 + length) / 6) ** self.length_normalisation)

    def forbid(self, candidates: Tensor, written: Tensor, limits: Sequence[int]) -> None:
        """Make -inf of candidates (B, k, V), in place, what may not follow prefixes (B, k, L)."""
        forbid(
            candidates,
            written,
            limits,
            min_length=self.min_length,
            no_repeat_ngram=self.no_repeat_ngram,
        )


@dataclass(frozen=True)
class Hypothesis:
    """Hold one output."""

    #: Its symbols, the end symbol included.
    ids: tuple[int, ...]
    #: Its log-probability over the length penalty, and the coverage penalty where one is asked.
    score: float
    #: α_ij of its symbols over the input's positions, (len(ids), S) with S the input's own length.
    attention: Tensor | None = None


def search(
    decoder: StepDecoder, lengths: Tensor, how: Search, rows: Tensor | None = None
) -> list[list[Hypothesis]]:
    """Return the n best outputs of each sentence, best first; `lengths` (B,) are the inputs'.

    Every output ends with the end symbol: at its longest allowed length nothing else may follow.
    `rows` (B,) numbers the inputs, so that what is drawn for one is always the same.
    """
    if how.coverage_penalty:
        if not isinstance(decoder, AttendingDecoder):
            raise ModelError("this topology does not attend: leave out coverage_penalty")
        decoder = Covered(decoder)
    if how.sampling:
        return sample(decoder, lengths, how, rows)
    if how.beam == 1:
        return [[best] for best in greedy(decoder, lengths, how)]
    return beam_search(decoder, lengths, how)


def _coverage(decoder: StepDecoder, state: Tensor, how: Search) -> Tensor:
    """Return what coverage adds to the scores of rows with this state (N, W), (N,)."""
    if not isinstance(decoder, Covered):
        return state.new_zeros(len(state))
    return how.coverage_penalty * decoder.coverage(state)


#: symbols = choose(log-probabilities of what may follow (N, V), rows (N,), number of the symbol).
_Choose = Callable[[Tensor, Tensor, int], Tensor]


def greedy(decoder: StepDecoder, lengths: Tensor, how: Search) -> list[Hypothesis]:
    """Follow the most probable symbol at each step."""
    return _follow(decoder, how.limits(lengths), how, lambda allowed, *_: first_largest(allowed)[1])


def sample(
    decoder: StepDecoder, lengths: Tensor, how: Search, rows: Tensor | None = None
) -> list[list[Hypothesis]]:
    """Draw `n_best` outputs of each sentence, independently; the most probable comes first."""
    sampling, count = how.sampling or Sampling(), how.n_best
    numbers = list(range(len(lengths))) if rows is None else rows.tolist()
    copies = torch.arange(len(numbers), device=lengths.device).repeat_interleave(count)
    limits = how.limits(lengths)[copies]
    pairs = [(number, copy) for number in numbers for copy in range(count)]
    chances = sampling.chances(pairs, int(limits.max())).to(lengths.device)

    def choose(allowed: Tensor, going: Tensor, at: int) -> Tensor:
        return sampling.draw(allowed, chances[going, at])

    found = _follow(decoder.keep(copies), limits, how, choose)
    return [
        sorted(found[at : at + count], key=lambda drawn: -drawn.score)
        for at in range(0, len(found), count)
    ]


@torch.no_grad()
def _follow(decoder: StepDecoder, limits: Tensor, how: Search, choose: _Choose) -> list[Hypothesis]:
    """Write one output for each sentence, symbol by symbol as chosen."""
    rows, longest = torch.arange(len(limits), device=limits.device), limits.tolist()
    written = torch.full((len(rows), max(longest)), PAD, device=rows.device)
    symbols, state = torch.full_like(rows, BOS), decoder.start()
    finals, covered = state.new_zeros(len(rows)), state.new_zeros(len(rows))
    totals = finals
    for at in range(written.shape[1]):
        log_probs, state = decoder.step(symbols, state)
        how.forbid(log_probs[:, None], written[rows, None, :at], longest)
        symbols = choose(log_probs, rows, at)
        totals = totals + log_probs.gather(1, symbols[:, None]).squeeze(1)
        written[rows, at], finals[rows] = symbols, totals
        covered[rows] = _coverage(decoder, state, how)
        left, going = _rows([symbol != EOS for symbol in symbols.tolist()], rows)
        if len(left) < len(longest):
            if not left:
                break
            longest = [longest[row] for row in left]
            rows, totals, symbols = rows[going], totals[going], symbols[going]
            state, decoder = state[going], decoder.keep(going)
    return [
        _hypothesis(ids, total, bonus, how)
        for ids, total, bonus in zip(
            written.tolist(), finals.tolist(), covered.tolist(), strict=True
        )
    ]


def _hypothesis(ids: list[int], total: float, covered: float, how: Search) -> Hypothesis:
    symbols = tuple(ids[: ids.index(EOS) + 1])
    return Hypothesis(symbols, total / how.penalty(len(symbols)) + covered)


@dataclass(frozen=True)
class _Beam:
    """All prefixes of the sentences still searched, and the outputs found for them."""

    #: Which sentences of the batch these are, and the longest allowed output of each.
    sentences: Sequence[int]
    limits: Sequence[int]
    #: What the score of an output of that length is divided by, (B,).
    penalties: Tensor
    #: Symbols so far, (B, k, L).
    prefixes: Tensor
    #: Their log-probabilities, -inf where there is no such prefix, (B, k).
    totals: Tensor
    #: Outputs found, best first, (B, n, L), and their scores, -inf where none, (B, n).
    found: Tensor
    scores: Tensor
    #: How many outputs have ended among the k best continuations of a step, (B,).
    ended: Tensor

    @classmethod
    def start(cls, limits: Sequence[int], how: Search, like: Tensor) -> "_Beam":
        """Return beams of one prefix, without a symbol; numbers in the dtype of `like`."""
        size = len(limits)
        totals = like.new_full((size, how.beam), -math.inf)
        totals[:, 0] = 0.0
        blank = torch.full((size, 1, max(limits)), PAD, device=like.device)
        return cls(
            sentences=range(size),
            limits=limits,
            penalties=like.new_tensor([how.penalty(limit) for limit in limits]),
            prefixes=blank.repeat(1, how.beam, 1),
            totals=totals,
            found=blank.repeat(1, how.n_best, 1),
            scores=like.new_full((size, how.n_best), -math.inf),
            ended=like.new_zeros(size),
        )

    def extend(
        self, log_probs: Tensor, covered: Tensor, at: int, how: Search
    ) -> tuple["_Beam", Tensor]:
        """Use up log-probabilities (B, k, V); return the next beam, each prefix's parent (B, k).

        `covered` (B, k) is what coverage adds to the score of an output that ends here.

        An output is found where the end symbol is among the k best continuations. Twice as many
        are looked at: at most k of them end, so that k prefixes are left to go on.
        """
        candidates = log_probs.add_(self.totals[..., None])
        how.forbid(candidates, self.prefixes[..., :at], self.limits)
        totals, choice = largest(candidates.flatten(1), 2 * how.beam)
        parent, symbol = choice // log_probs.shape[2], choice % log_probs.shape[2]
        prefixes = _pick(self.prefixes, parent)
        prefixes[..., at] = symbol
        ends = symbol == EOS
        ended = totals.masked_fill(~ends, -math.inf)[:, : how.beam]
        scores = ended / how.penalty(at + 1) + covered.gather(1, parent[:, : how.beam])
        found = self._collect(prefixes[:, : how.beam], scores)
        totals, going = totals.masked_fill(ends, -math.inf).topk(how.beam, dim=1)
        extended = replace(found, prefixes=_pick(prefixes, going), totals=totals)
        return extended, parent.gather(1, going)

    def _collect(self, outputs: Tensor, scores: Tensor) -> "_Beam":
        """Take outputs (B, k, L) with scores (B, k), -inf for none, among the best found."""
        best, choice = torch.cat([self.scores, scores], dim=1).topk(self.scores.shape[1], dim=1)
        found = _pick(torch.cat([self.found, outputs], dim=1), choice)
        ended = self.ended + (scores > -math.inf).sum(dim=1)
        return replace(self, found=found, scores=best, ended=ended)

    def done(self) -> Tensor:
        """Say for which sentences the search is over, (B,).

        That is where as many outputs have ended as the beam is wide (Ott et al. 2019, "fairseq"),
        or no prefix can still overtake the worst output kept: a log-probability only falls, so that
        a prefix ends at best with the one it has, over the penalty of the longest allowed output,
        and with all of its input covered.
        """
        enough = self.ended >= self.totals.shape[1]
        return enough | (self.totals.amax(dim=1) / self.penalties <= self.scores[:, -1])

    def keep(self, rows: Sequence[int], index: Tensor) -> "_Beam":
        """Return the beams of some of the sentences, numbered for the host and for the device."""
        return _Beam(
            sentences=[self.sentences[row] for row in rows],
            limits=[self.limits[row] for row in rows],
            penalties=self.penalties[index],
            prefixes=self.prefixes[index],
            totals=self.totals[index],
            found=self.found[index],
            scores=self.scores[index],
            ended=self.ended[index],
        )


def _pick(table: Tensor, choice: Tensor) -> Tensor:
    """Return for each sentence the chosen rows (B, m) of a table (B, n, L)."""
    firsts = torch.arange(0, table.shape[0] * table.shape[1], table.shape[1], device=table.device)
    rows = (firsts[:, None] + choice).flatten()
    return table.flatten(0, 1).index_select(0, rows).view(*choice.shape, -1)


#: Bytes that the log-probabilities of a step take at most, where that is a choice.
_CACHED_BYTES: Final = 16 << 20


@torch.no_grad()
def beam_search(decoder: StepDecoder, lengths: Tensor, how: Search) -> list[list[Hypothesis]]:
    """Keep the `beam` most probable prefixes of each sentence at every step.

    On CPUs as many sentences go together as have log-probabilities that stay in the cache.
    """
    symbols = torch.full((len(lengths),), BOS, device=lengths.device)
    log_probs, state = decoder.step(symbols, decoder.start())
    together = len(lengths)
    if not lengths.is_cuda:
        a_sentence = how.beam * log_probs[:1].numel() * log_probs.element_size()
        together = max(1, _CACHED_BYTES // max(1, a_sentence))
    if len(lengths) <= together:
        return _beam_search(decoder, lengths, how, log_probs, state)
    return [
        found
        for rows in torch.split(torch.arange(len(lengths), device=lengths.device), together)
        for found in _beam_search(
            decoder.keep(rows), lengths[rows], how, log_probs[rows], state[rows]
        )
    ]


def _beam_search(
    decoder: StepDecoder, lengths: Tensor, how: Search, log_probs: Tensor, state: Tensor
) -> list[list[Hypothesis]]:
    """Search on from the first step's log-probabilities (B, V) and state (B, W)."""
    results: list[list[Hypothesis]] = [[] for _ in range(len(lengths))]
    beam = _Beam.start(how.limits(lengths).tolist(), how, log_probs)
    log_probs = log_probs.repeat_interleave(how.beam, dim=0)
    state = state.repeat_interleave(how.beam, dim=0)
    for at in range(max(beam.limits)):
        if at:
            log_probs, state = decoder.step(beam.prefixes[..., at - 1].flatten(), state)
        covered = _coverage(decoder, state, how).view(-1, how.beam)
        beam, parent = beam.extend(log_probs.view(*covered.shape, -1), covered, at, how)
        state = _pick(state.view(len(parent), how.beam, -1), parent)
        done = beam.done().tolist()
        if any(done):
            _report(beam.keep(*_rows(done, lengths)), results)
            if all(done):
                break
            rows, going = _rows([not each for each in done], lengths)
            beam, state, decoder = beam.keep(rows, going), state[going], decoder.keep(going)
        state = state.flatten(0, 1)
    return results


def _rows(wanted: Sequence[bool], like: Tensor) -> tuple[list[int], Tensor]:
    """Return the numbers of the wanted rows, on the host and on the device of `like`."""
    rows = [row for row, each in enumerate(wanted) if each]
    return rows, torch.tensor(rows, device=like.device)


def _report(beam: _Beam, results: list[list[Hypothesis]]) -> None:
    found, scores = beam.found.tolist(), beam.scores.tolist()
    for sentence, outputs, values in zip(beam.sentences, found, scores, strict=True):
        results[sentence] = [
            Hypothesis(tuple(ids[: ids.index(EOS) + 1]), score)
            for ids, score in zip(outputs, values, strict=True)
            if score > -math.inf
        ]
