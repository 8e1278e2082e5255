"""The language model against its equations, written once more as plain loops in float64."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datamodules._batch import Batch
from datamodules._frame_streams import FrameStreams
from datamodules._rows import Rows
from datamodules._stream import FOLLOWS, Stream, parallel_plan, reading_plan
from datamodules._vocab import BOS, PAD, UNK
from datamodules.char_text import CharText
from lightning_modules._dropout import LockedDropout
from lightning_modules._errors import ModelError
from lightning_modules._goals import LabelsGoal, SymbolGoal, ValueGoal
from lightning_modules._next_step import DrawnFrame
from lightning_modules._sampling import Sampling
from lightning_modules.language_model import LanguageModel

SYMBOLS = 11
CELLS = ("rnn", "gru", "lstm")


TEXT = {"vocabulary_size": SYMBOLS}
ROLL = {"feature_size": 3, "binary_frames": True}
WAVES = {"feature_size": 3}


def model_of(dims: dict[str, Any] = TEXT, **options: Any) -> LanguageModel:
    torch.manual_seed(4)
    small = {"hidden_size": 6, "embedding_size": 5, "embedding_dropout": 0.0, "dropout": 0.0}
    return LanguageModel(**{**small, **options}, **dims).double()


def stream_of(symbols: int = 37, window: int = 5) -> Stream:
    chance = np.random.default_rng(2)
    return Stream(chance.integers(4, SYMBOLS, symbols).astype(np.int32), window)


def frames_of(window: int = 4) -> FrameStreams:
    """Return three sequences of notes that sound (1) or do not (0)."""
    chance = np.random.default_rng(3)
    return FrameStreams(
        Rows.of_frames(
            [chance.integers(0, 2, (length, 3)).astype(float) for length in (9, 1, 6)], 3
        ),
        window,
    )


def moved(cell: str, part: Any, layer: int, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Return one step of one layer on vectors, by the textbook."""
    w, u, b, d = (
        getattr(part.rnn, f"{name}_l{layer}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    inside, back = (w @ x + b).chunk(len(w) // 6), (u @ state[0] + d).chunk(len(w) // 6)
    if cell == "rnn":
        return [torch.tanh(inside[0] + back[0])]
    if cell == "gru":
        r, z = (torch.sigmoid(inside[k] + back[k]) for k in range(2))
        n = torch.tanh(inside[2] + r * back[2])
        return [(1 - z) * n + z * state[0]]
    i, f, g, o = (one + other for one, other in zip(inside, back, strict=True))
    memory = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(memory), memory]


def layers_of(model: LanguageModel) -> Iterator[tuple[Any, int]]:
    for part in getattr(model.layers, "parts", [model.layers]):
        for layer in range(part.layers):
            yield part, layer


def read(model: LanguageModel, step: Tensor) -> Tensor:
    if isinstance(model.inputs.map, torch.nn.Linear):
        return model.inputs.map.weight @ step.double() + model.inputs.map.bias
    return model.inputs.map.weight[step]


def told(model: LanguageModel, scores: Tensor, target: Tensor) -> Tensor:
    """Return what a step costs: nats, nats a feature, or a mean square."""
    if isinstance(model.goal, SymbolGoal):
        return torch.logsumexp(scores, 0) - scores[target]
    if isinstance(model.goal, LabelsGoal):
        chance = 1 / (1 + torch.exp(-scores))
        return -torch.where(target > 0, chance.log(), (1 - chance).log()).mean()
    return ((scores - target) ** 2).mean()


def reference(model: LanguageModel, batches: list[Batch]) -> list[Tensor]:
    """Return the loss of each batch: each stream by itself, cut off where a window begins."""
    cell = model.hparams["cell"]
    ends: dict[int, list[list[Tensor]]] = {}
    losses = []
    for batch in batches:
        nll = []
        for row in range(len(batch)):
            blank = [[torch.zeros(6).double() for _ in range(2)] for _ in layers_of(model)]
            state = ends.get(int(batch.extras[FOLLOWS][row]), blank)
            state = [[each.detach() for each in layer] for layer in state]
            for at in range(int(batch.lengths[row])):
                x = read(model, batch.inputs[row, at])
                for number, (part, layer) in enumerate(layers_of(model)):
                    state[number] = moved(cell, part, layer, x, state[number])
                    x = state[number][0]
                scores = model.output.weight @ x + model.output.bias
                assert batch.targets is not None
                nll.append(told(model, scores, batch.targets[row, at]))
            ends[int(batch.extras["index"][row])] = state
        losses.append(torch.stack(nll).mean())
    return losses


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "variational"), [(1, False), (2, False), (2, True)])
def test_equals_plain_loops_with_the_state_carried_over(
    cell: str, layers: int, variational: bool
) -> None:
    model = model_of(cell=cell, layers=layers, variational=variational)
    stream = stream_of()
    held_to_the_loops(model, [stream.collate(rows) for rows in parallel_plan(len(stream), 3, 7, 0)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("frame_loss", ["bernoulli", "squared"])
def test_on_frames_equals_plain_loops_too(cell: str, frame_loss: str) -> None:
    model, stream = model_of(ROLL, cell=cell, frame_loss=frame_loss), frames_of()
    batches = [stream.collate(rows) for rows in stream.training_plan(2, 7, 0)]
    held_to_the_loops(model, [in_float64(batch) for batch in batches])


def in_float64(batch: Batch) -> Batch:
    return replace(batch, inputs=batch.inputs.double())


def held_to_the_loops(model: LanguageModel, batches: list[Batch]) -> None:
    expected = reference(model, batches)
    names, weights = zip(*model.named_parameters(), strict=True)
    for batch, loss in zip(batches, expected, strict=True):
        found = model.training_step(batch, 0)["loss"]
        torch.testing.assert_close(found, loss, atol=1e-9, rtol=0)
        pairs = zip(
            torch.autograd.grad(found, weights), torch.autograd.grad(loss, weights), strict=True
        )
        for name, (one, other) in zip(names, pairs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("window", [1, 4, 37, 50])
def test_windows_of_any_length_read_the_same_past(window: int) -> None:
    model = model_of().eval()
    totals = []
    for stream in (stream_of(window=window), stream_of(window=100)):
        model.carry.__init__()  # type: ignore[misc]
        steps = [model.training_step(stream.collate(rows), 0) for rows in reading_plan(len(stream))]
        totals.append(sum(step["nll_sum"] for step in steps))
        assert sum(step["tokens"] for step in steps) == 37
    torch.testing.assert_close(*totals, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("dims", "goal"), [(ROLL, LabelsGoal), (WAVES, ValueGoal)])
def test_frames_of_zeros_and_ones_are_told_by_their_likelihood(dims: Any, goal: type) -> None:
    model, stream = model_of(dims).eval(), frames_of(window=9)
    assert isinstance(model.goal, goal)
    assert model.monitor == "val/loss"
    windows = [in_float64(stream.collate(rows)) for rows in stream.reading_plan(1)]
    gathered = model.nothing_yet()
    for batch in windows:
        model.gather(gathered, batch)
    found = model.goal.scores(gathered.scores, CharText(root="."), "val")
    steps = [model_of(dims).eval().training_step(batch, 0) for batch in windows]
    total = sum(step["nll_sum"] for step in steps) / sum(step["tokens"] for step in steps)
    assert found["loss"] == pytest.approx(float(total), abs=1e-6)
    assert ("micro_f1" in found) == ("step_loss" in found) == (goal is LabelsGoal)


@torch.no_grad()
def test_the_next_frame_is_answered_as_it_would_be_scored() -> None:
    for dims, last in ((ROLL, torch.sigmoid), (WAVES, lambda each: each)):
        model, batch = model_of(dims).eval(), in_float64(frames_of(window=9).collate([0, 2]))
        outputs = model.output(model(batch)[0])
        for row, answer in enumerate(model.predict(batch)):
            expected = last(outputs[row, int(batch.lengths[row]) - 1])
            torch.testing.assert_close(answer, expected.float())


@pytest.mark.parametrize(
    ("dims", "options", "why"),
    [
        (TEXT, {"frame_loss": "squared"}, "'squared' is for frames, and this data has symbols"),
        (WAVES, {"frame_loss": "bernoulli"}, "frames of 0 and 1, .* 'squared'"),
        (ROLL, {"tie_embeddings": True, "embedding_size": None}, "ties the embeddings of symbols"),
    ],
)
def test_options_that_the_data_has_no_use_for_are_refused(
    dims: Any, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        model_of(dims, **options)


def test_a_row_that_follows_none_has_no_past() -> None:
    model, stream = model_of().eval(), stream_of()
    alone = model.training_step(stream.collate([0]), 0)["nll_sum"]
    model.training_step(stream.collate([6, 7]), 0)  # the last: 0 does not go on from it
    torch.testing.assert_close(model.training_step(stream.collate([0]), 0)["nll_sum"], alone)


def test_an_epoch_begins_without_a_past_but_goes_on_within() -> None:
    model, stream = model_of().eval(), stream_of()
    model.carry.on_train_epoch_start(_at_epoch(3))
    model.training_step(stream.collate([0, 4]), 0)
    kept, following = model.carry.state_dict(), stream.collate([1, 5])
    with_past = model.training_step(following, 0)["nll_sum"]
    again = model_of().eval()
    again.carry.load_state_dict(kept)
    again.carry.on_train_epoch_start(_at_epoch(3))
    assert again.training_step(following, 0)["nll_sum"] == with_past
    again.carry.load_state_dict(kept)
    again.carry.on_train_epoch_start(_at_epoch(4))
    assert again.carry.before(following) is None
    assert again.training_step(following, 0)["nll_sum"] != with_past


def _at_epoch(epoch: int) -> Any:
    return type("AtEpoch", (), {"current_epoch": epoch})()


def test_half_precision_carries_over_too() -> None:
    model, stream = model_of().float(), stream_of()
    for rows in parallel_plan(len(stream), 3, 7, 0):
        single = model.training_step(stream.collate(rows), 0)["loss"]
    model.carry.__init__()  # type: ignore[misc]
    with torch.autocast("cpu", torch.bfloat16):
        for rows in parallel_plan(len(stream), 3, 7, 0):
            half = model.training_step(stream.collate(rows), 0)["loss"]
    torch.testing.assert_close(half, single, atol=0.05, rtol=0)


# --- options


def test_tied_weights_are_one_and_must_fit() -> None:
    model = model_of(embedding_size=6, tie_embeddings=True)
    assert model.output.weight is model.inputs.map.weight
    with pytest.raises(ModelError, match="embedding_size=5, or make it 6"):
        model_of(tie_embeddings=True)


@pytest.mark.parametrize(("tied", "deviation"), [(False, 1.0), (True, 1 / 16)])
def test_embeddings_begin_as_large_as_what_they_do_asks(tied: bool, deviation: float) -> None:
    sizes = {"hidden_size": 256, "embedding_size": 256}
    model = model_of({"vocabulary_size": 99}, **sizes, tie_embeddings=tied)
    assert model.inputs.map.weight.std().item() == pytest.approx(deviation, rel=0.02)


def test_variational_dropout_drops_the_same_at_every_step() -> None:
    torch.manual_seed(1)
    drop, values = LockedDropout(0.5), torch.rand(3, 7, 40) + 1
    dropped = drop(values)
    kept = dropped != 0
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert not torch.equal(kept[0], kept[1])
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * values[kept])
    assert torch.equal(drop.eval()(values), values)


def test_dropout_changes_training_only() -> None:
    stream = stream_of()
    for variational in (False, True):
        model = model_of(dropout=0.5, embedding_dropout=0.3, variational=variational)
        first, second = (model.training_step(stream.collate([0]), 0)["loss"] for _ in range(2))
        assert first != second
        model.eval()
        first, second = (model.training_step(stream.collate([0]), 0)["loss"] for _ in range(2))
        assert first == second


# --- writing on


def prompts() -> Batch:
    return Batch(torch.tensor([[2, 5, 6, 7], [2, 4, 0, 0]]), torch.tensor([4, 2]))


@torch.no_grad()
def test_what_is_written_follows_from_seed_and_prompt() -> None:
    model = model_of().eval()
    one = model.write_on(prompts(), 30, Sampling(seed=3))
    assert texts_of(one) == texts_of(model.write_on(prompts(), 30, Sampling(seed=3)))
    assert texts_of(one) != texts_of(model.write_on(prompts(), 30, Sampling(seed=4)))
    assert [len(ids) for ids in texts_of(one)] == [30, 30]
    assert not {PAD, BOS, UNK} & {symbol for ids in texts_of(one) for symbol in ids}
    alone = Batch(prompts().inputs[:1], prompts().lengths[:1])
    assert texts_of(model.write_on(alone, 30, Sampling(seed=3))) == texts_of(one)[:1]


def texts_of(written: list[tuple[Tensor, float]]) -> list[list[int]]:
    return [ids.tolist() for ids, _ in written]


@torch.no_grad()
def test_drawing_from_the_best_alone_follows_the_best_of_a_plain_reading() -> None:
    model = model_of().eval()
    for row, (ids, score) in enumerate(model.write_on(prompts(), 8, Sampling(top_k=1))):
        text = prompts().inputs[row, : int(prompts().lengths[row])].tolist()
        total = 0.0
        for symbol in ids.tolist():
            batch = Batch(torch.tensor([text]), torch.tensor([len(text)]))
            log_probs = model.predict(batch)[0].double()
            total += float(log_probs[symbol])
            allowed = log_probs.index_fill(0, torch.tensor([PAD, BOS, UNK]), -math.inf)
            assert symbol == int(allowed.argmax())
            text.append(symbol)
        assert score == pytest.approx(total / len(ids), abs=1e-5)


@pytest.mark.parametrize(("dims", "temperature"), [(ROLL, 1.0), (ROLL, 0.5), (WAVES, 1.0)])
@torch.no_grad()
def test_frames_that_are_written_follow_from_a_plain_reading(dims: Any, temperature: float) -> None:
    model, sampling = model_of(dims).eval(), Sampling(temperature=temperature, seed=3)
    batch = in_float64(frames_of(window=9).collate([0, 2]))
    for row, (frames, score) in enumerate(model.write_on(batch, 5, sampling)):
        read = batch.inputs[row, : int(batch.lengths[row])]
        chances = torch.from_numpy(np.random.default_rng([3, row, 0]).random((5, 3)))
        nll = 0.0
        for frame, chance in zip(frames, chances, strict=True):
            outputs = model.output(model(Batch(read[None], torch.tensor([len(read)])))[0])[0, -1]
            expected = outputs
            if dims is ROLL:
                expected = (outputs / temperature > chance.logit()).double()
                nll += 3 * float(told(model, outputs, expected))
            torch.testing.assert_close(frame, expected, atol=1e-9, rtol=0)
            read = torch.cat([read, expected[None]])
        assert score == pytest.approx(-nll / 5, abs=1e-9)


@given(
    logits=st.lists(st.floats(-5, 5), min_size=1, max_size=4),
    temperature=st.floats(0.2, 5),
    seed=st.integers(0, 99),
)
def test_each_note_is_drawn_as_often_as_it_is_likely(
    logits: list[float], temperature: float, seed: int
) -> None:
    draw = DrawnFrame(len(logits), temperature)
    chances = Sampling(seed=seed).chances([(0, 0)], 4000 * len(logits)).view(4000, -1)
    frames, _ = draw(torch.tensor(logits).double().expand(4000, -1), chances)
    for count, logit in zip(frames.mean(dim=0).tolist(), logits, strict=True):
        assert count == pytest.approx(1 / (1 + math.exp(-logit / temperature)), abs=0.05)


@pytest.mark.parametrize(
    ("dims", "sampling", "why"),
    [
        (ROLL, Sampling(top_k=3), "top_k and top_p choose among symbols, .* writes frames"),
        (ROLL, Sampling(top_p=0.5), "top_k and top_p choose among symbols, .* writes frames"),
        (WAVES, Sampling(top_k=3), "top_k and top_p choose among symbols, .* writes frames"),
        (WAVES, Sampling(temperature=0.5), "temperature is for what is drawn, .* leave it out"),
    ],
)
def test_what_does_not_go_with_frames_is_refused(dims: Any, sampling: Sampling, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        model_of(dims).write_on(in_float64(frames_of().collate([0])), 2, sampling)
