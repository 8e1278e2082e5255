"""Values are written by the same six equations as symbols, each read by the step after it."""

import itertools
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from datamodules._batch import Batch
from datamodules._values import BEFORE
from jobs.errors import SpecError
from jobs.spec import PredictSpec, SearchOptions
from lightning_modules._cells import CellName
from lightning_modules._errors import ModelError
from lightning_modules._recipe import Recipe
from lightning_modules.encoder_decoder import Context, EncoderDecoder, Feed
from tests.integration.test_encoder_decoder import Row, affine, handed_over, step
from worker.runner.evaluate import set_search
from worker.runner.predict import ask

FEATURES, COLUMNS, STEPS = 3, 2, 4
each_way = pytest.mark.parametrize(
    ("context", "feed"), list(itertools.product(get_args(Context), get_args(Feed)))
)
each_cell = pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])


def build(context: str, feed: str, cell: CellName = "gru", **params: Any) -> EncoderDecoder:
    """Return a small model in float64 whose weights are all far from their first values."""
    torch.manual_seed(13)
    given = {
        "feature_size": FEATURES,
        "value_size": COLUMNS,
        "value_steps": STEPS,
        "hidden_size": 4,
        "embedding_size": 3,
        **params,
    }
    model = EncoderDecoder(context=context, feed=feed, cell=cell, **given).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def frames(seed: int = 3) -> Batch:
    """Return two sequences of unequal length, with the values that follow and the one before."""
    chance = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    inputs = some(2, 5, FEATURES)
    inputs[1, 3:] = 0
    return Batch(
        inputs,
        torch.tensor([5, 3]),
        some(2, STEPS, COLUMNS),
        torch.tensor([STEPS, STEPS]),
        {"index": torch.arange(2), BEFORE: some(2, COLUMNS)},
    )


def reference(
    model: EncoderDecoder, way: tuple[str, str], name: CellName, batch: Batch, forced: bool
) -> list[list[Row]]:
    """Return the values of all steps, number by number; after the true ones if they are forced."""
    assert batch.targets is not None
    rows = []
    for row, length in enumerate(batch.lengths.tolist()):
        xs = [affine(model.inputs.map, frame) for frame in batch.inputs[row, :length].tolist()]
        c, state = handed_over(model, way, name, xs)
        value, told = batch.extras[BEFORE][row].tolist(), []
        for true in batch.targets[row].tolist():
            told.append(step(model, name, affine(model.target_embedding, value) + c, state))
            value = true if forced else told[-1]
        rows.append(told)
    return rows


@each_cell
@each_way
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, True), (2, False)])
def test_values_are_the_equations_number_by_number(
    name: CellName, context: str, feed: str, layers: int, bidirectional: bool
) -> None:
    model = build(context, feed, name, layers=layers, bidirectional=bidirectional)
    batch = frames()
    with torch.no_grad():
        for forced, found in ((True, model(batch)), (False, model.run_free(batch))):
            expected = reference(model, (context, feed), name, batch, forced)
            torch.testing.assert_close(
                found, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
            )


@each_cell
@each_way
def test_gradients_agree_with_finite_differences(name: CellName, context: str, feed: str) -> None:
    model, batch = build(context, feed, name, layers=2, hidden_size=2), frames()
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        bound = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, bound, (batch,)).tanh().sum()

    # fast_mode checks random directions through all weights together.
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@each_way
def test_every_weight_learns(context: str, feed: str) -> None:
    model = build(context, feed, "lstm", layers=2)
    model.training_step(frames(), 0)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@each_way
def test_company_and_padding_change_nothing(context: str, feed: str) -> None:
    model, batch = build(context, feed, "lstm", layers=2), frames()
    assert batch.targets is not None
    together = model(batch), model.run_free(batch)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = Batch(
            batch.inputs[row : row + 1, :length],
            batch.lengths[row : row + 1],
            batch.targets[row : row + 1],
            torch.tensor([STEPS]),
            {name: extra[row : row + 1] for name, extra in batch.extras.items()},
        )
        for one, other in zip(together, (model(alone), model.run_free(alone)), strict=True):
            torch.testing.assert_close(one[row], other[0])


def test_the_loss_is_the_mean_square_after_the_true_values() -> None:
    model, batch = build("last", "initial"), frames()
    assert batch.targets is not None
    output = model.training_step(batch, 0)
    squares = (model(batch) - batch.targets) ** 2
    torch.testing.assert_close(output["loss"], squares.mean())
    torch.testing.assert_close(output["nll_sum"], squares.sum().detach())
    assert output["tokens"] == squares.numel()
    assert "correct" not in output


def test_a_forecast_needs_no_targets_and_shows_its_own_values() -> None:
    model, batch = build("transformed_all", "every_step"), frames()
    blind = replace(batch, targets=None, target_lengths=None)
    for told, written in zip(model.predict(blind), model.run_free(batch), strict=True):
        assert told.shape == (STEPS, COLUMNS)
        torch.testing.assert_close(told, written.float())
    with pytest.raises(ModelError, match="has no targets"):
        model(blind)


def test_without_a_newest_value_the_first_step_reads_zero() -> None:
    model, batch = build("last", "every_step"), frames()
    extras = {"index": batch.extras["index"]}
    zeros = {**extras, BEFORE: torch.zeros(2, COLUMNS, dtype=torch.float64)}
    assert torch.equal(model(replace(batch, extras=extras)), model(replace(batch, extras=zeros)))
    assert not torch.equal(model(batch), model(replace(batch, extras=zeros)))


def test_values_are_chosen_by_their_own_error_and_symbols_by_bleu() -> None:
    model = build("last", "initial")
    assert (model.monitor, model.monitor_mode) == ("val/mse", "min")
    assert (EncoderDecoder.monitor, EncoderDecoder.monitor_mode) == ("val/bleu", "max")


def test_symbols_or_values_are_written_and_not_both_or_none() -> None:
    for params, told in (({"value_size": 0}, "neither"), ({"target_vocabulary_size": 9}, "both")):
        with pytest.raises(ModelError, match=f"to write, .*{told}"):
            build("last", "initial", **params)


def test_in_training_all_of_what_is_read_may_be_its_own() -> None:
    still = {"dropout": 0.0, "embedding_dropout": 0.0}
    model, batch = build("last", "every_step", scheduled_sampling=1.0, **still), frames()
    assert batch.targets is not None
    own = model.run_free(batch)
    expected = torch.cat([batch.extras[BEFORE][:, None], own[:, :-1]], dim=1)
    torch.testing.assert_close(model.mixed(batch, 1.0), expected)
    torch.testing.assert_close(model.mixed(batch, 0.0), model.previous(batch))
    torch.testing.assert_close(model(batch, model.mixed(batch, 1.0)), own)
    some = model.mixed(batch, 0.5)
    assert not torch.equal(some, expected)
    assert not torch.equal(some, model.previous(batch))


def test_its_own_values_are_read_more_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"dropout": 0.0, "embedding_dropout": 0.0}
    model, batch = build("last", "every_step", scheduled_sampling=1.0, **still), frames()
    model.recipe = Recipe(total_steps=10)
    model.train()
    losses = []
    for at in (0, 9):
        monkeypatch.setattr(type(model), "global_step", at)
        losses.append(model.training_step(batch, 0)["loss"].item())
    assert batch.targets is not None
    model.eval()
    for loss, told in zip(losses, (model(batch), model.run_free(batch)), strict=True):
        assert loss == pytest.approx(((told - batch.targets) ** 2).mean().item())


def test_where_values_are_written_there_is_nothing_to_search() -> None:
    model = build("last", "initial")
    with pytest.raises(SpecError, match=r"writes no text: leave out \[search\]"):
        set_search(model, SearchOptions(beam=3))
    with pytest.raises(SpecError, match="writes no text: it has no attention"):
        ask(model, PredictSpec(job="1", lines=("[]",), attention=True))
