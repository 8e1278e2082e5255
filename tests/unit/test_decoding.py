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
from lightning_modules._decoding import Search, beam_search, greedy, search
from lightning_modules._errors import ModelError

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


def every_output(limit: int, min_length: int = 0) -> list[tuple[int, ...]]:
    return [
        (*inner, EOS)
        for length in range(min_length, limit)
        for inner in itertools.product(INNER, repeat=length)
    ]


@given(
    seed=st.integers(1, 999),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    limit=st.integers(1, 4),
    n_best=st.integers(1, 6),
    min_length=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_a_beam_of_all_continuations_is_exhaustive_search(
    seed: int, alpha: float, limit: int, n_best: int, min_length: int
) -> None:
    how = Search(
        beam=(len(INNER) + 1) * len(INNER) ** 2,
        n_best=n_best,
        length_normalisation=alpha,
        max_length_ratio=0.0,
        max_length_extra=limit,
        min_length=min_length,
    )
    outputs = every_output(max(limit, min_length + 1), min_length)
    scores = {ids: log_probability(seed, ids) / how.penalty(len(ids)) for ids in outputs}
    expected = sorted(scores, key=lambda ids: -scores[ids])[:n_best]
    (found,) = beam_search(Chain(torch.tensor([seed])), torch.tensor([3]), how)
    assert [hypothesis.ids for hypothesis in found] == expected
    assert [h.score for h in found] == pytest.approx([scores[ids] for ids in expected], abs=1e-9)


seeds = st.lists(st.integers(1, 999), min_size=1, max_size=6)


@given(seeds=seeds, extra=st.integers(1, 9), min_length=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_beam_of_one_is_greedy(seeds: list[int], extra: int, min_length: int) -> None:
    how = Search(length_normalisation=0.0, max_length_extra=extra, min_length=min_length)
    lengths = torch.arange(1, len(seeds) + 1)
    narrow = beam_search(Chain(torch.tensor(seeds)), lengths, how)
    best = greedy(Chain(torch.tensor(seeds)), lengths, how)
    assert narrow == [[hypothesis] for hypothesis in best]
    assert search(Chain(torch.tensor(seeds)), lengths, how) == narrow


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
    ],
)
def test_refuses_a_search_that_cannot_be_done(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Search(**options)
