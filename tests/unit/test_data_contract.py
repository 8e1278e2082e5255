"""What every kind of data promises; a new public file of datamodules is tested by existing."""

import inspect
import io
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import datamodules
from datamodules._base import (
    FAMILY_METRICS,
    BatchLoader,
    DataModule,
    Feed,
    LineData,
    StreamData,
    TextData,
    Workspace,
)
from datamodules._content import split_digest, training_digest
from datamodules._stream import FOLLOWS
from datamodules._tags import TagData
from datamodules._vocab import EOS, PAD
from jobs.errors import SpecError
from jobs.schema import Parameter
from jobs.spec import Component, TrainerOptions
from worker.runner import catalog

FILES = sorted(path.stem for path in Path(datamodules.__file__).parent.glob("[!_]*.py"))
ODD_LINES = ["", " ", "a", "21. Februar  2019 \u202f☃", "x" * 50]


def small_dates(folder):
    return {"examples": 150, "held_out": 20, "locales": ["de", "fa", "ja"]}


def small_parallel_text(folder):
    for split, count in (("train", 120), ("val", 25), ("test", 13)):
        for suffix in ("de", "en"):
            lines = [
                " ".join([suffix] * (1 + (7 * row) % 11)) + f" {row}\n" for row in range(count)
            ]
            (folder / f"{split}.{suffix}").write_text("".join(lines))
    return {"root": ".", "source": "de", "target": "en", "vocabulary_size": 300}


def small_labelled_text(folder):
    rows = [f"{'even' if row % 2 else 'odd'}\t{'ab' * (1 + row % 9)} {row}" for row in range(150)]
    (folder / "train.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    return {"root": ".", "tokens": "characters"}


def small_turned_text(folder):
    return {**small_labelled_text(folder), "direction": "label_to_text"}


def small_tagged_text(folder):
    for split, count in (("train", 120), ("val", 25), ("test", 13)):
        (folder / split).mkdir()
        rows = [[f"w{(row * place) % 17}" for place in range(1 + row % 9)] for row in range(count)]
        for name, cut in (("seq.in", slice(None)), ("seq.out", slice(-1, None)), ("label", None)):
            lines = [
                f"{len(words)}" if cut is None else " ".join(word[cut] for word in words)
                for words in rows
            ]
            (folder / split / name).write_text("".join(f"{line}\n" for line in lines))
    return {"root": ".", "label": "label"}


def small_char_text(folder):
    for split, count in (("train", 300), ("val", 90), ("test", 90)):
        (folder / f"{split}.txt").write_text("".join(f"row {row} of it\n" for row in range(count)))
    return {"root": ".", "val": "val.txt", "test": "test.txt", "bptt": 10}


def small_question_answer(folder):
    for split, count in (("train", 80), ("val", 25), ("test", 13)):
        stories = [
            "".join(f"{line} Row {row} has {line}.\n" for line in range(1, 2 + row % 7))
            + f"{2 + row % 7} How many?\t{row % 7 + 1}\t1\n"
            for row in range(count)
        ]
        (folder / f"{split}.txt").write_text("".join(stories))
    return {"root": "."}


def small_captions(folder):
    for split, count in (("train", 120), ("val", 25), ("test", 13)):
        rows = [
            [
                f"inform(name='n {row}';food=f{row % 5};kidsallowed={'yes' if row % 3 else 'no'})",
                " ".join(["n", str(row), "has", f"f{row % 5}", *["kids"] * (row % 7)]),
            ]
            for row in range(count)
        ]
        (folder / f"{split}.json").write_text(f"# a comment\n{json.dumps(rows)}")
    return {"root": "."}


def small_time_series(folder):
    hours = [f"2020-01-{1 + row // 24:02d}T{row % 24:02d}:00" for row in range(140)]
    rows = [f"{hour},{row % 24},{row * row % 7}" for row, hour in enumerate(hours)]
    (folder / "hours.csv").write_text("\n".join(["date,load,heat", *rows]) + "\n")
    return {"root": ".", "targets": ["heat"], "window": 12, "horizon": 5, "calendar": ["day"]}


def small_speech(folder):
    chance = np.random.default_rng(0)
    for row in range(90):
        samples = chance.uniform(-1, 1, 300 + 40 * (row % 7)).astype(np.float32)
        soundfile.write(folder / f"{'no' if row % 2 else 'yes'}_{row}.wav", samples, 8000)
    names = {"layout": "names", "pattern": "{label}_{index}", "test_where": "index=0-9"}
    return {"root": ".", "target": "text", **names, "mels": 4, "hop": 2.0}


def small_feature_frames(target):
    said = {
        "label": lambda row: {"label": row % 3},
        "value": lambda row: {"value": [row, 1 / (1 + row)]},
        "tags": lambda row: {"labels": [place % 2 for place in range(1 + row % 7)]},
        "labels": lambda row: {"labels": [["a", "b"][: place % 3] for place in range(1 + row % 7)]},
        "values": lambda row: {"values": [row * place for place in range(1 + row % 7)]},
        "next": lambda row: {},
        "text": lambda row: {"text": "ab" * (1 + row % 3) + " c"},
    }[target]

    def write(folder):
        chance = np.random.default_rng(0)
        rows = []
        for row in range(130):
            np.save(folder / f"{row}.npy", chance.normal(3, 2, (1 + row % 7, 4)))
            rows.append(json.dumps({"path": f"{row}.npy", **said(row)}))
        (folder / "train.jsonl").write_text("\n".join(rows))
        return {"root": ".", "target": target, "bptt": 3}

    return write


#: Arguments that make little data of each kind that has no small defaults.
ARGUMENTS = {
    "captions": small_captions,
    "char_text": small_char_text,
    "dates": small_dates,
    "feature_frames": small_feature_frames("text"),
    "feature_frames, label": small_feature_frames("label"),
    "feature_frames, value": small_feature_frames("value"),
    "feature_frames, tags": small_feature_frames("tags"),
    "feature_frames, labels": small_feature_frames("labels"),
    "feature_frames, values": small_feature_frames("values"),
    "feature_frames, next": small_feature_frames("next"),
    "question_answer": small_question_answer,
    "parallel_text": small_parallel_text,
    "labelled_text": small_labelled_text,
    "labelled_text, turned": small_turned_text,
    "speech": small_speech,
    "tagged_text": small_tagged_text,
    "time_series": small_time_series,
}

#: Lines that a kind of data can read, where that is not any line.
LINES = {
    "labelled_text, turned": ["", " ", "odd", " even "],
    **{name: ["", " ", "7.npy"] for name in ARGUMENTS if name.startswith("feature_frames")},
    "speech": ["", " "],
    "captions": ["", " ", "goodbye()", " ?request( food ) ", "x(name='a ☃\u202f';c=no;a b=2)"],
    "time_series": [
        json.dumps([[f"2021-01-01T{hour:02d}:00", hour + first, 1] for hour in range(12 + first)])
        for first in range(3)
    ],
}


#: Every kind of data, one that has two sides by both of them.
SAMPLES = [*FILES, *(name for name in ARGUMENTS if name not in FILES)]


def kind_of(name):
    name, *_ = name.split(",")
    module = import_module(f"datamodules.{name}")
    public = [
        each
        for each_name, each in vars(module).items()
        if inspect.isclass(each)
        and issubclass(each, DataModule)
        and each.__module__ == module.__name__
        and not each_name.startswith("_")
    ]
    assert len(public) == 1, f"{name} must hold one public DataModule"
    return public[0]


class Sample:
    """One kind of data, little of it, and the means to make it again."""

    def __init__(self, name, folder):
        self.name = name
        self.cls = kind_of(name)
        self.lines = LINES.get(name, ODD_LINES)
        (folder / "data").mkdir()
        self.arguments = ARGUMENTS.get(name, lambda _: {})(folder / "data")
        self.workspace = Workspace(roots=(folder / "data",), cache=folder / "cache")
        self.data = self.prepared()
        self.splits = ("train", *self.data.validation_splits, "test")
        #: What goes in, and whether text comes out.
        self.tasks = self.tasks_of(self.cls)
        self.takes_tokens = {given for given, _ in self.tasks} == {"tokens"}
        self.writes = isinstance(self.data, TextData) and {w for _, w in self.tasks} == {"tokens"}

    def tasks_of(self, cls):
        if cls.tasks_by is None:
            return cls.gives
        name, choices = cls.tasks_by
        return choices[self.arguments.get(name, inspect.signature(cls).parameters[name].default)]

    def fresh(self, **feed):
        data = self.cls(**self.arguments)
        data.feed = Feed(**{"batch_tokens": 150, "seed": 4, **feed})
        return data

    def prepared(self, **feed):
        data = self.fresh(**feed)
        data.prepare(self.workspace)
        return data


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request, tmp_path_factory):
    return Sample(request.param, tmp_path_factory.mktemp(request.param))


def same(first, second):
    """Whether two batches are equal to the last number."""
    pairs = [
        (first.inputs, second.inputs),
        (first.lengths, second.lengths),
        (first.targets, second.targets),
        (first.target_lengths, second.target_lengths),
        *((first.extras[name], second.extras[name]) for name in first.extras),
    ]
    return first.extras.keys() == second.extras.keys() and all(
        one is other if one is None or other is None else torch.equal(one, other)
        for one, other in pairs
    )


# --- what makes scores comparable


def altered(folder):
    """Take the last row off every text, and change a recording of each split."""
    for file in list(folder.rglob("*")):
        if file.suffix == ".json":
            head, _, rows = file.read_text().partition("\n")
            file.write_text(f"{head}\n{json.dumps(json.loads(rows)[:-1])}")
        elif file.name in {"no_5.wav", "no_51.wav", "no_53.wav"}:
            file.write_bytes((folder / "yes_0.wav").read_bytes())
        elif file.is_file() and file.suffix not in {".npy", ".wav"}:
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def test_a_split_is_known_by_what_it_was_made_of(sample, tmp_path):
    digests = {split: split_digest(sample.data, split) for split in sample.splits}
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in digests.values())
    assert len(set(digests.values())) == len(digests)
    again = sample.prepared()
    assert {split: split_digest(again, split) for split in sample.splits} == digests
    assert training_digest(again) == training_digest(sample.data) != ""

    arguments = ARGUMENTS[sample.name](tmp_path)
    altered(tmp_path)
    if sample.cls.__name__ == "Dates":
        arguments["seed"] = 1
    other = sample.cls(**arguments)
    other.prepare(Workspace(roots=(tmp_path,), cache=tmp_path / "cache"))
    assert split_digest(other, "test") != digests["test"]
    assert training_digest(other) != training_digest(sample.data)


def test_the_digest_of_a_test_split_does_not_depend_on_who_is_scored(sample):
    model = sample.fresh()
    model.load_state_dict(sample.data.state_dict())
    model.prepare(sample.workspace)
    assert split_digest(model, "test") == split_digest(sample.data, "test")


# --- what the catalogue reads


def test_the_signature_is_a_schema_with_a_meaning_for_each_parameter(sample):
    parameters = list(inspect.signature(sample.cls.__init__).parameters.values())[1:]
    hints = inspect.get_annotations(sample.cls.__init__, eval_str=True)
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)
    for each in parameters:
        default = {} if each.default is each.empty else {"default": each.default}
        parameter = Parameter.from_annotation(each.name, hints[each.name], **default)
        if default:
            assert parameter.check(each.default, "default") == each.default
    arguments = inspect.getdoc(sample.cls).partition("\nArgs:\n")[2]
    meanings = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    assert meanings == [each.name for each in parameters]


def test_no_more_symbols_can_be_asked_for_than_there_is_memory_to_learn(sample):
    hints = inspect.get_annotations(sample.cls.__init__, eval_str=True)
    if "vocabulary_size" not in hints:
        pytest.skip("it takes all symbols, or reads none")
    parameter = Parameter.from_annotation("vocabulary_size", hints["vocabulary_size"])
    assert parameter.check(1_000_000, "[data]") == 1_000_000
    with pytest.raises(SpecError, match="at most 1,000,000, not 1000000000"):
        parameter.check(1_000_000_000, "[data]")


def test_what_it_gives_and_how_it_wants_to_be_trained_is_said(sample):
    assert sample.cls.gives
    assert all(isinstance(word, str) for task in sample.cls.gives for word in task)
    assert len(set(sample.data.validation_splits)) == len(sample.data.validation_splits) > 0
    TrainerOptions.from_dict(dict(sample.cls.trainer_defaults))


def test_a_parameter_that_decides_what_it_gives_has_a_task_for_each_of_its_values(sample):
    if sample.cls.tasks_by is None:
        return
    name, choices = sample.cls.tasks_by
    hint = inspect.get_annotations(sample.cls.__init__, eval_str=True)[name]
    assert set(choices) == set(Parameter.from_annotation(name, hint).choices)
    assert frozenset().union(*choices.values()) == sample.cls.gives


def test_dims_are_plain_numbers(sample):
    assert sample.data.dims
    assert all(type(value) in (int, bool) for value in sample.data.dims.values())


# --- plans and loaders


def test_the_plan_has_every_row_once_and_follows_from_its_arguments(sample):
    again = sample.prepared()
    for split in sample.splits:
        for epoch in (0, 3):
            plan = sample.data.plan(split, epoch)
            rows = sorted(row for batch in plan for row in batch)
            assert rows == list(range(len(sample.data.sizes(split))))
            assert all(type(row) is int for batch in plan for row in batch)
            assert again.plan(split, epoch) == plan


def test_training_is_shuffled_by_seed_and_epoch_and_nothing_else_is(sample):
    other_seed = sample.prepared(seed=5)
    first = sample.data.plan("train", 0)
    assert sample.data.plan("train", 1) != first != other_seed.plan("train", 0)
    for split in sample.splits[1:]:
        assert sample.data.plan(split, 1) == other_seed.plan(split, 0)


def test_a_loader_that_starts_at_a_batch_gives_the_tail(sample):
    whole = list(BatchLoader(sample.data, "train", 2))
    assert len(whole) > 3
    for start in (1, len(whole) - 1, len(whole)):
        tail = BatchLoader(sample.data, "train", 2, start)
        assert len(tail) == len(whole) - start
        assert all(same(one, other) for one, other in zip(tail, whole[start:], strict=True))
    with pytest.raises(ValueError, match="no batch"):
        BatchLoader(sample.data, "train", 2, len(whole) + 1)


def test_training_goes_on_where_the_feed_says_and_only_in_that_epoch(sample):
    data = sample.prepared(start_epoch=1, start_batch=2)
    for epoch, start in ((1, 2), (2, 0)):
        data.trainer = SimpleNamespace(current_epoch=epoch, max_epochs=9)
        loader = data.train_dataloader()
        assert (loader.plan, loader.start) == (data.plan("train", epoch), start)


def test_each_epoch_is_planned_once_while_the_one_before_it_is_trained_on(sample):
    data, planned = sample.prepared(), []

    def plan(split, epoch):
        planned.append((split, epoch))
        return sample.data.plan(split, epoch)

    data.plan = plan
    data.plan_ahead(0)
    assert data.planned("train", 0) == sample.data.plan("train", 0)
    for epoch in range(3):
        data.trainer = SimpleNamespace(current_epoch=epoch, max_epochs=3)
        assert data.train_dataloader().plan == sample.data.plan("train", epoch)
    assert planned == [("train", 0), ("train", 1), ("train", 2)]


def test_a_plan_made_ahead_is_not_used_for_another_feed_or_epoch(sample):
    data = sample.prepared()
    data.plan_ahead(1)
    assert data.planned("train", 0) == data.plan("train", 0)
    data.feed = replace(data.feed, seed=8)
    assert data.planned("train", 1) == data.plan("train", 1) != sample.data.plan("train", 1)


def test_there_is_a_loader_for_each_split(sample):
    loaders = sample.data.val_dataloader()
    assert [each.split for each in loaders] == list(sample.data.validation_splits)
    assert sum(len(batch) for batch in sample.data.test_dataloader()) == len(
        sample.data.sizes("test")
    )


@pytest.mark.parametrize("world_size", [2, 7])
def test_ranks_share_every_batch_and_take_the_same_number_of_steps(world_size, sample):
    ranks = []
    for rank in range(world_size):
        sample.data.feed = replace(sample.data.feed, rank=rank, world_size=world_size)
        ranks.append([batch.extras["index"] for batch in BatchLoader(sample.data, "train", 0)])
    sample.data.feed = replace(sample.data.feed, rank=0, world_size=1)
    for planned, *shares in zip(sample.data.plan("train", 0), *ranks, strict=True):
        assert sorted(planned) == sorted(row for row in torch.cat(shares).tolist() if row >= 0)
        sizes = [int((share >= 0).sum()) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("world_size", [2, 7])
def test_ranks_score_every_row_once_in_as_many_steps(world_size, sample):
    for split in (*sample.data.validation_splits, "test"):
        ranks = []
        for rank in range(world_size):
            sample.data.feed = replace(sample.data.feed, rank=rank, world_size=world_size)
            loader = BatchLoader(sample.data, split, 0)
            ranks.append([batch.extras["index"].tolist() for batch in loader])
            assert len(loader) == len(ranks[-1]) > 0
        sample.data.feed = replace(sample.data.feed, rank=0, world_size=1)
        assert len({len(batches) for batches in ranks}) == 1
        run = sorted(row for batches in ranks for rows in batches for row in rows if row >= 0)
        assert run == list(range(len(sample.data.sizes(split))))
        whole = [batch.extras["index"].tolist() for batch in BatchLoader(sample.data, split, 0)]
        if not sample.data.reads_on:  # each batch is one that a single process has
            assert all(rows in whole for batches in ranks for rows in batches if rows[0] >= 0)


def test_a_stream_stays_on_its_rank(sample):
    if not sample.data.reads_on:
        return
    for split in sample.splits:
        for rank in range(3):
            sample.data.feed = replace(sample.data.feed, rank=rank, world_size=3)
            before = None
            for batch in BatchLoader(sample.data, split, 0):
                rows, follows = batch.extras["index"].tolist(), batch.extras[FOLLOWS].tolist()
                for row, followed in zip(rows, follows, strict=True):
                    assert -1 in (row, followed) or before is None or followed in before
                before = rows
    sample.data.feed = replace(sample.data.feed, rank=0, world_size=1)


def test_a_rank_without_a_share_has_nothing_to_learn_from(sample):
    data = sample.prepared(batch_tokens=1, rank=1, world_size=2)
    for batch in BatchLoader(data, "train", 0):
        assert len(batch) == 1
        assert batch.extras["index"].tolist() == [-1]
        assert batch.target_lengths.tolist() == [0]


# --- batches


def check_padding(padded, lengths, end):
    assert padded.shape[1] == max(1, int(lengths.max()))
    for row, length in zip(padded.tolist(), lengths.tolist(), strict=True):
        assert row[length:] == [PAD] * (len(row) - length)
        if end:
            assert PAD not in row[:length]
            assert row[length - 1] == EOS


def test_padding_lies_behind_and_changes_no_row(sample):
    for split in sample.splits:
        rows = list(range(0, len(sample.data.sizes(split)), 3))
        batch = sample.data.collate(split, rows)
        assert batch.extras["index"].tolist() == rows
        assert batch.lengths.dtype == batch.extras["index"].dtype == torch.int64
        assert int(batch.lengths.min()) >= 1
        if sample.takes_tokens:
            check_padding(batch.inputs, batch.lengths, end=sample.writes)
        if sample.writes:
            check_padding(batch.targets, batch.target_lengths, end=True)
        for place, row in enumerate(rows):
            alone = sample.data.collate(split, [row])
            length = int(alone.lengths)
            assert int(batch.lengths[place]) == length
            assert torch.equal(batch.inputs[place, :length], alone.inputs[0])


def test_sizes_are_those_of_the_batches(sample):
    for split in sample.splits:
        sizes = sample.data.sizes(split)
        batch = sample.data.collate(split, range(len(sizes)))
        assert batch.lengths.tolist() == sizes[:, 0].tolist()


# --- what the checkpoint keeps


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_catalogue_says_its_splits_and_its_metrics_of_text(sample):
    assert {*sample.splits} <= {*sample.cls.splits}
    if sample.writes:
        name = sample.name.partition(",")[0]
        entry = catalog.kinds_of_data().find(name).entry
        told = entry.scores_of_text(Component(name, sample.arguments))
        families = sample.data.scoring.metrics
        wanted = [name for family in families for name in FAMILY_METRICS[family]]
        assert told == (*wanted, *sample.cls.own_metrics)


def test_each_row_has_what_slices_go_by(sample):
    labelled = {word for task in sample.data.gives for word in task} & {"label", "tags"}
    for split in sample.splits:
        rows, labels = len(sample.data.sizes(split)), sample.data.row_labels(split)
        lengths = sample.data.lengths(split)
        assert len(lengths) == rows
        assert all(type(each) is int and each >= 0 for each in lengths)
        assert len(labels) in (0, rows)
        assert labelled or not labels, "the client refuses slices by label of such data"
        assert all(type(each) is str for each in labels)


def test_the_state_is_plain_and_enough_to_go_on(sample, caplog):
    state = saved_and_loaded(sample.data.state_dict())
    data = sample.fresh()
    data.load_state_dict(state)
    assert not caplog.messages, "nothing is overruled where nothing is otherwise"
    assert data.dims == sample.data.dims
    assert data.state_dict() == sample.data.state_dict()
    data.prepare(sample.workspace)
    for split in sample.splits:
        assert same(data.collate(split, [2, 0, 1]), sample.data.collate(split, [2, 0, 1]))


def test_data_prepared_again_is_the_same(sample):
    again = sample.prepared()
    assert again.state_dict() == sample.data.state_dict()
    again.load_state_dict(sample.data.state_dict())
    assert same(again.collate("train", [0, 5]), sample.data.collate("train", [0, 5]))


# --- lines


def test_lines_are_encoded_the_same_from_the_checkpoint_alone(sample):
    if not isinstance(sample.data, LineData):
        pytest.skip("reads no lines")
    data = sample.fresh()
    data.load_state_dict(saved_and_loaded(sample.data.state_dict()))
    data.roots = sample.workspace.roots
    texts = sample.data.sources("val") if isinstance(sample.data, TextData) else []
    lines = [*sample.lines, *texts]
    batch = data.encode(lines)
    assert all(data.line_length(line) >= 0 for line in lines)
    assert same(batch, sample.data.encode(lines))
    assert batch.targets is None
    assert batch.extras["index"].tolist() == list(range(len(lines)))
    if sample.takes_tokens:
        check_padding(batch.inputs, batch.lengths, end=not isinstance(data, TagData | StreamData))


# --- text


#: Kinds that give labels where nothing else is asked of them.
LABELS = {"labelled_text", *(each for each in SAMPLES if each.startswith("feature_frames, "))}
TEXTS = [each for each in SAMPLES if issubclass(kind_of(each), TextData) and each not in LABELS]
gives_text = pytest.mark.parametrize("sample", TEXTS, indirect=True)


@gives_text
def test_a_source_is_encoded_as_its_row_was(sample):
    for split in sample.splits:
        rows = sample.data.collate(split, range(5))
        batch = sample.data.encode(list(sample.data.sources(split)[:5]))
        assert torch.equal(batch.inputs, rows.inputs)


@gives_text
def test_targets_read_as_their_references(sample):
    for split in sample.splits:
        references = sample.data.references(split)
        targets = sample.data.collate(split, range(len(references))).targets
        assert len(references) == len(sample.data.sources(split)) == len(sample.data.sizes(split))
        rows = zip(targets.tolist(), sample.data.sources(split), references, strict=True)
        for ids, line, choices in rows:
            assert sample.data.text_of(ids, line) == choices[0]
            assert sample.data.text_of([*ids, EOS, *ids], line) == choices[0]


@gives_text
def test_every_position_has_a_printable_symbol(sample):
    for line in [*sample.lines, *sample.data.sources("train")[:5]]:
        symbols = sample.data.source_symbols(line)
        assert len(symbols) == int(sample.data.encode([line]).lengths)
        assert all(symbol.isprintable() for symbol in symbols)
    ids = sample.data.collate("train", [0]).targets[0].tolist()
    assert len(sample.data.target_symbols(ids)) == len(ids)
