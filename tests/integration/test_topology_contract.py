"""What every topology promises; a new public file of lightning_modules is tested by existing."""

import ast
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Doc

from datamodules._base import Task, TextData
from datamodules._batch import Batch
from datamodules._params import FROM_DATA
from datamodules._tags import TagData
from datamodules._vocab import BOS, PAD
from lightning_modules._base import Topology
from lightning_modules._cells import CellName
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._recipe import Recipe
from lightning_modules._tagging import f1_of_rows
from lightning_modules._text import TextTopology
from tests.doubles.topologies import FILES, build, cases, public_classes
from tests.doubles.toys import DATA, Backwards, Toy

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated",  # Lightning's own use of torch's pytree
    "ignore:The .* does not have many workers",
    "ignore:GPU available",
)


@pytest.fixture(params=FILES)
def public(request: pytest.FixtureRequest) -> type[Topology]:
    (found,) = public_classes(request.param)
    return found


@pytest.fixture(params=cases())
def case(request: pytest.FixtureRequest) -> tuple[str, Task]:
    found: tuple[str, Task] = request.param
    return found


@pytest.fixture
def topology(case: tuple[str, Task]) -> type[Topology]:
    (found,) = public_classes(case[0])
    return found


@pytest.fixture
def data(case: tuple[str, Task]) -> Toy:
    assert case[1] in DATA, f"write a small kind of data for {case[1]}: tests/doubles/toys.py"
    return DATA[case[1]]()


def batches(data: Toy, split: str = "train") -> list[Batch]:
    return [data.collate(split, rows) for rows in data.plan(split, 0)]


def parameters_of(topology: type[Topology]) -> Iterator[tuple[inspect.Parameter, Any]]:
    hints = get_type_hints(topology.__init__, include_extras=True)
    for parameter in list(inspect.signature(topology.__init__).parameters.values())[1:]:
        yield parameter, hints[parameter.name]


def from_data(hint: Any) -> bool:
    return get_origin(hint) is Annotated and FROM_DATA in get_args(hint)[1:]


def test_there_are_topologies() -> None:
    assert "attention_encoder_decoder" in FILES


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_one_topology_named_like_it(name: str) -> None:
    (found,) = public_classes(name)
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", found.__name__).lower() == name


def test_says_what_it_is_and_how_it_is_judged(topology: type[Topology], data: Toy) -> None:
    assert topology.accepts
    model = build(topology, data)
    assert model.monitor.startswith("val/")
    assert model.monitor_mode in {"min", "max"}
    assert inspect.getdoc(topology)
    assert inspect.getdoc(inspect.getmodule(topology))


def test_signature_is_a_schema(public: type[Topology]) -> None:
    documented = dict(re.findall(r"^    (\w+): (.+)$", inspect.getdoc(public) or "", re.MULTILINE))
    for parameter, hint in parameters_of(public):
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert plain(hint), f"{parameter.name}: {hint}"
        if from_data(hint):
            assert parameter.default in {inspect.Parameter.empty, 0, 1}  # 0: the data has none
        else:
            assert parameter.default is not inspect.Parameter.empty
            assert documented.pop(parameter.name, "") or shared_meaning(hint)
    assert not documented


def shared_meaning(hint: Any) -> str:
    """Return what a type says of itself."""
    return "".join(mark.documentation for mark in get_args(hint) if isinstance(mark, Doc))


def plain(hint: Any) -> bool:
    """Say whether a type can stand in a spec file."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return plain(args[0])
    if origin in {Union, types.UnionType, list}:
        return all(plain(arg) for arg in args)
    return origin is Literal or hint in {int, float, bool, str, type(None)}


def test_imports_nothing_of_jobs_or_worker(public: type[Topology]) -> None:
    tree = ast.parse(Path(inspect.getfile(public)).read_text())
    imported = [
        *(node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)),
        *(a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names),
    ]
    assert not {"jobs", "worker", "redis", "celery"} & {name.split(".")[0] for name in imported}


def test_the_same_seed_makes_the_same_model(topology: type[Topology], data: Toy) -> None:
    first, second = build(topology, data).state_dict(), build(topology, data).state_dict()
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_a_step_tells_what_it_counted(topology: type[Topology], data: Toy) -> None:
    batch = batches(data)[0]
    output = build(topology, data, label_smoothing=0.0).training_step(batch, 0)
    assert output["loss"].requires_grad
    assert not any(output[name].requires_grad for name in {*output} - {"loss"})
    assert batch.targets is not None
    assert batch.target_lengths is not None
    each = batch.targets[0, 0].numel() if batch.targets.ndim > 1 else 1
    assert output["tokens"] == batch.target_lengths.sum() * each
    assert 0 <= output.get("correct", 0) <= output["tokens"]
    torch.testing.assert_close(output["loss"].detach(), output["nll_sum"] / output["tokens"])


@pytest.mark.parametrize("cell", get_args(CellName))
def test_every_parameter_gets_a_gradient(
    topology: type[Topology], data: Toy, cell: CellName
) -> None:
    model = build(topology, data, layers=2, cell=cell)
    for batch in batches(data):
        model.training_step(batch, 0)["loss"].backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_a_rank_without_rows_adds_nothing(topology: type[Topology], data: Toy) -> None:
    model = build(topology, data)
    output = model.training_step(batches(data)[0].idle(), 0)
    output["loss"].backward()
    assert not any(output.values())
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


@given(cell=st.sampled_from(get_args(CellName)), extra=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("pair", cases())
def test_padding_and_order_of_rows_change_nothing(
    pair: tuple[str, Task], cell: CellName, extra: int, seed: int
) -> None:
    (topology,), data = public_classes(pair[0]), DATA[pair[1]]()
    model = build(topology, data, layers=2, cell=cell).eval()
    rows = np.random.default_rng(seed).permutation(6)
    plain_batch, shuffled = data.collate("train", range(6)), data.collate("train", rows.tolist())
    assert shuffled.targets is not None
    steps = 0 if pair[1][1] in {"label", "value"} else extra  # these have nothing to be padded
    inputs = 0 if pair[1][0] in {"label", "vector"} else extra
    wide = replace(
        shuffled, inputs=longer(shuffled.inputs, inputs), targets=longer(shuffled.targets, steps)
    )
    one, other = model.training_step(plain_batch, 0), model.training_step(wide, 0)
    torch.testing.assert_close(one["nll_sum"], other["nll_sum"])
    assert one.get("correct") == other.get("correct")


def longer(steps: Tensor, extra: int) -> Tensor:
    """Return symbols (B, S) or frames (B, S, F) with so many more steps of padding."""
    if not extra:
        return steps
    return pad(steps, (0, extra) if steps.ndim == 2 else (0, 0, 0, extra), value=PAD)


def test_learns_a_few_batches_by_heart(topology: type[Topology], data: Toy) -> None:
    model = build(topology, data, label_smoothing=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    few = batches(data)[:2]
    for _ in range(75):
        for batch in few:
            optimiser.zero_grad()
            output = model.training_step(batch, 0)
            output["loss"].backward()
            optimiser.step()
    outputs = [model.eval().training_step(batch, 0) for batch in few]
    if "correct" in outputs[0]:
        assert sum(o["correct"] for o in outputs) == sum(o["tokens"] for o in outputs)
    assert max(output["loss"].item() for output in outputs) < 0.1
    for batch in few:
        for row, output in zip(batch.extras["index"].tolist(), model.predict(batch), strict=True):
            line, expected = data.words_of["train"][row], data.expected("train", row)
            assert data.answers(output, line, 1)[0].text == expected


def test_half_precision_products_change_little(topology: type[Topology], data: Toy) -> None:
    model, batch = build(topology, data, layers=2), batches(data)[0]
    single = model.training_step(batch, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.training_step(batch, 0)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, atol=0.05, rtol=0)
    half.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def trainer(tmp_path: Path, **options: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        **quiet,
        **options,
    )


def test_runs_under_lightning_and_comes_back(
    topology: type[Topology], data: Toy, tmp_path: Path
) -> None:
    model = build(topology, data)
    model.recipe = Recipe(warmup_steps=2, total_steps=len(data.plan("train", 0)))
    fitting = trainer(tmp_path, max_epochs=1, precision="bf16-mixed", num_sanity_val_steps=1)
    fitting.fit(model, datamodule=data)
    logged = {name: value.item() for name, value in fitting.callback_metrics.items()}
    assert model.monitor in logged
    assert {name.split("/")[0] for name in logged} == {"val", "unseen"}
    assert all(np.isfinite(value) for value in logged.values())
    (tested,) = fitting.test(model, datamodule=data, verbose=False)
    assert {name.split("/")[1] for name in tested} == {name.split("/")[1] for name in logged}

    fitting.save_checkpoint(tmp_path / "model.ckpt")
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert saved["hyper_parameters"] == dict(model.hparams)
    again = topology.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    (repeated,) = trainer(tmp_path, precision="bf16-mixed").test(
        again, datamodule=data, verbose=False
    )
    assert repeated == tested


def test_validation_counts_every_row_once(
    topology: type[Topology], data: Toy, tmp_path: Path
) -> None:
    model = build(topology, data, label_smoothing=0.3)
    (val, unseen) = trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    metrics = val | unseen
    for split in ("val", "unseen"):
        outputs = [model.training_step(batch, 0) for batch in batches(data, split)]
        tokens = sum(output["tokens"] for output in outputs)
        loss = sum(output["nll_sum"] for output in outputs) / tokens
        assert metrics[f"{split}/loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert (f"{split}/accuracy" in metrics) == ("correct" in outputs[0])
        if "correct" in outputs[0]:
            accuracy = sum(output["correct"] for output in outputs) / tokens
            assert metrics[f"{split}/accuracy"] == pytest.approx(accuracy.item())


def test_what_rows_add_is_the_score_of_them_all(
    topology: type[Topology], data: Toy, tmp_path: Path
) -> None:
    model = build(topology, data)
    assert isinstance(model, EvaluatedTopology)
    model.notes_rows = True
    (metrics,) = trainer(tmp_path).test(model, datamodule=data, verbose=False)
    notes = model.row_notes["test"]
    rows, said = notes.gathered(), notes.all_said()
    if isinstance(model, TextTopology) and model.writes_text:
        rows |= model.outputs["test"].rows
    if isinstance(data, TagData) and said:
        found = [[data.tag_names[each] for each in ids] for ids in said.values()]
        rows["f1"] = f1_of_rows(found, data.true_tags("test"), data.tag_names)
    assert model.monitor.partition("/")[2] in rows, "a comparison is by this one as a rule"
    assert {len(each) for each in rows.values()} == {len(data.sizes("test"))}
    for name, each in rows.items():
        assert each.score() == pytest.approx(metrics[f"test/{name}"], rel=1e-5), name


@pytest.mark.parametrize("pair", [case for case in cases() if case.values[0][1][1] == "tokens"])
def test_validation_scores_the_text_it_wrote(pair: tuple[str, Task], tmp_path: Path) -> None:
    (topology,), data = public_classes(pair[0]), DATA[pair[1]]()
    assert isinstance(data, TextData)
    model = build(topology, data, label_smoothing=0.3)
    (val, unseen) = trainer(tmp_path).validate(model, datamodule=data, verbose=False)
    metrics = val | unseen
    assert isinstance(model, TextTopology)
    for split in ("val", "unseen"):
        written = [
            data.detokenise(model.generate(data.encode([word]))[0][0].ids)
            for word in data.words_of[split]
        ]
        assert model.outputs[split].hypotheses == tuple(written)
        for score, value in model.outputs[split].metrics.items():
            assert metrics[f"{split}/{score}"] == value  # every digit


def test_the_fake_data_is_well_formed() -> None:
    data = Backwards()
    batch = batches(data)[0]
    assert batch.targets is not None
    assert not (batch.targets == BOS).any()
    row = int(batch.extras["index"][0])
    written = data.detokenise(batch.targets[0, : batch.lengths[0]].tolist())
    assert written == data.expected("train", row)
