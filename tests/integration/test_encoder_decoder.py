"""All six ways to hand one vector over are their equations, and learn."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules._batch import Batch
from datamodules._vocab import BOS, EOS, PAD, SPECIALS
from lightning_modules._cells import CELLS, CellName
from lightning_modules._decoding import Search
from lightning_modules._errors import ModelError
from lightning_modules._layers import Layers
from lightning_modules.encoder_decoder import Context, EncoderDecoder, Feed
from tests.doubles.plain import Row, affine, dot, squash, unit

NAMES: list[CellName] = ["rnn", "gru", "lstm"]
WAYS = list(itertools.product(get_args(Context), get_args(Feed)))
SOURCES, TARGETS, HIDDEN = 9, 8, 4

each_way = pytest.mark.parametrize(("context", "feed"), WAYS)
each_cell = pytest.mark.parametrize("name", NAMES)


def build(context: str, feed: str, cell: CellName = "gru", **params: object) -> EncoderDecoder:
    """Return a small model in float64 whose weights are all far from their first values."""
    torch.manual_seed(13)
    given = {
        "source_vocabulary_size": SOURCES,
        "target_vocabulary_size": TARGETS,
        "shared_vocabulary": False,
        "hidden_size": HIDDEN,
        "embedding_size": 3,
        **params,
    }
    model = EncoderDecoder(context=context, feed=feed, cell=cell, **given).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_batch(sources: list[list[int]], targets: list[list[int]], extra: int = 0) -> Batch:
    """Return the padded batch of these ids, with `extra` more positions of padding."""

    def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows)) + extra
        lengths = torch.tensor([len(row) for row in rows])
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows]), lengths

    index = torch.arange(len(sources))
    return Batch(*pad(sources), *pad(targets), extras={"index": index})


PAIRS = [([4, 5, 6, EOS], [4, EOS]), ([8, EOS], [5, 7, 6, EOS])]
EXAMPLE = make_batch([source for source, _ in PAIRS], [target for _, target in PAIRS])


# The reference: the whole model over Python lists, one number at a time.


def run(name: CellName, rnn: Layers, end: str, xs: list[Row], state: list[Row]) -> list[Row]:
    """Run one layer in one direction from `state` (its blocks); leave the last one in it."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, b, c = (getattr(rnn.rnn, f"{kind}_{end}").tolist() for kind in kinds)
    visible = []
    for x in xs:
        drive = [dot(row, x) + bias for row, bias in zip(w, b, strict=True)]
        pull = [dot(row, state[0]) + bias for row, bias in zip(u, c, strict=True)]
        size = rnn.hidden_size
        units = [
            unit(name, drive[i::size], pull[i::size], [block[i] for block in state])
            for i in range(size)
        ]
        state[:] = [list(block) for block in zip(*units, strict=True)]
        visible.append(state[0])
    return visible


def read(name: CellName, encoder: Layers, xs: list[Row]) -> tuple[list[Row], list[list[Row]]]:
    """Return the highest layer's states, and the last state of each layer, block by block."""
    lasts = []
    for layer in range(encoder.layers):
        blank = [[0.0] * encoder.hidden_size for _ in range(encoder.blocks)]
        there, back = [list(b) for b in blank], [list(b) for b in blank]
        states = run(name, encoder, f"l{layer}", xs, there)
        last = there
        if encoder.directions == 2:
            reverse = run(name, encoder, f"l{layer}_reverse", xs[::-1], back)[::-1]
            states = [f + b for f, b in zip(states, reverse, strict=True)]
            last = [f + b for f, b in zip(there, back, strict=True)]
        xs = states
        lasts.append(last)
    return xs, lasts


def unpack(flat: Row, layers: int, blocks: int) -> list[list[Row]]:
    """Return each layer's blocks of a state that lies block by block, layer by layer."""
    at = [
        [flat[(b * layers + n) * HIDDEN :][:HIDDEN] for b in range(blocks)] for n in range(layers)
    ]
    assert len(flat) == layers * blocks * HIDDEN
    return at


def reference(
    model: EncoderDecoder,
    way: tuple[str, str],
    name: CellName,
    source: list[int],
    target: list[int],
) -> list[Row]:
    xs = [model.inputs.map.weight.tolist()[symbol] for symbol in source]
    c, state = handed_over(model, way, name, xs)
    logits = []
    for symbol in [BOS, *target[:-1]]:
        seen = model.target_embedding.weight.tolist()[symbol] + c
        logits.append(step(model, name, seen, state))
    return logits


def step(model: EncoderDecoder, name: CellName, seen: Row, state: list[list[Row]]) -> Row:
    """Return what a step writes that sees this; the state moves on."""
    top = seen
    for layer in range(model.writer.layers):
        (top,) = run(name, model.writer, f"l{layer}", [top], state[layer])
    return affine(model.output, squash(affine(model.readout, top + seen)))


def handed_over(
    model: EncoderDecoder, way: tuple[str, str], name: CellName, xs: list[Row]
) -> tuple[Row, list[list[Row]]]:
    """Return what every step sees of the inputs x, and the decoder's first state."""
    context, feed = way
    layers, blocks = model.writer.layers, CELLS[name].blocks
    states, lasts = read(name, model.encoder, xs)
    mean = [sum(column) / len(states) for column in zip(*states, strict=True)]
    c: Row = []
    if context == "last":
        c, state = lasts[-1][0], lasts
    else:
        made = squash(affine(model.transform, mean if context.endswith("all") else lasts[-1][0]))
        if feed == "initial":
            state = unpack(made, layers, blocks)
        c = made
    if feed == "every_step":
        state = unpack(squash(affine(model.first_state, c)), layers, blocks)
    return (c if feed == "every_step" else []), state


@each_cell
@each_way
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, True), (2, False), (2, True)])
def test_forward_is_the_equations_number_by_number(
    name: CellName, context: str, feed: str, layers: int, bidirectional: bool
) -> None:
    model = build(context, feed, name, layers=layers, bidirectional=bidirectional)
    expected = [row for pair in PAIRS for row in reference(model, (context, feed), name, *pair)]
    torch.testing.assert_close(
        model(EXAMPLE), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
    )


@each_cell
@each_way
def test_gradients_agree_with_finite_differences(name: CellName, context: str, feed: str) -> None:
    model = build(context, feed, name, layers=2, hidden_size=2, embedding_size=2)
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        bound = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, bound, (EXAMPLE,)).tanh().sum()

    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@each_way
def test_every_weight_learns(context: str, feed: str) -> None:
    model = build(context, feed, "lstm", layers=2, tie_embeddings=False)
    model.training_step(EXAMPLE, 0)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@each_cell
@each_way
def test_scores_are_those_of_teacher_forcing(name: CellName, context: str, feed: str) -> None:
    model = build(context, feed, name, layers=2)
    sources = [source for source, _ in PAIRS]
    for how in (Search(), Search(beam=4, n_best=4)):
        for source, hypotheses in zip(sources, model.generate(EXAMPLE, how), strict=True):
            assert len(hypotheses) == how.n_best
            for hypothesis in hypotheses:
                logp = torch.log_softmax(
                    model(make_batch([source], [list(hypothesis.ids)])), dim=-1
                )
                total = logp.gather(1, torch.tensor(hypothesis.ids)[:, None]).sum().item()
                score = total / how.penalty(len(hypothesis.ids))
                assert hypothesis.score == pytest.approx(score, abs=1e-5)


symbols = st.integers(SPECIALS, TARGETS - 1)
words = st.lists(symbols, max_size=5)


@each_way
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=4), extra=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_padding_and_company_change_nothing(
    context: str, feed: str, pairs: list[tuple[list[int], list[int]]], extra: int
) -> None:
    model = build(context, feed, "lstm", layers=2)
    how = Search(beam=3, n_best=2, max_length_ratio=1, max_length_extra=2)
    sources, targets = ([[*ids, EOS] for ids in side] for side in zip(*pairs, strict=True))
    batch = make_batch(sources, targets, extra)
    logits = model(batch).split([len(target) for target in targets])
    outputs = model.generate(batch, how)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = make_batch([source], [target])
        torch.testing.assert_close(model(alone), logits[row])
        (expected,) = model.generate(alone, how)
        assert [h.ids for h in outputs[row]] == [h.ids for h in expected]


@each_way
def test_learns_to_write_backwards(context: str, feed: str) -> None:
    torch.manual_seed(1)
    words = [list(ids) for n in (1, 2) for ids in itertools.product(range(SPECIALS, 8), repeat=n)]
    batch = make_batch([[*ids, EOS] for ids in words], [[*ids[::-1], EOS] for ids in words])
    sizes = {"hidden_size": 32, "embedding_size": 16, "dropout": 0.0, "embedding_dropout": 0.0}
    dims = dict.fromkeys(("source_vocabulary_size", "target_vocabulary_size"), TARGETS)
    model = EncoderDecoder(context=context, feed=feed, **sizes, **dims, shared_vocabulary=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        model.training_step(batch, 0)["loss"].backward()
        optimiser.step()
    written = [list(best.ids) for (best,) in model.generate(batch)]
    right = [ids == [*word[::-1], EOS] for ids, word in zip(written, words, strict=True)]
    assert sum(right) / len(right) > 0.9


def test_the_context_is_seen_where_it_is_fed() -> None:
    for context, feed in WAYS:
        model = build(context, feed)
        kept, first = model.read(EXAMPLE)
        assert kept.shape == (2, HIDDEN if feed == "every_step" else 0)
        assert first.shape == (2, HIDDEN)
        state = model.write(kept, torch.tensor([4, 4]), first)[1]
        moved = model.write(kept + 1, torch.tensor([4, 4]), first)[1]
        assert torch.equal(state, moved) is (feed == "initial")


def test_an_odd_size_has_no_halves() -> None:
    with pytest.raises(ModelError, match="hidden_size is 5; a bidirectional encoder"):
        build("last", "initial", hidden_size=5)
    assert build("last", "initial", hidden_size=5, bidirectional=False)


def test_has_no_attention_to_show() -> None:
    with pytest.raises(ModelError, match="does not attend"):
        build("last", "initial").generate(EXAMPLE, Search(attention=True))


def test_writes_without_targets() -> None:
    blind = replace(EXAMPLE, targets=None, target_lengths=None)
    model = build("transformed_all", "initial").train()
    assert model.generate(blind) == model.generate(EXAMPLE)  # no dropout
    assert model.training
