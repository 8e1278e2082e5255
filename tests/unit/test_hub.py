"""Data sets of the hub are read as files are; only `datasets.load_dataset` is played here.

What the fake gives is what datasets 5.2 gave for a folder of Parquet files: splits by name, each
with features, an Arrow table and a fingerprint.
"""

import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest

from datamodules import _cache
from datamodules._base import Workspace
from datamodules._errors import DataError, DataPathError
from datamodules._hub import open_root
from datamodules.labelled_text import LabelledText
from datamodules.parallel_text import ParallelText
from datamodules.question_answer import QuestionAnswer
from datamodules.tagged_text import TaggedText

PLAIN = SimpleNamespace()
CLASSES = SimpleNamespace(names=["no", "yes"])


class Split:
    """One split as the library holds it."""

    def __init__(self, columns, features, fingerprint="f"):
        self.table = pa.table(columns)
        self.features = features
        self._fingerprint = fingerprint

    def with_format(self, name):
        assert name == "arrow"
        return self

    def __getitem__(self, rows):
        return self.table[rows]


class Hub:
    """What `import datasets` finds."""

    def __init__(self):
        self.sets = {}
        self.asked = []

    def load_dataset(self, name, config):
        self.asked.append((name, config))
        found = self.sets[name, config]
        if isinstance(found, Exception):
            raise found
        return found

    def disable_progress_bars(self):
        pass


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setattr(_cache, "_sync", lambda path: None)
    return hub


@pytest.fixture
def workspace(tmp_path):
    return Workspace(roots=(), cache=tmp_path / "cache")


def both(columns, features=None, **more):
    features = features or dict.fromkeys(columns, PLAIN)
    return {split: Split(columns, features, **more) for split in ("train", "validation")}


def prepared(kind, workspace, **params):
    data = kind(val="validation", **params)
    data.prepare(workspace)
    return data


def test_parallel_text_takes_lists_of_references(hub, workspace):
    hub.sets["o/sums", None] = both({"source": [["a", "b"], ["c"]], "target": [["x", "y"], ["z"]]})
    data = prepared(ParallelText, workspace, root="hf://o/sums", source="source", target="target")
    assert list(data.sources("val")) == ["a b", "c"]
    assert data.references("val") == [["x", "y"], ["z"]]


def test_classes_have_their_names(hub, workspace):
    columns = {"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]}
    hub.sets["o/classes", "small"] = both(columns, {"text": PLAIN, "label": CLASSES})
    data = prepared(LabelledText, workspace, root="hf://o/classes/small")
    assert data.labels == ("no", "yes")
    assert data.collate("val", [0, 1]).targets.tolist() == [0, 1]
    assert hub.asked == [("o/classes", "small")]


def test_lists_of_classes_have_their_names_too(hub, workspace):
    columns = {"tokens": [["a", "b"], ["c"]], "ner_tags": [[0, 1], [1]]}
    features = {"tokens": PLAIN, "ner_tags": SimpleNamespace(feature=CLASSES)}
    hub.sets["o/tags", None] = both(columns, features)
    data = prepared(TaggedText, workspace, root="hf://o/tags", tokens="tokens", tags="ner_tags")
    assert data.true_tags("val") == [["no", "yes"], ["yes"]]


def test_answers_are_as_squad_has_them(hub, workspace):
    columns = {
        "context": ["a b", "c d"],
        "question": ["q", "r"],
        "answers": [
            {"text": ["b", "a b"], "answer_start": [2, 0]},
            {"text": [], "answer_start": []},
        ],
    }
    hub.sets["o/squad", None] = both(columns)
    data = prepared(QuestionAnswer, workspace, root="hf://o/squad")
    assert data.references("val") == [["b", "a b"], [""]]


def test_a_class_that_the_hub_does_not_tell_is_missing(hub, workspace):
    hub.sets["o/n", None] = both({"text": ["a", "b"], "label": [-1, 1]}, {"label": CLASSES})
    with pytest.raises(DataError, match=r"train\.parquet, row 1, as label, holds null"):
        prepared(LabelledText, workspace, root="hf://o/n")


def test_a_version_is_kept_once_and_another_beside_it(hub, workspace):
    columns = {"text": ["a", "b"]}
    hub.sets["o/n", None] = both(columns, fingerprint="one")
    folder, roots = open_root("hf://o/n", workspace)
    assert roots == (folder,)
    assert sorted(path.name for path in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    kept = [path.stat().st_mtime_ns for path in folder.iterdir()]
    assert open_root("hf://o/n", workspace)[0] == folder
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == kept
    hub.sets["o/n", None] = both(columns, fingerprint="two")
    assert open_root("hf://o/n", workspace)[0] != folder
    assert len(list(folder.parent.iterdir())) == 2


def test_a_split_that_is_not_there_is_named_with_those_that_are(hub, workspace):
    hub.sets["o/n", None] = both({"de": ["a"], "en": ["b"]})
    with pytest.raises(DataError, match=r"no split 'val'.*train\.parquet, validation\.parquet"):
        ParallelText(root="hf://o/n", source="de", target="en").prepare(workspace)


# --- what can go wrong


def test_without_the_library_the_line_says_how_to_get_it(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"hf://o/n needs .* pip install 'unroll\[hub\]'"):
        open_root("hf://o/n", workspace)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Couldn't reach 'o/n' on the Hub (LocalEntryNotFoundError)"), "reach"),
        (ValueError("BuilderConfig 'x' not found.\nAvailable: ['y']"), "'x' not found"),
        (FileNotFoundError(), "FileNotFoundError"),
    ],
)
def test_what_the_hub_refuses_is_one_line(error, said, hub, workspace):
    hub.sets["o/n", None] = error
    with pytest.raises(DataError, match=f"hf://o/n cannot be fetched .*{said}.*'root'$") as caught:
        open_root("hf://o/n", workspace)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["hf://", "hf://squad", "hf://a/b/c/d", "hf://a/..", "hf://../b", "hf://a b/c"]
)
def test_what_names_no_data_set_is_refused(root, hub, workspace):
    with pytest.raises(DataPathError, match="neither hf://owner/name nor"):
        open_root(root, workspace)
    assert hub.asked == []


def test_a_folder_of_that_name_is_not_taken_for_the_data_set(hub, workspace, tmp_path, monkeypatch):
    (tmp_path / "o" / "n").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataPathError, match=r"hf://o/n is also the name of .*/o/n, "):
        open_root("hf://o/n", workspace)
    assert hub.asked == []


def test_a_full_disk_is_said(hub, workspace, monkeypatch):
    hub.sets["o/n", None] = both({"a": ["b"]})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(DataError, match=r"cannot be kept in .*: No space left on device"):
        open_root("hf://o/n", workspace)
    assert not list((workspace.cache / "hub").iterdir())


def test_other_roots_are_folders(tmp_path):
    (tmp_path / "set").mkdir()
    workspace = Workspace(roots=(tmp_path,), cache=tmp_path / "cache")
    assert open_root("set", workspace) == (tmp_path / "set", (tmp_path,))
