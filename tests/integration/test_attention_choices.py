"""Several looks in a step, coverage, copying and frames are their equations, in every wiring."""

import itertools
import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules._batch import Batch
from datamodules._vocab import BOS, EOS, PAD, SPECIALS
from lightning_modules._cells import CellName
from lightning_modules._copying import Sources
from lightning_modules._decoding import Search
from lightning_modules._errors import ModelError
from lightning_modules._orders import OrderName
from lightning_modules._sampling import Sampling
from lightning_modules._scores import ScoreName
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder

CELLS_BY_TURN: list[CellName] = ["rnn", "gru", "lstm"]
WIRINGS = list(itertools.product(get_args(ScoreName), get_args(OrderName)))
CHOICES: list[dict[str, Any]] = [
    {"hops": 3},
    {"coverage": True, "coverage_weight": 0.7},
    {"copy": True},
    {"hops": 2, "coverage": True, "copy": True},
]
#: Every wiring with every choice, the cells in turn.
ALL = [
    (CELLS_BY_TURN[at % 3], *wiring, choice)
    for at, (wiring, choice) in enumerate(itertools.product(WIRINGS, CHOICES))
]
#: Every choice with some of the wirings.
SOME = [ALL[at] for at in (0, 5, 15, 18, 22, 31, 33, 36)]
Way = tuple[CellName, str, str, dict[str, Any]]
every_way = pytest.mark.parametrize("way", ALL, ids=str)
some_ways = pytest.mark.parametrize("way", SOME, ids=str)

SYMBOLS, FEATURES, WIDTH = 9, 3, 5


def build(
    cell: CellName, score: str, order: str, choice: dict[str, Any], **more: Any
) -> AttentionEncoderDecoder:
    """Return a small model in float64 whose weights are all far from their first values."""
    torch.manual_seed(17)
    params = {
        "hidden_size": 3,
        "embedding_size": 4,
        "cell": cell,
        "score": score,
        "order": order,
        "bidirectional": score != "dot",
        "attention_size": None if score in {"dot", "general"} else WIDTH,
        **({"location_filters": 2, "location_reach": 1} if score == "location" else {}),
        "source_vocabulary_size": SYMBOLS,
        "target_vocabulary_size": SYMBOLS,
        "shared_vocabulary": True,
    }
    model = AttentionEncoderDecoder(**{**params, **choice, **more}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(rows: list[list[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    tensors = [torch.tensor(row + [PAD] * extra) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return pad_sequence(tensors, batch_first=True, padding_value=PAD), lengths


def make_batch(sources: list[list[int]], targets: list[list[int]], extra: int = 0) -> Batch:
    """Return the padded batch of these ids, with `extra` more positions of padding."""
    index = torch.arange(len(sources))
    return Batch(*padded(sources, extra), *padded(targets, extra), extras={"index": index})


SOURCES = [[4, 5, 6, 4, EOS], [8, 8, EOS]]
TARGETS = [[4, 6, EOS], [5, 7, 8, 8, EOS]]
EXAMPLE = make_batch(SOURCES, TARGETS)
Row = list[float]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def times(matrix: Tensor, x: Row) -> Row:
    return [dot(row, x) for row in matrix.tolist()]


def plus(*rows: Row) -> Row:
    return [sum(parts) for parts in zip(*rows, strict=True)]


def softmax(x: Row) -> Row:
    total = sum(map(math.exp, x))
    return [math.exp(value) / total for value in x]


class Reference:
    """The decoder of one sentence, one number at a time; the encoder and the cell are the model's.

    Those two are held to their own equations elsewhere.
    """

    def __init__(self, model: AttentionEncoderDecoder, source: list[int]) -> None:
        self.model, self.source, self.params = model, source, model.hparams
        batch = make_batch([source], [[EOS]])
        annotations, last = model.encoder(model.inputs(batch), batch.lengths)
        self.annotations: list[Row] = annotations[0].tolist()
        self.state = torch.tanh(model.first_state(model.encoder.top(last)))
        self.fed = [0.0] * 3
        self.newest = [1.0, *[0.0] * (len(source) - 1)]
        self.covered = [0.0] * len(source)
        self.again = 0.0

    def key(self, at: int) -> Row:
        score, h = self.model.score, self.annotations[at]
        own = h if self.params["score"] == "dot" else times(score.key.weight, h)
        if score.covering is None:
            return own
        return plus(own, [w * self.covered[at] for w in score.covering.tolist()])

    def energy(self, query: Row, at: int) -> float:
        score = self.model.score
        match self.params["score"]:
            case "dot" | "general":
                return dot(query, self.key(at))
            case "scaled_dot":
                return dot(times(score.state.weight, query), self.key(at)) / math.sqrt(WIDTH)
        inner = plus(times(score.query.weight, query), self.key(at), score.key.bias.tolist())
        if self.params["score"] == "location":
            inner = plus(inner, self.located(at))
        return dot(score.vector.tolist(), [math.tanh(x) for x in inner])

    def located(self, at: int) -> Row:
        weights = [0.0, *self.newest, 0.0]
        seen = [dot(taps, weights[at : at + 3]) for (taps,) in self.model.score.filters.tolist()]
        return times(self.model.score.feature.weight, seen)

    def attend(self, query: Row) -> tuple[Row, Row]:
        alphas, context = self.look(query)
        for _ in range(self.params["hops"] - 1):
            query = plus(query, times(self.model.order.hops.weight, context))
            alphas, context = self.look(query)
        self.again = sum(map(min, alphas, self.covered))
        self.newest, self.covered = alphas, plus(self.covered, alphas)
        return alphas, context

    def look(self, query: Row) -> tuple[Row, Row]:
        alphas = softmax([self.energy(query, at) for at in range(len(self.source))])
        return alphas, [dot(alphas, list(column)) for column in zip(*self.annotations, strict=True)]

    def step(self, symbol: int) -> tuple[Row, Row]:
        """Return p of every next symbol, and α."""
        model, y = self.model, self.model.target_embedding.weight[symbol].tolist()
        drive = plus(times(model.drive.weight, y), model.drive.bias.tolist())
        if self.params["order"] == "before":
            alphas, context = self.attend(self.state[0, :3].tolist())
            self.move(plus(drive, times(model.order.weight, context)))
        elif self.params["order"] == "unfed":
            self.move(drive)
            alphas, context = self.attend(self.state[0, :3].tolist())
        else:
            self.move(plus(drive, times(model.order.weight, self.fed)))
            alphas, context = self.attend(self.state[0, :3].tolist())
            both = context + self.state[0, :3].tolist()
            combine = model.order.combine
            sums = plus(times(combine.weight, both), combine.bias.tolist())
            self.fed = [math.tanh(x) for x in sums]
        features = self.state[0, :3].tolist() + y + context
        return self.symbols(features, alphas), alphas

    def move(self, drive: Row) -> None:
        inputs = torch.tensor([drive], dtype=torch.float64)
        self.state = self.model.cell.bind(torch.float64)(inputs, self.state)

    def symbols(self, features: Row, alphas: Row) -> Row:
        model = self.model
        sums = plus(times(model.readout.weight, features), model.readout.bias.tolist())
        hidden = [math.tanh(x) for x in sums]
        own = softmax(plus(times(model.output.weight, hidden), model.output.bias.tolist()))
        if model.pointer is None:
            return own
        gate = times(model.pointer.weight, features)[0] + model.pointer.bias.item()
        p_gen = 1 / (1 + math.exp(-gate))
        copied = [
            sum(alpha for x, alpha in zip(self.source, alphas, strict=True) if x == v)
            for v in range(len(own))
        ]
        return [p_gen * p + (1 - p_gen) * c for p, c in zip(own, copied, strict=True)]


@torch.no_grad()
def reference(
    model: AttentionEncoderDecoder, source: list[int], target: list[int]
) -> tuple[list[Row], list[Row], Row]:
    """Return p, α and Σ_j min(α_ij, C_ij) of each target symbol."""
    decoder, steps, again = Reference(model, source), [], []
    for symbol in [BOS, *target[:-1]]:
        steps.append(decoder.step(symbol))
        again.append(decoder.again)
    probabilities, weights = zip(*steps, strict=True)
    return list(probabilities), list(weights), again


def close(ours: Tensor, expected: list[Any]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ours, wanted, atol=1e-9, rtol=0)


@every_way
def test_forward_and_losses_are_the_equations_number_by_number(way: Way) -> None:
    model, smoothing = build(*way), 0.2
    logs = torch.log_softmax(model(EXAMPLE), dim=-1).split([len(row) for row in TARGETS])
    weights = model.alignment(EXAMPLE)
    loss, *each = model.losses(EXAMPLE, smoothing)
    nll, right = (part.split([len(row) for row in TARGETS]) for part in each)
    choice = way[3]
    price = choice.get("coverage_weight", 1.0) if "coverage" in choice else 0.0
    losses: list[float] = []
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        expected, attention, again = reference(model, source, target)
        close(logs[row].exp(), expected)
        close(weights[row, : len(target), : len(source)], attention)
        costs = [-math.log(p[y]) for p, y in zip(expected, target, strict=True)]
        smooth = [-sum(map(math.log, p)) / len(p) for p in expected]
        close(nll[row], costs)
        parts = zip(costs, smooth, again, strict=True)
        losses += [(1 - smoothing) * a + smoothing * b + price * c for a, b, c in parts]
        chosen = [p.index(max(p)) for p in expected]
        assert right[row].tolist() == [a == b for a, b in zip(chosen, target, strict=True)]
    close(loss, sum(losses) / len(losses))  # type: ignore[arg-type] (a number)


@some_ways
def test_gradients_agree_with_finite_differences(way: Way) -> None:
    model = build(*way, layers=2)
    names, values = zip(*model.named_parameters(), strict=True)

    class Both(torch.nn.Module):
        """What is learned from, and what a search sees."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return model.losses(EXAMPLE, 0.1).mean.tanh() + model(EXAMPLE).tanh().sum()

    both = Both()

    def loss(*parameters: Tensor) -> Tensor:
        bound = {f"model.{name}": p for name, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(both, bound, ())

    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@some_ways
def test_every_parameter_learns(way: Way) -> None:
    model = build(*way, layers=2)
    model.training_step(EXAMPLE, 0)["loss"].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


symbols = st.integers(SPECIALS, SYMBOLS - 1)
pairs = st.lists(
    st.tuples(st.lists(symbols, max_size=5), st.lists(symbols, max_size=4)), min_size=1, max_size=4
)


@some_ways
@given(pairs=pairs, extra=st.integers(0, 3), data=st.data())
@settings(max_examples=6, deadline=None)
def test_padding_and_company_change_nothing(
    way: Way,
    pairs: list[tuple[list[int], list[int]]],
    extra: int,
    data: st.DataObject,
) -> None:
    model = build(*way)
    how = Search(beam=3, n_best=2, max_length_ratio=1, max_length_extra=2)
    rows = data.draw(st.permutations(range(len(pairs))))
    sources = [[*pairs[i][0], EOS] for i in rows]
    targets = [[*pairs[i][1], EOS] for i in rows]
    batch = make_batch(sources, targets, extra)
    losses = model.losses(batch, 0.1)
    nlls = losses.nll.split([len(target) for target in targets])
    total = torch.zeros(())
    outputs = model.generate(batch, how)
    for row in range(len(pairs)):
        alone = make_batch([sources[row]], [targets[row]])
        own = model.losses(alone, 0.1)
        torch.testing.assert_close(own.nll, nlls[row])
        total = total + own.mean * len(nlls[row])
        (expected,) = model.generate(alone, how)
        assert [h.ids for h in outputs[row]] == [h.ids for h in expected]
        assert [h.score for h in outputs[row]] == pytest.approx([h.score for h in expected])
    torch.testing.assert_close(losses.mean, total / len(losses.nll))


@some_ways
def test_scores_are_those_of_teacher_forcing(way: Way) -> None:
    model = build(*way, layers=2)
    sources = [*SOURCES, [6, EOS]]
    blank = make_batch(sources, [[EOS]] * 3)
    for how in (
        Search(),
        Search(beam=4, n_best=4, no_repeat_ngram=2),
        Search(beam=3, n_best=2, coverage_penalty=0.4, attention=True),
        Search(n_best=3, sampling=Sampling(top_p=0.9)),
    ):
        for source, hypotheses in zip(sources, model.generate(blank, how), strict=True):
            forced = make_batch([source] * len(hypotheses), [list(h.ids) for h in hypotheses])
            log_probs = torch.log_softmax(model(forced), dim=-1)
            rows = log_probs.split([len(h.ids) for h in hypotheses])
            for hypothesis, row in zip(hypotheses, rows, strict=True):
                total = row.gather(1, torch.tensor(hypothesis.ids)[:, None]).sum().item()
                expected = total / how.penalty(len(hypothesis.ids))
                if hypothesis.attention is not None:
                    covered = hypothesis.attention.sum(dim=0).clamp(max=1).log().sum().item()
                    expected += how.coverage_penalty * covered
                assert hypothesis.score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_beam_of_all_prefixes_is_exhaustive_search(choice: dict[str, Any]) -> None:
    sizes = {"source_vocabulary_size": 7, "target_vocabulary_size": 7}
    model = build("gru", "additive", "before", choice, **sizes)
    source, writable = [5, 4, 5, EOS], [3, 4, 5, 6]
    outputs = [[*ids, EOS] for n in range(4) for ids in itertools.product(writable, repeat=n)]
    log_probs = torch.log_softmax(model(make_batch([source] * len(outputs), outputs)), dim=-1)
    totals = {}
    for output, row in zip(outputs, log_probs.split(list(map(len, outputs))), strict=True):
        totals[tuple(output)] = row.gather(1, torch.tensor(output)[:, None]).sum().item()
    how = Search(beam=64, n_best=10, length_normalisation=0.0, max_length=3)
    best = sorted(totals, key=totals.__getitem__, reverse=True)[:10]
    (found,) = model.generate(make_batch([source], [[EOS]]), how)
    assert [h.ids for h in found] == best


@pytest.mark.parametrize("choice", [{"copy": True}, CHOICES[3]])
def test_symbols_are_drawn_from_the_mixture(choice: dict[str, Any]) -> None:
    model, count = build("gru", "additive", "before", choice), 3000
    how = Search(n_best=count, max_length=1, sampling=Sampling(seed=3))
    (drawn,) = model.generate(make_batch([SOURCES[0]], [[EOS]]), how)
    (expected,), _, _ = reference(model, SOURCES[0], [EOS])
    writable = 1 - expected[PAD] - expected[BOS]
    for symbol in [EOS, *range(SPECIALS, SYMBOLS)]:
        p = expected[symbol] / writable
        share = sum(h.ids[0] == symbol for h in drawn) / count
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / count)


@st.composite
def inputs(draw: st.DrawFn) -> list[list[int]]:
    width = draw(st.integers(1, 7))
    return draw(st.lists(st.lists(st.integers(0, 8), min_size=width, max_size=width), min_size=1))


@given(rows=inputs())
def test_attention_on_a_symbol_is_the_sum_over_its_positions(rows: list[list[int]]) -> None:
    sources = Sources.of(torch.tensor(rows))
    weights = torch.rand(len(rows), 2, len(rows[0])).double()
    shares = sources.shares(weights)
    for b, k in itertools.product(range(len(rows)), range(2)):
        pairs = zip(sources.symbols[b].tolist(), shares[b, k].tolist(), strict=True)
        found = [0.0] * 9
        for symbol, share in pairs:
            found[symbol] += share
        for v in range(9):
            at = [w for x, w in zip(rows[b], weights[b, k].tolist(), strict=True) if x == v]
            assert found[v] == pytest.approx(sum(at))


@some_ways
def test_products_in_bfloat16_stay_near_single_precision(way: Way) -> None:
    model = build(*way, layers=2).float()
    single = model.training_step(EXAMPLE, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.training_step(EXAMPLE, 0)["loss"]
        found = model.generate(EXAMPLE, Search(beam=2))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, atol=0.1, rtol=0)
    half.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(math.isfinite(h.score) for hypotheses in found for h in hypotheses)


def frames_batch(extra: int = 0) -> Batch:
    torch.manual_seed(3)
    rows = [torch.randn(n, FEATURES).double() for n in (4, 2)]
    inputs = torch.nn.functional.pad(
        pad_sequence(rows, batch_first=True), (0, 0, 0, extra), value=7
    )
    targets = padded([[4, EOS], [5, 6, EOS]], extra)
    return Batch(inputs, torch.tensor([4, 2]), *targets, {"index": torch.arange(2)})


def build_for_frames(*wiring: Any) -> AttentionEncoderDecoder:
    dims = {"source_vocabulary_size": 0, "feature_size": FEATURES, "shared_vocabulary": False}
    return build(*wiring, **dims)


@pytest.mark.parametrize("way", [each for each in SOME if "copy" not in each[3]], ids=str)
def test_frames_are_read_as_a_map_of_each(way: Way) -> None:
    model, batch = build_for_frames(*way), frames_batch()
    loss, wide = model.losses(batch, 0.1).mean, model.losses(frames_batch(extra=2), 0.1).mean
    torch.testing.assert_close(loss, wide)
    mapped = [
        [plus(times(model.inputs.map.weight, v), model.inputs.map.bias.tolist()) for v in row]
        for row in batch.inputs.tolist()
    ]
    close(model.inputs(batch), mapped)
    for hypotheses, source in zip(
        model.generate(batch, Search(beam=3, n_best=2)), batch.inputs, strict=True
    ):
        assert len(hypotheses) == 2
        assert all(h.ids[-1] == EOS for h in hypotheses)
        assert source.shape == (4, FEATURES)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"coverage_weight": 0.5}, "there is no coverage to weigh: leave out coverage_weight, or"),
        (
            {"copy": True, "shared_vocabulary": False},
            "copy needs one vocabulary for both sides: set shared_vocabulary = true in [data]",
        ),
        (
            {"copy": True, "source_vocabulary_size": 0, "feature_size": 2},
            "frames hold no symbols to copy: leave out copy",
        ),
    ],
)
def test_what_cannot_go_together_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build("gru", "additive", "before", params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@some_ways
def test_every_choice_learns_to_repeat(way: Way) -> None:
    words = [[*ids, EOS] for ids in itertools.product(range(SPECIALS, 8), repeat=2)]
    batch = make_batch(words, words)
    sizes = {"hidden_size": 24, "embedding_size": 24, "dropout": 0.0, "embedding_dropout": 0.0}
    torch.manual_seed(1)
    known = build(*way).hparams
    model = AttentionEncoderDecoder(**{**known, **sizes})
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        model.training_step(batch, 0)["loss"].backward()
        optimiser.step()
    written = [list(best.ids) for (best,) in model.generate(batch)]
    right = [ids == word for ids, word in zip(written, words, strict=True)]
    assert sum(right) / len(right) > 0.9
