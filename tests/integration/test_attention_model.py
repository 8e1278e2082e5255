"""The attention model is its equations, whatever stands around a sentence."""

import itertools
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from datamodules._batch import Batch
from datamodules._vocab import BOS, EOS, PAD, SPECIALS
from lightning_modules._attention import bind, remember, scan
from lightning_modules._cells import CELLS, CellName
from lightning_modules._decoding import Search
from lightning_modules._errors import ModelError
from lightning_modules._orders import OrderName, make_order
from lightning_modules._recurrent import Drives
from lightning_modules._sampling import Sampling
from lightning_modules._scores import AdditiveScore, Past, ScoreName, ScoreSizes, make_score
from lightning_modules._text import target_mask
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder

NAMES: list[CellName] = ["rnn", "gru", "lstm"]
WIRINGS = list(itertools.product(get_args(ScoreName), get_args(OrderName)))
#: Every cell with the defaults, and every wiring with one of the cells.
SPREAD = [
    *((name, *WIRINGS[0]) for name in NAMES),
    *((NAMES[at % 3], *wiring) for at, wiring in enumerate(WIRINGS[1:])),
]
each_wiring = pytest.mark.parametrize(("score", "order"), WIRINGS)
SOURCES, TARGETS = 9, 8
Row = list[float]


def build(cell: CellName = "gru", **params: object) -> AttentionEncoderDecoder:
    """Return a small model in float64 whose weights are all far from their first values."""
    torch.manual_seed(11)
    dims = {"source_vocabulary_size": SOURCES, "target_vocabulary_size": TARGETS}
    sizes = {"hidden_size": 3, "embedding_size": 4, "attention_size": 5}
    given = {"shared_vocabulary": False, **dims, **sizes, "cell": cell, **params}
    model = AttentionEncoderDecoder(**given).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def wire(score: str, order: str) -> dict[str, Any]:
    """Return the parameters of a small model that attends in this way."""
    return {
        "score": score,
        "order": order,
        "bidirectional": score != "dot",
        "attention_size": None if score in {"dot", "general"} else 5,
        **({"location_filters": 2, "location_reach": 1} if score == "location" else {}),
    }


def make_batch(sources: list[list[int]], targets: list[list[int]], extra: int = 0) -> Batch:
    """Return the padded batch of these ids, with `extra` more positions of padding."""

    def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows)) + extra
        lengths = torch.tensor([len(row) for row in rows])
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows]), lengths

    index = torch.arange(len(sources))
    return Batch(*pad(sources), *pad(targets), extras={"index": index})


EXAMPLE = make_batch([[4, 5, 6, EOS], [8, EOS]], [[4, EOS], [5, 7, 6, EOS]])


# The reference: the whole model over Python lists, one number at a time.


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def affine(layer: nn.Linear, x: Row) -> Row:
    biases = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(w, x) + b for w, b in zip(layer.weight.tolist(), biases, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def move(name: CellName, x: Row, u: Row, state: Row, bias: Row) -> Row:
    """Return the next state from the drive x, the products u = U s' and the state s'."""
    size = len(u) // CELLS[name].gates
    out = []
    for i in range(size):
        a = [x[i + g * size] for g in range(len(x) // size)]
        b = [u[i + g * size] for g in range(len(u) // size)]
        if name == "rnn":
            out.append([math.tanh(a[0] + b[0])])
        elif name == "gru":
            r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            new = math.tanh(a[2] + r * (b[2] + bias[i]))
            out.append([(1 - z) * new + z * state[i]])
        else:
            new = math.tanh(a[2] + b[2])
            memory = sigmoid(a[1] + b[1]) * state[size + i] + sigmoid(a[0] + b[0]) * new
            out.append([sigmoid(a[3] + b[3]) * math.tanh(memory), memory])
    return [part for block in zip(*out, strict=True) for part in block]


def run_direction(
    model: AttentionEncoderDecoder, name: CellName, xs: list[Row], end: str
) -> list[Row]:
    rnn, size = model.encoder.rnn, model.encoder.hidden_size
    w, u, b, c = (
        getattr(rnn, f"{kind}_l0{end}").tolist()
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    late = c[2 * size :] if name == "gru" else [0.0] * size
    early = [*c[: 2 * size], *[0.0] * size] if name == "gru" else c
    state, visible = [0.0] * size * CELLS[name].blocks, []
    for x in xs:
        drive = [dot(row, x) + p + q for row, p, q in zip(w, b, early, strict=True)]
        products = [dot(row, state[:size]) for row in u]
        state = move(name, drive, products, state, late)
        visible.append(state[:size])
    return visible


def enter(model: AttentionEncoderDecoder, y: Row, more: Row) -> Row:
    """Return W_y y + b and what else enters the cell."""
    if model.hparams["order"] == "unfed":
        return affine(model.drive, y)
    entering = [dot(row, more) for row in model.order.weight.tolist()]
    return [a + b for a, b in zip(affine(model.drive, y), entering, strict=True)]


def attend(
    model: AttentionEncoderDecoder, state: Row, annotations: list[Row], before: Row
) -> tuple[Row, Row]:
    """Return the weights of a step and its context."""
    energies = [
        energy(model, state, h, locate(model, before, at)) for at, h in enumerate(annotations)
    ]
    total = sum(math.exp(e) for e in energies)
    alphas = [math.exp(e) / total for e in energies]
    return alphas, [dot(alphas, list(column)) for column in zip(*annotations, strict=True)]


def locate(model: AttentionEncoderDecoder, before: Row, at: int) -> Row:
    """Return V f_j: what a location-aware score sees of the weights around a position."""
    if model.hparams["score"] != "location":
        return [0.0] * 5
    reach = model.hparams["location_reach"]
    around = [before[p] if 0 <= p < len(before) else 0.0 for p in range(at - reach, at + reach + 1)]
    seen = [dot(taps, around) for (taps,) in model.score.filters.tolist()]
    return affine(model.score.feature, seen)


def energy(model: AttentionEncoderDecoder, state: Row, h: Row, located: Row) -> float:
    score = model.score
    match model.hparams["score"]:
        case "dot":
            return dot(state, h)
        case "general":
            return dot(state, affine(score.key, h))
        case "scaled_dot":
            return dot(affine(score.state, state), affine(score.key, h)) / math.sqrt(5)
    sums = zip(affine(score.query, state), affine(score.key, h), located, strict=True)
    return dot(score.vector.tolist(), [math.tanh(q + k + f) for q, k, f in sums])


def reference(
    model: AttentionEncoderDecoder, name: CellName, source: list[int], target: list[int]
) -> tuple[list[Row], list[Row]]:
    """Return logits and attention of one sentence pair."""
    embed = model.inputs.map.weight.tolist()
    xs = [embed[symbol] for symbol in source]
    forward = run_direction(model, name, xs, "")
    annotations, last = forward, forward[-1]
    if model.hparams["bidirectional"]:
        backward = run_direction(model, name, xs[::-1], "_reverse")[::-1]
        annotations = [f + b for f, b in zip(forward, backward, strict=True)]
        last = forward[-1] + backward[0]
    state = [math.tanh(v) for v in affine(model.first_state, last)]
    fed, alphas = [0.0] * 3, [1.0] + [0.0] * (len(source) - 1)
    late = model.cell.bias.tolist() if name == "gru" else [0.0] * 3
    logits, attention = [], []
    for symbol in [BOS, *target[:-1]]:
        y = model.target_embedding.weight.tolist()[symbol]
        products = [dot(row, state[:3]) for row in model.cell.weight.tolist()]
        if model.hparams["order"] == "before":
            alphas, context = attend(model, state[:3], annotations, alphas)
            state = move(name, enter(model, y, context), products, state, late)
        else:
            state = move(name, enter(model, y, fed), products, state, late)
            alphas, context = attend(model, state[:3], annotations, alphas)
            if model.hparams["order"] == "after":
                fed = [math.tanh(v) for v in affine(model.order.combine, context + state[:3])]
        hidden = [math.tanh(v) for v in affine(model.readout, state[:3] + y + context)]
        logits.append(affine(model.output, hidden))
        attention.append(alphas)
    return logits, attention


@pytest.mark.parametrize("name", NAMES)
@each_wiring
def test_forward_is_the_equations_number_by_number(name: CellName, score: str, order: str) -> None:
    model = build(name, **wire(score, order))
    logits, weights = model(EXAMPLE), model.alignment(EXAMPLE)
    start = 0
    for row, (source, target) in enumerate(
        [([4, 5, 6, EOS], [4, EOS]), ([8, EOS], [5, 7, 6, EOS])]
    ):
        expected, attention = reference(model, name, source, target)
        ours = logits[start : start + len(target)]
        torch.testing.assert_close(
            ours, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
        )
        matrix = weights[row, : len(target), : len(source)]
        torch.testing.assert_close(
            matrix, torch.tensor(attention, dtype=torch.float64), atol=1e-9, rtol=0
        )
        assert not weights[row, :, len(source) :].any()
        start += len(target)
    assert start == len(logits)


@pytest.mark.parametrize(("name", "score", "order"), SPREAD)
def test_gradients_agree_with_finite_differences(name: CellName, score: str, order: str) -> None:
    model = build(name, layers=2, **{**wire(score, order), "hidden_size": 2, "embedding_size": 2})
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        bound = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, bound, (EXAMPLE,)).tanh().sum()

    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


symbols = st.integers(SPECIALS, TARGETS - 1)
pairs = st.lists(
    st.tuples(st.lists(symbols, max_size=5), st.lists(symbols, max_size=5)), min_size=1, max_size=4
)


@pytest.mark.parametrize(
    ("name", "score", "order"),
    [
        ("rnn", "additive", "before"),
        ("gru", "location", "before"),
        ("lstm", "general", "after"),
        ("gru", "scaled_dot", "after"),
        ("lstm", "location", "after"),
    ],
)
@given(pairs=pairs, extra=st.integers(0, 3), data=st.data())
@settings(max_examples=10, deadline=None)
def test_padding_and_company_change_nothing(
    name: CellName,
    score: str,
    order: str,
    pairs: list[tuple[list[int], list[int]]],
    extra: int,
    data: st.DataObject,
) -> None:
    model = build(name, layers=2, **wire(score, order))
    how = Search(beam=3, n_best=2, attention=True, max_length_ratio=1, max_length_extra=2)
    rows = data.draw(st.permutations(range(len(pairs))))
    sources = [[*pairs[i][0], EOS] for i in rows]
    targets = [[*pairs[i][1], EOS] for i in rows]
    batch = make_batch(sources, targets, extra)
    logits = model(batch).split([len(target) for target in targets])
    outputs = model.generate(batch, how)
    for row in range(len(pairs)):
        alone = make_batch([sources[row]], [targets[row]])
        torch.testing.assert_close(model(alone), logits[row])
        (expected,) = model.generate(alone, how)
        assert [h.ids for h in outputs[row]] == [h.ids for h in expected]
        for one, other in zip(outputs[row], expected, strict=True):
            assert one.score == pytest.approx(other.score)
            torch.testing.assert_close(one.attention, other.attention)


def test_no_gradient_flows_into_padding() -> None:
    model = build(tie_embeddings=False)
    model(make_batch([[4, EOS], [5, 6, EOS]], [[4, EOS], [EOS]], extra=2)).sum().backward()
    for embedding in (model.inputs.map, model.target_embedding):
        assert embedding.weight.grad is not None
        used = embedding.weight.grad.abs().sum(dim=1) > 0
        assert not used[PAD]
        assert used[4]


def test_extra_padding_keeps_every_gradient() -> None:
    gradients = []
    for extra in (0, 3):
        model = build("lstm", layers=2, tie_embeddings=False)
        batch = make_batch([[4, EOS], [5, 6, EOS]], [[4, EOS], [EOS]], extra)
        model.training_step(batch, 0)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(("name", "score", "order"), SPREAD)
def test_scores_are_those_of_teacher_forcing(name: CellName, score: str, order: str) -> None:
    model = build(name, layers=1 + NAMES.index(name), **wire(score, order))
    sources = [[4, 5, EOS], [6, EOS], [5, 5, 4, 6, EOS]]
    blank = make_batch(sources, [[EOS]] * 3)
    for how in (
        Search(),
        Search(beam=4, n_best=4, attention=True),
        Search(beam=4, n_best=2, attention=True, coverage_penalty=0.4, no_repeat_ngram=2),
        Search(n_best=3, attention=True, coverage_penalty=0.4, sampling=Sampling(top_p=0.9)),
    ):
        found = [
            (source, hypothesis)
            for source, hypotheses in zip(sources, model.generate(blank, how), strict=True)
            for hypothesis in hypotheses
        ]
        assert len(found) == how.n_best * len(sources)
        forced = make_batch([source for source, _ in found], [list(h.ids) for _, h in found])
        log_probs = torch.log_softmax(model(forced), dim=-1)
        rows = log_probs.split([len(hypothesis.ids) for _, hypothesis in found])
        for (source, hypothesis), row in zip(found, rows, strict=True):
            total = row.gather(1, torch.tensor(hypothesis.ids)[:, None]).sum().item()
            expected = total / how.penalty(len(hypothesis.ids))
            assert (hypothesis.attention is not None) is how.attention
            if hypothesis.attention is not None:
                assert hypothesis.attention.shape == (len(hypothesis.ids), len(source))
                sums = hypothesis.attention.sum(dim=1)
                torch.testing.assert_close(sums, torch.ones_like(sums))
                covered = hypothesis.attention.sum(dim=0).clamp(max=1).log().sum().item()
                expected += how.coverage_penalty * covered
            assert hypothesis.score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("tie", "shared", "matrices"), [(True, True, 1), (True, False, 2), (False, True, 3)]
)
def test_embeddings_are_tied_as_far_as_vocabularies_allow(
    tie: bool, shared: bool, matrices: int
) -> None:
    sizes = {"source_vocabulary_size": TARGETS} if shared else {}
    model = build(tie_embeddings=tie, shared_vocabulary=shared, **sizes)
    weights = [model.inputs.map.weight, model.target_embedding.weight, model.output.weight]
    assert len({id(weight) for weight in weights}) == matrices
    assert (model.output.weight is model.target_embedding.weight) is tie


def test_a_shared_vocabulary_has_one_size() -> None:
    with pytest.raises(ModelError, match="one size, not 9 for sources and 8 for targets"):
        build(shared_vocabulary=True)


def test_learning_needs_targets() -> None:
    blind = replace(EXAMPLE, targets=None, target_lengths=None)
    with pytest.raises(ModelError, match="no targets"):
        build().training_step(blind, 0)
    assert len(build().generate(blind)) == 2


def test_generating_leaves_the_mode_as_it_was() -> None:
    model = build().train()
    first, second = model.generate(EXAMPLE), model.generate(EXAMPLE)
    assert first == second  # no dropout
    assert model.training


def test_additive_energies_are_those_of_tanh() -> None:
    torch.manual_seed(2)
    score = AdditiveScore(3, 4, 5).double()
    values, state = torch.randn(2, 6, 4).double(), torch.randn(2, 3).double()
    expected = torch.tanh(score.query(state)[:, None] + score.key(values)) @ score.vector
    for learning in (True, False):  # search makes them in another way
        with torch.set_grad_enabled(learning):
            energies = score.bind(score.keys(values), values.dtype)
        found = energies(state, Past(state[:, :0], state[:, :0]))[:, 0]
        torch.testing.assert_close(found.softmax(dim=-1), expected.softmax(dim=-1))


@pytest.mark.parametrize("name", NAMES)
@each_wiring
def test_products_in_bfloat16_stay_near_single_precision(
    name: CellName, score: ScoreName, order: OrderName
) -> None:
    torch.manual_seed(7)
    cell, score = CELLS[name](16), make_score(score, ScoreSizes(16, 16))
    order = make_order(order, cell, 16)
    values = torch.randn(3, 6, 16).tanh()
    drives = Drives(torch.randn(3, 5, 16), cell.driven_by(16))
    state, lengths = torch.randn(3, cell.state_size).tanh(), torch.tensor([6, 2, 1])
    scans = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            memory = remember(score, values, lengths)
            bound = bind(cell, score, order, memory).memory
            assert memory.values.dtype == torch.float32
            assert bound.values.dtype == (torch.bfloat16 if enabled else torch.float32)
            scans.append(scan(cell, score, order, memory=memory, drives=drives, state=state))
    single, half = scans
    assert half.weights.dtype == half.states.dtype == torch.float32
    torch.testing.assert_close(half.states, single.states, atol=0.05, rtol=0)
    torch.testing.assert_close(half.weights, single.weights, atol=0.02, rtol=0)
    sums = half.weights.sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_target_mask_counts_the_end_symbol() -> None:
    expected = [[True, True, False, False], [True, True, True, True]]
    assert target_mask(EXAMPLE).tolist() == expected


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"score": "dot", "attention_size": None},
            "which both directions make twice as wide: set bidirectional = false, or choose",
        ),
        ({"score": "general"}, "score 'general' compares states as they are: leave out attention"),
        ({"score": "dot"}, "score 'dot' compares states as they are"),
        ({"location_filters": 4}, "score 'additive' has no filters: leave out location_filters"),
        ({"score": "general", "attention_size": None, "location_reach": 4}, "has no filters"),
        ({"score": "cosine"}, "score is 'cosine'; it must be one of additive, dot, scaled_dot"),
        ({"order": "later"}, "order is 'later'; it must be one of before, after, unfed"),
    ],
)
def test_sizes_that_cannot_work_together_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(**params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@each_wiring
def test_every_wiring_learns_to_copy(score: str, order: str) -> None:
    torch.manual_seed(1)
    words = [list(ids) for ids in itertools.product(range(SPECIALS, TARGETS), repeat=2)]
    batch = make_batch([[*ids, EOS] for ids in words], [[*ids, EOS] for ids in words])
    sizes = {"hidden_size": 24, "dropout": 0.0, "embedding_dropout": 0.0}
    wiring = {key: value for key, value in wire(score, order).items() if "size" not in key}
    dims = dict.fromkeys(("source_vocabulary_size", "target_vocabulary_size"), TARGETS)
    model = AttentionEncoderDecoder(**sizes, **wiring, **dims, shared_vocabulary=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        model.training_step(batch, 0)["loss"].backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    written = [list(best.ids) for (best,) in model.generate(batch)]
    right = [ids == [*word, EOS] for ids, word in zip(written, words, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_a_checkpoint_from_before_there_was_a_choice_still_fits() -> None:
    model = build()
    assert (model.hparams["score"], model.hparams["order"]) == ("additive", "before")
    assert {name.split(".")[0] for name in model.state_dict()} == {
        *("inputs", "target_embedding", "encoder", "cell", "score", "order", "drive"),
        *("first_state", "readout", "output"),
    }
    names = {name for name in model.state_dict() if name.startswith(("score", "order"))}
    assert names == {
        *("score.vector", "score.query.weight", "score.key.weight", "score.key.bias"),
        "order.weight",
    }
