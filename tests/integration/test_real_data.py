"""Real data sets are read whole, batched tightly, and forecast as the papers did."""

from pathlib import Path

import pytest

from datamodules._base import Feed, Workspace
from datamodules.parallel_text import ParallelText
from datamodules.question_answer import QuestionAnswer
from datamodules.speech import Speech
from tests.benchmarks.forecasts import ETT, naive

pytestmark = pytest.mark.data


def test_multi30k_makes_tight_batches_of_the_recipes_size(data_folder, tmp_path):
    data = ParallelText(
        root="multi30k", source="de", target="en", test="test_2016_flickr", lowercase=True
    )
    data.feed = Feed(batch_tokens=ParallelText.trainer_defaults["batch_tokens"], seed=1)
    data.prepare(Workspace(roots=(data_folder,), cache=tmp_path))
    plan = data.plan("train", 0)
    assert 370 <= len(plan) <= 450
    sizes = data.sizes("train")
    places = sum(len(rows) * int(sizes[rows].max(axis=0).sum()) for rows in plan)
    assert 1 - sizes.sum() / places < 0.05
    for split in ("val", "test"):
        decoded = [
            data.detokenise(ids.tolist())
            for batch in ([data.collate(split, range(200))])
            for ids in batch.targets
        ]
        assert decoded == [text for (text,) in data.references(split)[:200]]


def test_scitldr_has_its_sentences_joined_and_all_its_summaries(data_folder, tmp_path):
    data = ParallelText(root="scitldr", source="source", target="target", val="dev")
    data.prepare(Workspace(roots=(data_folder,), cache=tmp_path))
    assert len(data.sizes("train")) == 1992 - data.left_out["too_long"]
    assert len(data.references("val")) == 619
    assert max(map(len, data.references("val"))) == 4


@pytest.mark.parametrize(
    "task", ["qa1_single-supporting-fact", "qa4_two-arg-relations", "qa15_basic-deduction"]
)
def test_the_tasks_of_babi_are_read_whole(task, data_folder, tmp_path):
    data = QuestionAnswer(root="babi", train=f"{task}_train", test=f"{task}_test", val_share=0.1)
    data.prepare(Workspace(roots=(data_folder,), cache=tmp_path))
    rows = {split: len(data.sizes(split)) for split in ("train", "val", "test")}
    assert rows["train"] + rows["val"] == rows["test"] == 1000
    assert 100 <= rows["val"] < 110
    words = {symbol for answers in data.references("test") for symbol in answers}
    assert words <= set(data.vocabularies.target.state()["entries"])


def test_the_digits_are_read_whole(data_folder, tmp_path):
    workspace = Workspace(roots=(data_folder,), cache=tmp_path)
    data = Speech(
        root="digits/recordings",
        layout="names",
        pattern="{label}_{speaker}_{index}",
        test_where="index=0-4",
    )
    data.prepare(workspace)
    sizes = {split: len(data.sizes(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 2430, "val": 270, "test": 300}
    assert data.dims == {"feature_size": 80, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "mse", "mae"),
    [
        ("repeat last", 0.0343, 0.139),
        ("repeat yesterday", 0.0458, 0.166),
        ("ridge on 96 rows", 0.0264, 0.1234),
    ],
)
def test_the_published_figures_of_ett_come_out(
    name: str, mse: float, mae: float, data_folder: Path
) -> None:
    found = naive(data_folder / "ett" / "ETTh1.csv", ETT)[name]
    assert found["mse"] == pytest.approx(mse, abs=6e-5)
    assert found["mae"] == pytest.approx(mae, abs=6e-4)
