"""Both ways to write a sequence from one input are their equations, and learn."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from datamodules._batch import Batch
from datamodules._vocab import BOS, EOS, PAD, SPECIALS
from lightning_modules._cells import CELLS, CellName
from lightning_modules._decoding import Search
from lightning_modules._errors import ModelError
from lightning_modules._sampling import Sampling
from lightning_modules.one_to_many import Feed, OneToMany
from tests.doubles.plain import Row, affine, dot, squash, unit

NAMES: list[CellName] = ["rnn", "gru", "lstm"]
CLASSES, FEATURES, TARGETS, HIDDEN, WIDTH = 3, 2, 8, 4, 3
WAYS = list(itertools.product(get_args(Feed), ("label", "vector")))

each_way = pytest.mark.parametrize(("feed", "given"), WAYS)
each_cell = pytest.mark.parametrize("name", NAMES)


def build(feed: str, given: str, cell: CellName = "gru", **params: object) -> OneToMany:
    """Return a small model in float64 whose weights are all far from their first values."""
    torch.manual_seed(13)
    size = {"source_classes": CLASSES} if given == "label" else {"feature_size": FEATURES}
    chosen = {"hidden_size": HIDDEN, "embedding_size": WIDTH, **size, **params}
    model = OneToMany(feed=feed, cell=cell, target_vocabulary_size=TARGETS, **chosen)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_batch(given: str, inputs: list[int], targets: list[list[int]], extra: int = 0) -> Batch:
    """Return the padded batch of these; a class stands for itself or for a vector of its own."""
    width = max(map(len, targets)) + extra
    vectors = [[[0.5 - number, 0.25 * number * number]] for number in inputs]
    return Batch(
        torch.tensor([[number] for number in inputs])
        if given == "label"
        else torch.tensor(vectors, dtype=torch.float64),
        torch.ones(len(inputs), dtype=torch.int64),
        torch.tensor([row + [PAD] * (width - len(row)) for row in targets]),
        torch.tensor([len(row) for row in targets]),
        {"index": torch.arange(len(inputs))},
    )


PAIRS: list[tuple[int, list[int]]] = [(2, [4, EOS]), (0, [5, 7, 6, EOS])]


def example(given: str) -> Batch:
    return make_batch(given, [number for number, _ in PAIRS], [target for _, target in PAIRS])


# The reference: the whole model over Python lists, one number at a time.


def step(name: CellName, rnn: nn.Module, layer: int, x: Row, state: list[Row]) -> list[Row]:
    """Return a layer's blocks after one step from its blocks before."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, b, c = (getattr(rnn, f"{kind}_l{layer}").tolist() for kind in kinds)
    drive = [dot(row, x) + bias for row, bias in zip(w, b, strict=True)]
    pull = [dot(row, state[0]) + bias for row, bias in zip(u, c, strict=True)]
    units = [
        unit(name, drive[i::HIDDEN], pull[i::HIDDEN], [block[i] for block in state])
        for i in range(HIDDEN)
    ]
    return [list(block) for block in zip(*units, strict=True)]


def reference(model: OneToMany, name: CellName, one: list[float], target: list[int]) -> list[Row]:
    """Return the logits of each target symbol; `one` is a class by itself, or a vector."""
    source = model.inputs.map
    if isinstance(source, nn.Embedding):
        x = source.weight.tolist()[int(one[0])]
    else:
        x = affine(source, one)
    layers, blocks = model.writer.layers, CELLS[name].blocks
    flat = squash(affine(model.first_state, x))
    # A state lies block by block, and in each layer by layer.
    parts = [flat[at : at + HIDDEN] for at in range(0, len(flat), HIDDEN)]
    states = [[parts[b * layers + n] for b in range(blocks)] for n in range(layers)]
    logits = []
    for symbol in [BOS, *target[:-1]]:
        seen = model.target_embedding.weight.tolist()[symbol] + (x if model.every_step else [])
        top = seen
        for layer in range(layers):
            states[layer] = step(name, model.writer.rnn, layer, top, states[layer])
            top = states[layer][0]
        logits.append(affine(model.output, squash(affine(model.readout, top + seen))))
    return logits


@each_cell
@each_way
@pytest.mark.parametrize("layers", [1, 2])
def test_forward_is_the_equations_number_by_number(
    name: CellName, feed: str, given: str, layers: int
) -> None:
    model, batch = build(feed, given, name, layers=layers), example(given)
    inputs = batch.inputs.flatten(1).tolist()
    expected = [
        row
        for one, (_, target) in zip(inputs, PAIRS, strict=True)
        for row in reference(model, name, one, target)
    ]
    torch.testing.assert_close(
        model(batch), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
    )


@each_cell
@each_way
def test_gradients_agree_with_finite_differences(name: CellName, feed: str, given: str) -> None:
    model = build(feed, given, name, layers=2, hidden_size=2, embedding_size=2)
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        bound = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, bound, (example(given),)).tanh().sum()

    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@each_way
def test_every_weight_learns(feed: str, given: str) -> None:
    model = build(feed, given, "lstm", layers=2, tie_embeddings=False)
    model.training_step(example(given), 0)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@each_cell
@each_way
def test_scores_are_those_of_teacher_forcing(name: CellName, feed: str, given: str) -> None:
    model = build(feed, given, name, layers=2)
    for how in (Search(), Search(beam=4, n_best=4), Search(sampling=Sampling(), n_best=3)):
        found = model.generate(example(given), how)
        for (number, _), hypotheses in zip(PAIRS, found, strict=True):
            assert len(hypotheses) == how.n_best
            for hypothesis in hypotheses:
                forced = make_batch(given, [number], [list(hypothesis.ids)])
                logp = torch.log_softmax(model(forced), dim=-1)
                total = logp.gather(1, torch.tensor(hypothesis.ids)[:, None]).sum().item()
                score = total / how.penalty(len(hypothesis.ids))
                assert hypothesis.score == pytest.approx(score, abs=1e-5)


symbols = st.integers(SPECIALS, TARGETS - 1)
rows = st.tuples(st.integers(0, CLASSES - 1), st.lists(symbols, max_size=5))


@each_way
@given(pairs=st.lists(rows, min_size=1, max_size=5), extra=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_padding_and_company_change_nothing(
    feed: str, given: str, pairs: list[tuple[int, list[int]]], extra: int
) -> None:
    model = build(feed, given, "lstm", layers=2, max_length=4)
    targets = [[*ids, EOS] for _, ids in pairs]
    batch = make_batch(given, [number for number, _ in pairs], targets, extra)
    logits = model(batch).split([len(target) for target in targets])
    how = Search(beam=3, n_best=2, max_length=4)
    outputs = model.generate(batch, how)
    for row, (number, _) in enumerate(pairs):
        alone = make_batch(given, [number], [targets[row]])
        torch.testing.assert_close(model(alone), logits[row])
        (expected,) = model.generate(alone, how)
        assert [h.ids for h in outputs[row]] == [h.ids for h in expected]


@each_way
def test_the_input_is_seen_where_it_is_fed(feed: str, given: str) -> None:
    model = build(feed, given)
    kept, first = model.read(example(given))
    assert kept.shape == (2, WIDTH if feed == "every_step" else 0)
    assert first.shape == (2, HIDDEN)
    state = model.write(kept, torch.tensor([4, 4]), first)[1]
    moved = model.write(kept + 1, torch.tensor([4, 4]), first)[1]
    assert torch.equal(state, moved) is (feed == "initial")


def test_equal_inputs_are_searched_once_and_drawn_for_each() -> None:
    model = build("every_step", "label")
    asked = []
    model.inputs.register_forward_hook(lambda *call: asked.append(len(call[1][0])))
    batch = make_batch("label", [1, 0, 1, 1], [[EOS]] * 4)
    one, _, two, three = model.generate(batch)
    assert one == two == three
    assert asked == [2]
    drawn = model.generate(batch, Search(sampling=Sampling(temperature=5.0)))
    assert asked == [2, 4]
    assert len({hypotheses[0].ids for hypotheses in drawn}) > 1


def test_an_output_has_at_most_as_many_symbols_as_asked() -> None:
    model = build("initial", "label", max_length=3)
    with torch.no_grad():
        model.output.bias[EOS] = -50.0
    assert [len(found[0].ids) for found in model.generate(example("label"))] == [4, 4]


def test_one_kind_of_input_is_needed() -> None:
    with pytest.raises(ModelError, match="gives neither"):
        OneToMany(target_vocabulary_size=TARGETS)
    with pytest.raises(ModelError, match="not both"):
        OneToMany(target_vocabulary_size=TARGETS, source_classes=2, feature_size=3)
