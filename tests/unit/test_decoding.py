"""Search finds what it promises, whatever the batch around a sentence."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules._vocab import BOS, EOS, PAD
from lightning_modules import _decoding
from lightning_modules._decoding import Search, beam_search, greedy, search
from lightning_modules._errors import ModelError
from lightning_modules._largest import largest
from lightning_modules._sampling import Sampling

VOCABULARY = 6
#: What may stand inside an output.
INNER = [symbol for symbol in range(VOCABULARY) if symbol not in {PAD, BOS, EOS}]


@dataclass(frozen=True)
class Chain:
    """A model whose next symbol depends on the whole prefix: the state hashes it, ties are out.

    `seeds` (B,) tells sentences apart; the rows of sentence b read its seed.
    """

    seeds: Tensor
    sharpness: float = 2.0

    def start(self) -> Tensor:
        return self.seeds[:, None].double()

    def step(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        assert len(state) % len(self.seeds) == 0
        state = (state * 7 + symbols[:, None] + 1) % 1009
        waves = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
        return torch.log_softmax(self.sharpness * torch.sin((state + 0.3) * waves), dim=-1), state

    def keep(self, index: Tensor) -> "Chain":
        return Chain(self.seeds[index], self.sharpness)


def log_probability(seed: int, ids: tuple[int, ...], sharpness: float = 2.0) -> float:
    """Score an output symbol by symbol, in plain Python."""
    state, total, previous = seed, 0.0, BOS
    for symbol in ids:
        state = (state * 7 + previous + 1) % 1009
        energies = [
            math.exp(sharpness * math.sin((state + 0.3) * n)) for n in range(1, VOCABULARY + 1)
        ]
        total += math.log(energies[symbol] / sum(energies))
        previous = symbol
    return total


def every_output(limit: int, min_length: int = 0, ngram: int = 0) -> list[tuple[int, ...]]:
    return [
        (*inner, EOS)
        for length in range(min_length, limit)
        for inner in itertools.product(INNER, repeat=length)
        if not repeats(inner, ngram)
    ]


def repeats(ids: tuple[int, ...], size: int) -> bool:
    grams = [ids[at : at + size] for at in range(len(ids) - size + 1)] if size else []
    return len(set(grams)) < len(grams)


@pytest.mark.parametrize("together", [1, 3])
def test_sentences_that_are_searched_apart_find_the_same(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them have room in the cache."""
    how = Search(beam=3, n_best=2, max_length_extra=6)
    chain, lengths = Chain(torch.tensor([3, 14, 15, 92, 65])), torch.tensor([3, 2, 5, 1, 4])
    expected = beam_search(chain, lengths, how)
    monkeypatch.setattr(_decoding, "_CACHED_BYTES", together * 3 * VOCABULARY * 8)
    apart = beam_search(chain, lengths, how)
    assert [[each.ids for each in found] for found in apart] == [
        [each.ids for each in found] for found in expected
    ]


@given(
    seed=st.integers(1, 999),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limit=st.integers(1, 4),
    n_best=st.integers(1, 6),
    min_length=st.integers(0, 2),
    ngram=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_beam_of_all_continuations_is_exhaustive_search(
    seed: int, alpha: float, limit: int, n_best: int, min_length: int, ngram: int
) -> None:
    how = Search(
        beam=(len(INNER) + 1) * len(INNER) ** 2,
        n_best=n_best,
        length_normalisation=alpha,
        max_length_ratio=0.0,
        max_length_extra=limit,
        min_length=min_length,
        no_repeat_ngram=ngram,
    )
    outputs = every_output(max(limit, min_length + 1), min_length, ngram)
    scores = {ids: log_probability(seed, ids) / how.penalty(len(ids)) for ids in outputs}
    expected = sorted(scores, key=lambda ids: -scores[ids])[:n_best]
    (found,) = beam_search(Chain(torch.tensor([seed])), torch.tensor([3]), how)
    assert [hypothesis.ids for hypothesis in found] == expected
    assert [h.score for h in found] == pytest.approx([scores[ids] for ids in expected], abs=1e-9)


@given(seed=st.integers(0, 99), rows=st.integers(1, 3), size=st.integers(12, 700), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_largest_are_those_of_a_sort(
    seed: int, rows: int, size: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, size, generator=generator)
    values[
        torch.rand(rows, size, generator=generator) < data.draw(st.sampled_from([0, 0.9]))
    ] = -math.inf
    found, places = largest(values, count)
    assert torch.equal(found, values.sort(dim=1, descending=True).values[:, :count])
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row)) == count for row in places.tolist())


seeds = st.lists(st.integers(1, 999), min_size=1, max_size=6)


@given(
    seeds=seeds,
    alpha=st.sampled_from([0.0, 1.0]),
    extra=st.integers(1, 9),
    min_length=st.integers(0, 3),
    ngram=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_a_beam_of_one_is_greedy(
    seeds: list[int], alpha: float, extra: int, min_length: int, ngram: int
) -> None:
    how = Search(
        length_normalisation=alpha,
        max_length_extra=extra,
        min_length=min_length,
        no_repeat_ngram=ngram,
    )
    lengths = torch.arange(1, len(seeds) + 1)
    narrow = beam_search(Chain(torch.tensor(seeds)), lengths, how)
    best = greedy(Chain(torch.tensor(seeds)), lengths, how)
    for (ours,), theirs in zip(narrow, best, strict=True):
        assert ours.ids == theirs.ids
        assert ours.score == pytest.approx(theirs.score)
    assert search(Chain(torch.tensor(seeds)), lengths, how) == [[each] for each in best]


@given(seeds=seeds, beam=st.integers(1, 4), alpha=st.sampled_from([0.0, 1.0]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_neighbours_change_nothing(
    seeds: list[int], beam: int, alpha: float, data: st.DataObject
) -> None:
    how = Search(beam=beam, length_normalisation=alpha, max_length_ratio=1.0, max_length_extra=2)
    lengths = [data.draw(st.integers(1, 9)) for _ in seeds]
    together = search(Chain(torch.tensor(seeds)), torch.tensor(lengths), how)
    for seed, length, hypotheses in zip(seeds, lengths, together, strict=True):
        (alone,) = search(Chain(torch.tensor([seed])), torch.tensor([length]), how)
        assert [h.ids for h in alone] == [h.ids for h in hypotheses]
        assert [h.score for h in alone] == pytest.approx([h.score for h in hypotheses])


@given(seeds=seeds, beam=st.integers(1, 5), min_length=st.integers(0, 4), data=st.data())
@settings(max_examples=40, deadline=None)
def test_outputs_are_well_formed_and_scores_are_theirs(
    seeds: list[int], beam: int, min_length: int, data: st.DataObject
) -> None:
    n_best = data.draw(st.integers(1, beam))
    how = Search(
        beam=beam, n_best=n_best, min_length=min_length, max_length_ratio=1.5, max_length_extra=1
    )
    lengths = torch.tensor([data.draw(st.integers(1, 6)) for _ in seeds])
    results = search(Chain(torch.tensor(seeds)), lengths, how)
    for seed, length, hypotheses in zip(seeds, lengths.tolist(), results, strict=True):
        limit = max(math.floor(1.5 * length) + 1, min_length + 1)
        assert 1 <= len(hypotheses) <= n_best
        assert len({h.ids for h in hypotheses}) == len(hypotheses)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            assert min_length < len(hypothesis.ids) <= limit
            assert hypothesis.ids.index(EOS) == len(hypothesis.ids) - 1
            assert not {PAD, BOS} & set(hypothesis.ids)
            expected = log_probability(seed, hypothesis.ids) / how.penalty(len(hypothesis.ids))
            assert hypothesis.score == pytest.approx(expected, abs=1e-9)


def test_length_normalisation_prefers_longer_outputs() -> None:
    lengths = []
    for alpha in (0.0, 1.0, 3.0):
        how = Search(beam=36, length_normalisation=alpha, max_length_ratio=0, max_length_extra=4)
        found = [h[0] for h in search(Chain(torch.arange(1, 40)), torch.ones(39).long(), how)]
        lengths.append(sum(len(h.ids) for h in found))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_a_beam_can_beat_greedy() -> None:
    how = Search(length_normalisation=0.0, max_length_ratio=0.0, max_length_extra=4)
    wide = replace(how, beam=36)
    numbers = torch.arange(1, 60)
    pairs = zip(
        search(Chain(numbers), torch.ones(59).long(), how),
        search(Chain(numbers), torch.ones(59).long(), wide),
        strict=True,
    )
    gains = [wider[0].score - narrow[0].score for narrow, wider in pairs]
    assert min(gains) >= -1e-9
    assert max(gains) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"beam": 2, "n_best": 3}, "between 1 and beam 2"),
        ({"n_best": 0}, "between 1 and beam 1"),
        ({"length_normalisation": -1.0}, "must not be negative"),
        ({"max_length_extra": 0}, "max_length_extra at least 1"),
        ({"coverage_penalty": -0.1}, "coverage_penalty must not be negative"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must not be negative"),
        ({"min_length": 5, "max_length": 4}, "max_length is 4; .* min_length 5"),
        ({"max_length": 0}, "max_length is 0"),
        ({"beam": 2, "sampling": Sampling()}, "outputs that are drawn need no beam"),
    ],
)
def test_refuses_a_search_that_cannot_be_done(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Search(**options)


@pytest.mark.parametrize("beam", [1, 3])
def test_an_output_ends_early_where_no_symbol_is_left(beam: int) -> None:
    how = Search(beam=beam, no_repeat_ngram=1, min_length=8)
    for best, *_ in search(Chain(torch.arange(1, 20)), torch.full((19,), 9), how):
        assert sorted(best.ids) == sorted([*INNER, EOS])


@pytest.mark.parametrize("beam", [1, 4])
def test_a_longest_output_may_be_said_outright(beam: int) -> None:
    how = Search(beam=beam, max_length=3, min_length=2)
    found = search(Chain(torch.arange(1, 30)), torch.full((29,), 50), how)
    assert {len(hypotheses[0].ids) for hypotheses in found} == {3, 4}


@dataclass(frozen=True)
class Looking(Chain):
    """A chain that attends: where it looks is decided by its state. One position is padding."""

    positions: int = 3

    def attend(self, symbols: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, state = self.step(symbols, state)
        places = torch.arange(1, self.positions + 1)
        waves = torch.sin((state + 0.7) * places).masked_fill(places == self.positions, -math.inf)
        return log_probs, state, torch.softmax(3 * waves, dim=-1)

    def present(self) -> Tensor:
        return (torch.arange(1, self.positions + 1) < self.positions).expand(len(self.seeds), -1)

    def keep(self, index: Tensor) -> "Looking":
        return Looking(self.seeds[index], self.sharpness, self.positions)


def coverage(seed: int, ids: tuple[int, ...], positions: int) -> float:
    """Return Σ_j log min(Σ_i α_ij, 1), in plain Python."""
    state, previous, sums = seed, BOS, [0.0] * (positions - 1)
    for symbol in ids:
        state = (state * 7 + previous + 1) % 1009
        energies = [math.exp(3 * math.sin((state + 0.7) * n)) for n in range(1, positions)]
        sums = [s + e / sum(energies) for s, e in zip(sums, energies, strict=True)]
        previous = symbol
    return sum(math.log(min(each, 1.0)) for each in sums)


@given(
    seed=st.integers(1, 999), alpha=st.sampled_from([0.0, 1.0]), beta=st.sampled_from([0.2, 2.0])
)
@settings(max_examples=30, deadline=None)
def test_search_with_coverage_is_exhaustive_too(seed: int, alpha: float, beta: float) -> None:
    how = Search(
        beam=36,
        n_best=4,
        length_normalisation=alpha,
        coverage_penalty=beta,
        max_length=3,
    )
    scores = {
        ids: log_probability(seed, ids) / how.penalty(len(ids)) + beta * coverage(seed, ids, 4)
        for ids in every_output(4)
    }
    expected = sorted(scores, key=lambda ids: -scores[ids])[:4]
    seeds = torch.tensor([5, seed])
    _, found = search(Looking(seeds, positions=4), torch.tensor([3, 3]), how)
    assert [hypothesis.ids for hypothesis in found] == expected
    assert [h.score for h in found] == pytest.approx([scores[ids] for ids in expected], abs=1e-9)


@pytest.mark.parametrize("sampling", [None, Sampling(seed=4)])
def test_what_was_covered_counts_without_a_beam(sampling: Sampling | None) -> None:
    how = Search(coverage_penalty=0.5, sampling=sampling)
    found = search(Looking(torch.arange(1, 20)), torch.full((19,), 3), how)
    for seed, (best,) in enumerate(found, start=1):
        own = log_probability(seed, best.ids) / how.penalty(len(best.ids))
        assert best.score == pytest.approx(own + 0.5 * coverage(seed, best.ids, 3), abs=1e-9)


def test_coverage_needs_a_model_that_attends() -> None:
    with pytest.raises(ModelError, match="does not attend: leave out coverage_penalty"):
        search(Chain(torch.tensor([1])), torch.tensor([3]), Search(coverage_penalty=0.1))


def draw(seeds: list[int], how: Search, rows: list[int] | None = None) -> list[list[tuple]]:
    numbers = None if rows is None else torch.tensor(rows)
    lengths = torch.full((len(seeds),), 3)
    found = search(Chain(torch.tensor(seeds), sharpness=1.0), lengths, how, numbers)
    return [[(h.ids, round(h.score, 9)) for h in hypotheses] for hypotheses in found]


@given(
    inputs=st.lists(
        st.tuples(st.integers(1, 999), st.integers(-1, 99)), min_size=1, max_size=5, unique=True
    ),
    n_best=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_what_is_drawn_depends_on_seed_and_row_alone(
    inputs: list[tuple[int, int]], n_best: int, seed: int
) -> None:
    how = Search(n_best=n_best, sampling=Sampling(temperature=1.3, seed=seed))
    seeds, rows = (list(each) for each in zip(*inputs, strict=True))
    together = draw(seeds, how, rows)
    assert draw(seeds, how, rows) == together
    for number, row, drawn in zip(seeds, rows, together, strict=True):
        assert len(drawn) == n_best
        assert [score for _, score in drawn] == sorted((s for _, s in drawn), reverse=True)
        assert draw([number], how, [row]) == [drawn]
        for ids, score in drawn:
            own = log_probability(number, ids, 1.0) / how.penalty(len(ids))
            assert score == pytest.approx(own, abs=1e-8)


def test_another_seed_and_another_row_draw_otherwise() -> None:
    how = Search(n_best=20, sampling=Sampling(seed=1), max_length=5)
    (first, second) = draw([7, 7], how)
    (other,) = draw([7], replace(how, sampling=Sampling(seed=2)))
    assert first != second
    assert first != other
    assert len(set(first)) > 5


def test_outputs_come_as_often_as_the_model_says() -> None:
    count = 6000
    how = Search(n_best=count, sampling=Sampling(), max_length=2, no_repeat_ngram=1)
    (drawn,) = draw([11], how)
    exact = {}
    for ids in every_output(3, ngram=1):
        # A rule leaves the shares of what remains as they are to each other.
        share = 1.0
        for at, symbol in enumerate(ids):
            left = [s for s in [*INNER, EOS] if s not in ids[:at]] if at < 2 else [EOS]
            whole = sum(math.exp(log_probability(11, (*ids[:at], s), 1.0)) for s in left)
            share *= math.exp(log_probability(11, (*ids[:at], symbol), 1.0)) / whole
        exact[ids] = share
    assert sum(exact.values()) == pytest.approx(1)
    for ids, share in exact.items():
        seen = sum(each == ids for each, _ in drawn) / count
        assert abs(seen - share) < 4 * math.sqrt(share * (1 - share) / count)


@given(
    log_odds=st.lists(
        st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=9, unique=True
    ),
    temperature=st.floats(0.3, 3),
    top_k=st.integers(0, 10),
    top_p=st.floats(0.05, 1),
)
def test_filters_keep_the_most_probable(
    log_odds: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    powers = [math.exp(x / temperature) for x in log_odds]
    order = sorted(range(len(powers)), key=lambda i: -powers[i])[: top_k or None]
    whole, kept, share = sum(powers[i] for i in order), [], 0.0
    for symbol in order:
        if top_p < 1 and share >= top_p:
            break
        kept.append(symbol)
        share += powers[symbol] / whole
    rest = sum(powers[i] for i in kept)
    expected = [power / rest if i in kept else 0.0 for i, power in enumerate(powers)]
    log_probs = torch.log_softmax(torch.tensor([log_odds], dtype=torch.float64), dim=-1)
    found = Sampling(temperature=temperature, top_k=top_k, top_p=top_p).probabilities(log_probs)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_what_has_no_share_is_never_drawn() -> None:
    log_probs = torch.tensor([[-math.inf, 0.0, -math.inf]]).repeat(2, 1)
    chances = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert Sampling().draw(log_probs, chances).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": -1}, "must not be negative"),
    ],
)
def test_refuses_what_is_no_distribution(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Sampling(**options)


def test_a_search_that_must_find_more_gets_wider_or_draws_more():
    assert Search().at_least(1) == Search()
    assert Search().at_least(3) == Search(beam=3, n_best=3)
    assert Search(beam=9).at_least(3) == Search(beam=9, n_best=3)
    assert Search(beam=5, n_best=5).at_least(3) == Search(beam=5, n_best=5)
    drawn = Search(sampling=Sampling(), n_best=2)
    assert drawn.at_least(4) == replace(drawn, n_best=4)
