"""What every topology promises; a new public file of lightning_modules is tested by existing."""

import ast
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
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

import lightning_modules
from datamodules._base import Answer, Feed, LineData, Task, TextData, TextScoring, Workspace
from datamodules._batch import Batch
from datamodules._params import FROM_DATA
from datamodules._tags import TagData
from datamodules._vocab import BOS, EOS, PAD, SPECIALS
from lightning_modules._base import Topology
from lightning_modules._cells import CellName
from lightning_modules._recipe import Recipe
from lightning_modules._text import TextTopology

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated",  # Lightning's own use of torch's pytree
    "ignore:The .* does not have many workers",
    "ignore:GPU available",
)

LETTERS = "abcdef"
FOLDER = Path(lightning_modules.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


class Toy(LineData):
    """A few short words, and something to learn from them."""

    validation_splits = ("val", "unseen")

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed(batch_tokens=40, seed=1)
        chance = np.random.default_rng(5)
        self.words_of = {
            split: [self.word(chance, int(n)) for n in chance.integers(1, 6, 14)]
            for split in ("train", "val", "unseen", "test")
        }

    def word(self, chance: np.random.Generator, length: int) -> str:
        return "".join(chance.choice(list(LETTERS), size=length))

    def prepare(self, workspace: Workspace) -> None:
        """Do nothing: the words are there."""

    def ids(self, word: str) -> list[int]:
        return [*(SPECIALS + LETTERS.index(letter) for letter in word), EOS]

    def sizes(self, split: str) -> np.ndarray:
        return np.array([[len(word) + 1] * 2 for word in self.words_of[split]])

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """Return the padded targets and their lengths."""
        raise NotImplementedError

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        words = [self.words_of[split][row] for row in rows]
        inputs, lengths = self.pad([self.ids(word) for word in words])
        return Batch(inputs, lengths, *self.targets(words), {"index": torch.tensor(rows)})

    @staticmethod
    def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        return (
            torch.tensor([row + [PAD] * (width - len(row)) for row in rows]),
            torch.tensor([len(row) for row in rows]),
        )

    def encode(self, lines: Sequence[str]) -> Batch:
        inputs, lengths = self.pad([self.ids(line) for line in lines])
        return Batch(inputs, lengths, extras={"index": torch.arange(len(lines))})

    def expected(self, split: str, row: int) -> str:
        """Return the answer that is right for a row."""
        raise NotImplementedError


class Backwards(Toy, TextData):
    """Words to be written backwards: the smallest task from tokens to tokens."""

    gives = frozenset({("tokens", "tokens")})
    scoring = TextScoring(tokenize="char")

    @property
    def dims(self) -> dict[str, int | bool]:
        size = SPECIALS + len(LETTERS)
        return {
            "source_vocabulary_size": size,
            "target_vocabulary_size": size,
            "shared_vocabulary": True,
        }

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.ids(word[::-1]) for word in words])

    def detokenise(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i - SPECIALS] if i >= SPECIALS else "?" for i in ids[:-1])

    def source_symbols(self, line: str) -> list[str]:
        return [*line, "</s>"]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        return [*self.detokenise(ids), "</s>"]

    def sources(self, split: str) -> Sequence[str]:
        return self.words_of[split]

    def references(self, split: str) -> Sequence[Sequence[str]]:
        return [[word[::-1]] for word in self.words_of[split]]

    def expected(self, split: str, row: int) -> str:
        return self.words_of[split][row][::-1]


class Marked(Toy):
    """Words with one of the first three letters in them: the smallest task from tokens to label."""

    gives = frozenset({("tokens", "label")})

    def word(self, chance: np.random.Generator, length: int) -> str:
        word = list(chance.choice(list(LETTERS[3:]), size=length))
        word[chance.integers(length)] = LETTERS[chance.integers(3)]
        return "".join(word)

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"vocabulary_size": SPECIALS + len(LETTERS), "num_classes": 3}

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        marks = [LETTERS.index(letter) for word in words for letter in word if letter in "abc"]
        return torch.tensor(marks), torch.ones(len(words), dtype=torch.int64)

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        assert output.shape == (3,)
        torch.testing.assert_close(output.exp().sum().item(), 1.0)
        best = output.argsort(descending=True)[:count].tolist()
        return [Answer(LETTERS[each], output[each].exp().item()) for each in best]

    def expected(self, split: str, row: int) -> str:
        return next(letter for letter in self.words_of[split][row] if letter in "abc")


class Round(Toy):
    """The letters in their order, round and round: the smallest task from tokens to the next."""

    gives = frozenset({("tokens", "next")})

    def word(self, chance: np.random.Generator, length: int) -> str:
        start = int(chance.integers(len(LETTERS)))
        return "".join(LETTERS[(start + at) % len(LETTERS)] for at in range(length))

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"vocabulary_size": SPECIALS + len(LETTERS)}

    def ids(self, word: str) -> list[int]:
        return super().ids(word)[:-1]

    def sizes(self, split: str) -> np.ndarray:
        return super().sizes(split) - 1

    def after(self, letter: str) -> str:
        return LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.ids("".join(map(self.after, word))) for word in words])

    def answers(self, output: Tensor, line: str, count: int) -> list[Answer]:
        torch.testing.assert_close(output.exp().sum().item(), 1.0)
        best = output.argsort(descending=True)[:count].tolist()
        return [Answer(LETTERS[each - SPECIALS], output[each].exp().item()) for each in best]

    def expected(self, split: str, row: int) -> str:
        return self.after(self.words_of[split][row][-1])


class Spanned(Toy, TagData):
    """Words whose first three letters are to be found: the smallest task from tokens to tags."""

    gives = frozenset({("tokens", "tags")})
    tag_names = ("O", "B-x", "I-x")
    label_names = ()

    @property
    def dims(self) -> dict[str, int | bool]:
        counts = {"vocabulary_size": SPECIALS + len(LETTERS), "num_tags": 3}
        return counts | {"character_vocabulary_size": 0, "num_labels": 0}

    def tags(self, word: str) -> list[int]:
        found = [letter in "abc" for letter in word]
        return [*(1 + before if it else 0 for before, it in pairwise([False, *found])), 0]

    def targets(self, words: list[str]) -> tuple[Tensor, Tensor]:
        return self.pad([self.tags(word) for word in words])

    def true_tags(self, split: str) -> Sequence[Sequence[str]]:
        return [[self.tag_names[i] for i in self.tags(word)] for word in self.words_of[split]]

    def words(self, line: str) -> list[str]:
        return [*line, "</s>"]

    def expected(self, split: str, row: int) -> str:
        return " ".join(self.true_tags(split)[row])


class Spelled(Toy, TextData):
    """Letters to be followed by the rest of the alphabet: the smallest task label to tokens."""

    gives = frozenset({("label", "tokens")})
    scoring = TextScoring(tokenize="char")

    def word(self, chance: np.random.Generator, length: int) -> str:
        return str(chance.choice(list(LETTERS)))

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"source_classes": len(LETTERS), "target_vocabulary_size": SPECIALS + len(LETTERS)}

    def sizes(self, split: str) -> np.ndarray:
        return np.array([[1, len(self.spelled(word)) + 1] for word in self.words_of[split]])

    def spelled(self, word: str) -> str:
        return LETTERS[LETTERS.index(word) :]

    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        words = [self.words_of[split][row] for row in rows]
        targets = self.pad([self.ids(self.spelled(word)) for word in words])
        encoded = self.encode(words)
        return Batch(encoded.inputs, encoded.lengths, *targets, {"index": torch.tensor(rows)})

    def encode(self, lines: Sequence[str]) -> Batch:
        inputs = torch.tensor([[LETTERS.index(line)] for line in lines])
        index = torch.arange(len(lines))
        return Batch(inputs, torch.ones_like(index), extras={"index": index})

    def detokenise(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i - SPECIALS] if i >= SPECIALS else "?" for i in ids[:-1])

    def source_symbols(self, line: str) -> list[str]:
        return [line]

    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        return [*self.detokenise(ids), "</s>"]

    def sources(self, split: str) -> Sequence[str]:
        return self.words_of[split]

    def references(self, split: str) -> Sequence[Sequence[str]]:
        return [[self.spelled(word)] for word in self.words_of[split]]

    def expected(self, split: str, row: int) -> str:
        return self.spelled(self.words_of[split][row])


class Described(Spelled):
    """The same of letters that are given as vectors: the smallest task from vector to tokens."""

    gives = frozenset({("vector", "tokens")})

    @property
    def dims(self) -> dict[str, int | bool]:
        return {"feature_size": 2, "target_vocabulary_size": SPECIALS + len(LETTERS)}

    def encode(self, lines: Sequence[str]) -> Batch:
        angles = super().encode(lines)
        vectors = torch.stack([angles.inputs.sin(), angles.inputs.cos()], dim=-1)  # (B, 1, 2)
        return replace(angles, inputs=vectors)


#: A small kind of data for each task; a topology that accepts none of these needs a new one here.
DATA: dict[Task, type[Toy]] = {
    ("tokens", "tokens"): Backwards,
    ("tokens", "label"): Marked,
    ("tokens", "tags"): Spanned,
    ("tokens", "next"): Round,
    ("label", "tokens"): Spelled,
    ("vector", "tokens"): Described,
}


def public_classes(name: str) -> list[type[Topology]]:
    module = import_module(f"lightning_modules.{name}")
    return [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Topology)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]


@pytest.fixture(params=FILES)
def topology(request: pytest.FixtureRequest) -> type[Topology]:
    (found,) = public_classes(request.param)
    return found


@pytest.fixture
def data(topology: type[Topology]) -> Toy:
    for task in sorted(topology.accepts):
        if task in DATA:
            return DATA[task]()
    raise AssertionError(f"write a small kind of data for one of {set(topology.accepts)}")


def build(topology: type[Topology], data: Toy, **changes: Any) -> Topology:
    torch.manual_seed(2)
    off = dict.fromkeys(("embedding_dropout", "symbol_dropout", "dropout"), 0.0)
    small = {"hidden_size": 24, **off, **changes}
    known = inspect.signature(topology).parameters
    return topology(**{k: v for k, v in small.items() if k in known}, **data.dims)


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


def test_signature_is_a_schema(topology: type[Topology]) -> None:
    documented = dict(
        re.findall(r"^    (\w+): (.+)$", inspect.getdoc(topology) or "", re.MULTILINE)
    )
    for parameter, hint in parameters_of(topology):
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


def test_imports_nothing_of_jobs_or_worker(topology: type[Topology]) -> None:
    tree = ast.parse(Path(inspect.getfile(topology)).read_text())
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
    assert not any(output[name].requires_grad for name in ("nll_sum", "tokens", "correct"))
    assert batch.target_lengths is not None
    assert output["tokens"] == batch.target_lengths.sum()
    assert 0 <= output["correct"] <= output["tokens"]
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
    assert output["loss"] == output["tokens"] == output["correct"] == 0
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


@given(extra=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cell", get_args(CellName))
def test_padding_and_order_of_rows_change_nothing(
    name: str, cell: CellName, extra: int, seed: int
) -> None:
    (topology,) = public_classes(name)
    data = DATA[min(topology.accepts & DATA.keys())]()
    model = build(topology, data, layers=2, cell=cell).eval()
    rows = np.random.default_rng(seed).permutation(6)
    plain_batch, shuffled = data.collate("train", range(6)), data.collate("train", rows.tolist())
    assert shuffled.targets is not None
    steps = extra if shuffled.targets.ndim > 1 else 0  # a class has nothing to be padded
    wide = replace(
        shuffled,
        inputs=pad(shuffled.inputs, (0, extra), value=PAD),
        targets=pad(shuffled.targets, (0, steps), value=PAD),
    )
    one, other = model.training_step(plain_batch, 0), model.training_step(wide, 0)
    torch.testing.assert_close(one["nll_sum"], other["nll_sum"])
    assert one["correct"] == other["correct"]


def test_learns_a_few_batches_by_heart(topology: type[Topology], data: Toy) -> None:
    model = build(topology, data, label_smoothing=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    few = batches(data)[:2]
    for _ in range(50):
        for batch in few:
            optimiser.zero_grad()
            output = model.training_step(batch, 0)
            output["loss"].backward()
            optimiser.step()
    outputs = [model.eval().training_step(batch, 0) for batch in few]
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
        accuracy = sum(output["correct"] for output in outputs) / tokens
        assert metrics[f"{split}/accuracy"] == pytest.approx(accuracy.item())


@pytest.mark.parametrize(
    "name", [name for name in FILES if issubclass(public_classes(name)[0], TextTopology)]
)
def test_validation_scores_the_text_it_wrote(name: str, tmp_path: Path) -> None:
    (topology,) = public_classes(name)
    data = DATA[min(topology.accepts & DATA.keys())]()
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
