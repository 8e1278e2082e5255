"""many_to_many, held to its equations written once more as plain Python loops."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules._base import Feed, Workspace
from datamodules._batch import Batch
from datamodules._classes import UNKNOWN_CLASS
from datamodules._vocab import PAD
from datamodules.tagged_text import TaggedText
from lightning_modules._errors import ModelError
from lightning_modules.many_to_many import ManyToMany

WORDS, LETTERS, TAGS, LABELS, HIDDEN = 9, 8, 4, 3, 3
Vector = list[float]

ROWS = [[4, 5, 6, 3], [8], [7, 7, 3]]
SPELLED = [[[4, 5, 6], [7], [5, 5], [3, 4, 5, 6]], [[6, 4]], [[4], [4, 7], [7, 6, 5]]]
TRUTH = [[0, 1, 1, 3], [2], [3, 0, 2]]
Z = [2, 0, 1]


def grid(rows: Sequence[Sequence[int]], width: int) -> list[list[int]]:
    return [[*row, *[PAD] * (width - len(row))] for row in rows]


def batch_of(extra: int = 0, letters: int = 4, order: Sequence[int] = (0, 1, 2)) -> Batch:
    width = 4 + extra
    spelled = [[*SPELLED[row], *[[]] * (width - len(SPELLED[row]))] for row in order]
    lengths = torch.tensor([len(ROWS[row]) for row in order])
    return Batch(
        inputs=torch.tensor(grid([ROWS[row] for row in order], width)),
        lengths=lengths,
        targets=torch.tensor(grid([TRUTH[row] for row in order], width)),
        target_lengths=lengths,
        extras={
            "index": torch.tensor(order),
            "label": torch.tensor([Z[row] for row in order]),
            "characters": torch.tensor([grid(words, letters) for words in spelled]),
        },
    )


def model_of(labels: int = LABELS, **parameters: Any) -> ManyToMany:
    torch.manual_seed(1)
    sizes = {"hidden_size": HIDDEN, "embedding_size": 2}
    letters = {"character_embedding_size": 3, "character_size": 2}
    dims = {"vocabulary_size": WORDS, "num_tags": TAGS, "num_labels": labels}
    model = ManyToMany(**sizes, **letters, **parameters, **dims, character_vocabulary_size=LETTERS)
    for each in model.parameters():  # biases too: a zero would hide a term that is missing
        torch.nn.init.normal_(each, std=0.6)
    if model.speller is not None:
        torch.nn.init.zeros_(model.speller.embedding.weight[PAD])
    return model.double().eval()


# --- the reference: no tensors but to read the weights


def times(matrix: Tensor, vector: Vector) -> Vector:
    return [math.fsum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix.tolist()]


def plus(*vectors: Vector) -> Vector:
    return [math.fsum(values) for values in zip(*vectors, strict=True)]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def next_state(cell: str, x: Vector, u: Vector, h: Vector, c: Vector) -> tuple[Vector, Vector]:
    """Return h_j and c_j, unit by unit, of drives x = W x_j + b and u = U h_{j-1} + d."""
    size = len(h)
    new_h, new_c = [], []
    for k in range(size):
        both = [(x[at], u[at]) for at in range(k, len(x), size)]
        if cell == "rnn":
            new_h.append(math.tanh(sum(both[0])))
        elif cell == "gru":
            r, z = sigma(sum(both[0])), sigma(sum(both[1]))
            n = math.tanh(both[2][0] + r * both[2][1])
            new_h.append((1 - z) * n + z * h[k])
        else:
            i, f, g, o = map(sum, both)
            new_c.append(sigma(f) * c[k] + sigma(i) * math.tanh(g))
            new_h.append(sigma(o) * math.tanh(new_c[-1]))
    return new_h, new_c or c


def run(rnn: Any, cell: str, suffix: str, inputs: list[Vector]) -> list[Vector]:
    w, u, b, d = (
        getattr(rnn, f"{name}_{suffix}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = c = [0.0] * rnn.hidden_size
    states = []
    for x in inputs:
        h, c = next_state(cell, plus(times(w, x), b.tolist()), plus(times(u, h), d.tolist()), h, c)
        states.append(h)
    return states


def both_ways(rnn: Any, cell: str, layer: int, inputs: list[Vector]) -> list[Vector]:
    forward = run(rnn, cell, f"l{layer}", inputs)
    if not rnn.bidirectional:
        return forward
    backward = run(rnn, cell, f"l{layer}_reverse", inputs[::-1])[::-1]
    return [one + other for one, other in zip(forward, backward, strict=True)]


def said(model: ManyToMany, kind: str, cell: str, word: list[int]) -> Vector:
    """Return what the characters of a word say."""
    if model.speller is None:
        return []
    letters = [model.speller.embedding.weight[i].tolist() for i in word]
    if kind == "recurrent":
        states = both_ways(model.speller.reader.rnn, cell, 0, letters)
        half = len(states[0]) // 2
        return states[-1][:half] + states[0][half:]
    nothing = [0.0] * len(letters[0])
    around = [nothing, *letters, nothing]
    kernel = model.speller.convolution.weight.permute(0, 2, 1).flatten(1)  # (D, 3 E)
    windows = [[*before, *at, *after] for before, at, after in zip(around, around[1:], around[2:])]  # noqa: B905 (the longer ones go on)
    highest = [max(values) for values in zip(*(times(kernel, x) for x in windows), strict=True)]
    return plus(highest, model.speller.bias.tolist())


def logits_of(model: ManyToMany, kind: str, cell: str, row: int) -> tuple[list[Vector], Vector]:
    states = [
        model.inputs.map.weight[word].tolist() + said(model, kind, cell, letters)
        for word, letters in zip(ROWS[row], SPELLED[row], strict=True)
    ]
    for layer in range(model.encoder.layers):
        states = both_ways(model.encoder.rnn, cell, layer, states)
    tags = [plus(times(model.output.weight, h), model.output.bias.tolist()) for h in states]
    highest = [max(values) for values in zip(*states, strict=True)]
    head = model.label_output
    return tags, plus(times(head.weight, highest), head.bias.tolist()) if head else []


def close(found: Any, expected: Any) -> bool:
    return bool(found == pytest.approx(expected, abs=1e-9, rel=1e-9))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("kind", ["convolution", "recurrent", "none"])
@pytest.mark.parametrize(("layers", "bidirectional"), list(product([1, 2], [False, True])))
def test_is_its_equations(cell: Any, kind: Any, layers: int, bidirectional: bool) -> None:
    model = model_of(cell=cell, characters=kind, layers=layers, bidirectional=bidirectional)
    tags, labels = model(batch_of())
    assert labels is not None
    for row in range(len(ROWS)):
        expected, label = logits_of(model, kind, cell, row)
        for step, values in enumerate(expected):
            assert close(tags[row, step].tolist(), values)
        assert close(labels[row].tolist(), label)


# --- frames in, labels or values out

FRAMES = [[[math.sin(word), math.cos(3 * word)] for word in row] for row in ROWS]
#: For each frame two labels, 0 or 1, or two values.
SAID = [[[float(tag > 1), float(tag % 2)] for tag in row] for row in TRUTH]


def frames_of(extra: int = 0) -> Batch:
    """Return the frames of all rows; what lies behind a length is not to be looked at."""
    width = 4 + extra
    lengths = torch.tensor(list(map(len, FRAMES)))
    inputs, targets = (
        torch.tensor(
            [[*row, *[[9.0, 9.0]] * (width - len(row))] for row in rows], dtype=torch.float64
        )
        for rows in (FRAMES, SAID)
    )
    extras = {"index": torch.arange(3)}
    return Batch(inputs, lengths, targets, lengths, extras)


def on_frames(cell: str, **dims: int) -> ManyToMany:
    torch.manual_seed(1)
    model = ManyToMany(hidden_size=HIDDEN, embedding_size=2, cell=cell, feature_size=2, **dims)  # type: ignore[arg-type]
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.6)
    return model.double().eval()


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("goal", ["label_size", "value_size"])
def test_on_frames_is_its_equations_too(cell: str, goal: str) -> None:
    model = on_frames(cell, **{goal: 2})
    batch, losses = frames_of(extra=1), []
    outputs = model(batch)
    for row, frames in enumerate(FRAMES):
        weight, bias = model.inputs.map.weight, model.inputs.map.bias.tolist()
        states = [plus(times(weight, frame), bias) for frame in frames]
        for step, h in enumerate(both_ways(model.encoder.rnn, cell, 0, states)):
            o = plus(times(model.output.weight, h), model.output.bias.tolist())
            assert close(outputs[row, step].tolist(), o)
            for each, y in zip(o, SAID[row][step], strict=True):
                chance = sigma(each if y else -each)
                losses.append((each - y) ** 2 if goal == "value_size" else -math.log(chance))
    output = model.training_step(batch, 0)
    assert close(output["loss"].item(), math.fsum(losses) / len(losses))
    assert close(output["nll_sum"].item(), math.fsum(losses))
    assert output["tokens"] == len(losses) == 16
    answers = model.predict(batch)
    assert [each.shape for each in answers] == [(len(row), 2) for row in FRAMES]
    last = sigma(o[0]) if goal == "label_size" else o[0]
    assert answers[-1][-1, 0].item() == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize(
    ("dims", "why"),
    [
        ({}, "one thing to say at every step"),
        ({"num_tags": 2, "value_size": 1}, "one thing to say at every step"),
        ({"label_size": 2, "label_smoothing": 0.1}, "no tags to choose one from: leave it out"),
        ({"value_size": 2, "vocabulary_size": 5}, "not both"),
    ],
)
def test_what_data_and_parameters_must_agree_on(dims: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        ManyToMany(feature_size=2, **dims)


# --- tags


def log_softmax(values: Vector) -> Vector:
    total = math.log(math.fsum(map(math.exp, values)))
    return [value - total for value in values]


def test_the_loss_sums_both_heads_and_counts_tags() -> None:
    model = model_of()
    output = model.training_step(batch_of(), 0)
    rows = [logits_of(model, "convolution", "lstm", row) for row in range(len(ROWS))]
    tags = [
        -log_softmax(values)[tag]
        for (steps, _), truth in zip(rows, TRUTH, strict=True)
        for values, tag in zip(steps, truth, strict=True)
    ]
    labels = [-log_softmax(label)[z] for (_, label), z in zip(rows, Z, strict=True)]
    expected = math.fsum(tags) / len(tags) + math.fsum(labels) / len(labels)
    assert close(output["loss"].item(), expected)
    assert close(output["nll_sum"].item(), math.fsum(tags))
    assert output["tokens"] == len(tags)


@given(
    extra=st.integers(0, 4),
    letters=st.integers(4, 7),
    order=st.permutations([0, 1, 2]),
    kind=st.sampled_from(["convolution", "recurrent"]),
    cell=st.sampled_from(["rnn", "gru", "lstm"]),
)
@settings(max_examples=20, deadline=None)
def test_padding_and_order_of_rows_change_nothing(
    extra: int, letters: int, order: list[int], kind: Any, cell: Any
) -> None:
    model = model_of(characters=kind, cell=cell, layers=2)
    plain, other = model.predict(batch_of()), model.predict(batch_of(extra, letters, order))
    one = model.training_step(batch_of(), 0)["loss"]
    torch.testing.assert_close(model.training_step(batch_of(extra, letters, order), 0)["loss"], one)
    for place, row in enumerate(order):
        torch.testing.assert_close(other[place].tags, plain[row].tags)
        torch.testing.assert_close(other[place].label, plain[row].label)


@pytest.mark.parametrize("kind", ["convolution", "recurrent", "none"])
def test_gradients_are_those_of_finite_differences(kind: Any) -> None:
    model = model_of(characters=kind, layers=2)
    loss = model.training_step(batch_of(), 0)["loss"]
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert gradient.any()
        place = int(gradient.abs().argmax())
        flat, sides = parameter.detach().view(-1), []
        for shift in (1e-6, -2e-6):
            flat[place] += shift
            sides.append(model.training_step(batch_of(), 0)["loss"].item())
        flat[place] += 1e-6
        numeric = (sides[0] - sides[1]) / 2e-6
        assert numeric == pytest.approx(gradient.flatten()[place].item(), rel=1e-5)


def test_a_rank_without_rows_adds_nothing() -> None:
    model = model_of()
    output = model.training_step(batch_of().idle(), 0)
    output["loss"].backward()
    assert output["loss"] == output["tokens"] == output["correct"] == 0


@pytest.mark.parametrize("kind", ["convolution", "recurrent"])
def test_dropout_of_the_same_units_at_all_steps_takes_what_words_spell(kind: str) -> None:
    model = model_of(characters=kind, variational=True).train()
    model.training_step(batch_of(), 0)["loss"].backward()
    assert all(each.grad is not None for each in model.speller.parameters())


def test_a_word_without_characters_says_nothing_but_is_read() -> None:
    for kind in ("convolution", "recurrent"):
        batch = batch_of()
        bare = torch.zeros_like(batch.extras["characters"])
        found = model_of(characters=kind).predict(
            replace(batch, extras={**batch.extras, "characters": bare})
        )
        assert all(each.tags.isfinite().all() for each in found)


def test_predicts_a_distribution_over_tags_at_each_step_and_over_labels() -> None:
    with_label, without = model_of().predict(batch_of()), model_of(labels=0).predict(batch_of())
    for row, length in enumerate(batch_of().lengths.tolist()):
        assert with_label[row].tags.shape == (length, TAGS)
        torch.testing.assert_close(with_label[row].tags.exp().sum(dim=-1), torch.ones(length))
        label = with_label[row].label
        assert label is not None
        assert label.exp().sum().item() == pytest.approx(1)
        assert without[row].label is None


# --- scores of a split


class Few(TaggedText):
    """Three rows; of the test split training knows neither the tag of one nor the label."""

    tag_names = ("O", "B-x", "I-x", "B-y")
    label_names = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__(root=".")
        self.feed = Feed(batch_tokens=4, seed=1)

    def prepare(self, workspace: Workspace) -> None:
        """Do nothing."""

    def sizes(self, split: str) -> Any:
        return batch_of().lengths.numpy()[:, None]

    def true_tags(self, split: str) -> list[list[str]]:
        names = [*self.tag_names, "B-new"]
        return [[names[tag] for tag in row] for row in self.ids(split)]

    def ids(self, split: str) -> list[list[int]]:
        return [TRUTH[0], [UNKNOWN_CLASS], TRUTH[2]] if split == "test" else TRUTH

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        batch = batch_of(order=rows)
        targets = torch.tensor(grid([self.ids(split)[row] for row in rows], 4))
        labels = [UNKNOWN_CLASS if split == "test" and row == 1 else Z[row] for row in rows]
        return replace(
            batch, targets=targets, extras={**batch.extras, "label": torch.tensor(labels)}
        )


def scores(model: ManyToMany, split: str) -> dict[str, float]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet)
    run_on = trainer.test if split == "test" else trainer.validate
    (found,) = run_on(model, datamodule=Few(), verbose=False)
    return {name.removeprefix(f"{split}/"): value for name, value in found.items()}


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated",
    "ignore:The .* does not have many workers",
    "ignore:GPU available",
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_of_a_split_are_counted_row_by_row(split: str) -> None:
    model, data = model_of(), Few()
    # Teach it the truth of `val`, so that there is something right to count.
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        model.training_step(batch_of(), 0)["loss"].backward()
        optimiser.step()
    found = scores(model, split)
    outputs = model.predict(batch_of())
    tags = [each.tags.argmax(dim=-1).tolist() for each in outputs]
    assert tags == TRUTH
    truth = data.ids(split)
    right = [[a == b for a, b in zip(*rows, strict=True)] for rows in zip(tags, truth, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(map(sum, right)) / 8)
    assert found["exact_match"] == pytest.approx(sum(map(all, right)) / 3)
    # Six spans, all found; of the test split's, one is of a kind that nobody can name.
    assert found["f1"] == pytest.approx(1.0 if split == "val" else 5 / 6)
    assert found["label_accuracy"] == pytest.approx(1.0 if split == "val" else 2 / 3)
    assert math.isfinite(found["loss"])
    assert math.isfinite(found["label_loss"])
