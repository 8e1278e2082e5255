"""Questions and answers: every format gives the same rows, bad ones one clear line."""

import json
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from datamodules._base import Workspace
from datamodules._errors import DataFormatError, DataMissingError
from datamodules._questions import Question, cut_stories
from datamodules.question_answer import QuestionAnswer

ROWS = [
    ("Mary moved. John  left.", "Where is Mary?", ["bath", "the bath"]),
    ("Mary moved. John  left.", "Who left?", ["John"]),
    ('A "quoted" word, 1,000 times', "How often?", ["1,000"]),
    ("Nothing\tof\nthe kind", "What?", []),
]
BABI = """1 Mary moved to the bathroom.
2 Where is Mary? \tbathroom\t1
3 John left.
4 Where is John? \taway,home\t3
1 Sandra stood up.
2 Who? \tSandra\t1
"""


def write_jsonl(folder, split):
    lines = [json.dumps({"context": c, "question": q, "answers": a}) for c, q, a in ROWS]
    (folder / f"{split}.jsonl").write_text("\n".join(lines))


def write_parquet(folder, split):
    contexts, questions, answers = zip(*ROWS, strict=True)
    squad = [{"text": list(each), "answer_start": [0] * len(each)} for each in answers]
    table = pa.table({"context": contexts, "question": questions, "answers": squad})
    parquet.write_table(table, folder / f"{split}.parquet")


def write_nested(folder, split):
    paragraphs = [
        {
            "context": context,
            "qas": [{"question": question, "answers": [{"text": text} for text in answers]}],
        }
        for context, question, answers in ROWS
    ]
    data = [{"title": "one", "paragraphs": paragraphs[:1]}, {"paragraphs": paragraphs[1:]}]
    (folder / f"{split}.json").write_text(json.dumps({"version": "2.0", "data": data}))


def write_babi(folder, split):
    (folder / f"{split}.txt").write_text(BABI)


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "data").mkdir()
    return Workspace(roots=(tmp_path / "data",), cache=tmp_path / "cache")


@pytest.fixture
def root(workspace):
    return workspace.roots[0]


def prepared(workspace, **params):
    data = QuestionAnswer(**{"root": ".", **params})
    data.prepare(workspace)
    return data


def read_back(data, split, row):
    """Return the symbols that a model reads of a row."""
    batch = data.collate(split, [row])
    return data.vocabularies.source.symbols(batch.inputs[0].tolist())


@pytest.mark.parametrize("write", [write_jsonl, write_parquet, write_nested])
def test_every_format_of_rows_gives_the_same(write, root, workspace):
    for split in ("train", "val"):
        write(root, split)
    data = prepared(workspace)
    assert list(data.sources("val")) == [
        "Mary moved. John left.\tWhere is Mary?",
        "Mary moved. John left.\tWho left?",
        'A "quoted" word, 1,000 times\tHow often?',
        "Nothing of the kind\tWhat?",
    ]
    assert data.references("val") == [["bath", "the bath"], ["John"], ["1,000"], [""]]
    targets = data.collate("val", range(4)).targets
    assert [data.detokenise(ids.tolist()) for ids in targets] == ["bath", "John", "1,000", ""]


def test_a_story_of_babi_is_what_was_told_up_to_the_question(root, workspace):
    write_babi(root, "qa1_train")
    write_babi(root, "qa1_test")
    data = prepared(workspace, train="qa1_train", val="qa1_test", test="qa1_test", lowercase=True)
    assert list(data.sources("test")) == [
        "mary moved to the bathroom.\twhere is mary?",
        "mary moved to the bathroom. john left.\twhere is john?",
        "sandra stood up.\twho?",
    ]
    assert data.references("test") == [["bathroom"], ["away,home"], ["sandra"]]


def test_the_question_stands_where_it_is_told_to(root, workspace):
    write_babi(root, "train")
    write_babi(root, "val")
    story, asked = ["Sandra", "stood", "up", "."], ["Who", "?"]
    assert read_back(prepared(workspace), "val", 2) == [*story, "U+0009", *asked, "</s>"]
    first = prepared(workspace, question_place="first")
    assert read_back(first, "val", 2) == [*asked, "U+0009", *story, "</s>"]


@pytest.mark.parametrize(("part", "kept"), [("first", ["Sandra", "stood"]), ("last", ["up", "."])])
def test_of_a_long_document_a_part_is_kept_and_the_question_whole(part, kept, root, workspace):
    write_babi(root, "train")
    write_babi(root, "val")
    data = prepared(workspace, document_length=2, document_part=part)
    assert read_back(data, "val", 2) == [*kept, "U+0009", "Who", "?", "</s>"]
    assert data.references("val")[2] == ["Sandra"]


@pytest.mark.parametrize("tokens", ["words", "subwords", "characters"])
def test_document_and_answer_share_their_symbols(tokens, root, workspace):
    write_jsonl(root, "train")
    write_jsonl(root, "val")
    data = prepared(workspace, tokens=tokens)
    assert data.dims["shared_vocabulary"]
    batch = data.collate("val", [2])
    assert set(batch.targets[0].tolist()) <= set(batch.inputs[0].tolist())
    both = data.vocabularies
    (between,) = both.source.encode(["\t"])
    assert str(between)[1:-1] in str(batch.inputs[0].tolist())


def test_a_line_to_predict_from_may_be_json_or_have_a_tab(root, workspace):
    write_babi(root, "train")
    write_babi(root, "val")
    data = prepared(workspace)
    rows = data.collate("val", [2])
    lines = [
        "Sandra stood up.\tWho?",
        "Sandra  stood\tup.\tWho? ",
        json.dumps({"context": "Sandra\nstood up.", "question": "Who?"}),
    ]
    batch = data.encode(lines)
    assert batch.inputs.tolist() == [rows.inputs[0].tolist()] * 3
    alone = data.encode(["Who?", "{Who?"])
    assert data.vocabularies.source.symbols(alone.inputs[0].tolist())[1:3] == ["Who", "?"]


def test_scores_are_those_of_answers(root, workspace):
    write_babi(root, "train")
    data = QuestionAnswer(root=".")
    assert data.scoring.metrics == ("answer",)
    assert data.monitor == ("val/answer_f1", "max")
    assert QuestionAnswer(root=".", chosen_by="loss").monitor == ("val/loss", "min")


# --- splits


def test_a_val_without_a_file_is_cut_off_by_whole_stories(root, workspace):
    stories = [
        f"1 Mary is in room {n}.\n2 Where is Mary?\troom {n}\t1\n3 Still {n}?\tyes\t1\n"
        for n in range(30)
    ]
    (root / "train.txt").write_text("".join(stories))
    for _ in range(2):  # the second time from the cache
        data = prepared(workspace, val_share=0.2)
        documents = {
            split: {source.split("\t")[0] for source in data.sources(split)}
            for split in ("train", "val")
        }
        assert len(documents["val"]) == 6
        assert len(documents["train"]) == 24
        assert not documents["train"] & documents["val"]
    other = prepared(workspace, val_share=0.2, split_seed=1)
    assert {source.split("\t")[0] for source in other.sources("val")} != documents["val"]
    with pytest.raises(DataMissingError, match=r"no split 'test'"):
        data.sizes("test")


def test_without_a_share_a_val_must_have_a_file(root, workspace):
    write_babi(root, "train")
    with pytest.raises(DataMissingError, match=r"no split 'val'.*val\.jsonl.*val\.json.*val\.txt"):
        prepared(workspace, val_share=0)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_cut_loses_nothing_and_parts_no_story(stories, share, seed):
    asked = [Question("", str(row), ("",), str(at), "") for row, at in enumerate(stories)]
    assume(len(set(stories)) > 1)
    train, val = cut_stories(asked, share, seed)
    assert sorted([*train, *val], key=lambda each: int(each.question)) == asked
    assert not {each.story for each in train} & {each.story for each in val}
    assert len(val) >= share * len(asked) or len({each.story for each in train}) == 1
    assert cut_stories(asked, share, seed) == (train, val)


# --- bad input


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.txt", "1 Mary moved.\nJohn left.\n", r"train\.txt, line 2 does not begin with"),
        ("train.txt", "1 A.\n3 Q?\tx\t1\n", r"line 2 has number 3 after 1"),
        ("train.txt", "2 A.\n", r"line 1 has number 2 after 0"),
        ("train.txt", "1 A.\n2 Q?\t\t1\n", r"line 2 has a question without an answer"),
        ("train.txt", "1 A.\n2 \tx\t1\n", r"line 2 holds an empty question"),
        ("train.txt", "1 A.\n2 B.\n", r"holds no question"),
        ("train.jsonl", '{"context": "a", "question": "b"}', r"line 1 has no column 'answers'"),
        (
            "train.jsonl",
            '{"context": "a", "question": "b", "answer": "c"}',
            r"did you mean 'answer'\?",
        ),
        (
            "train.jsonl",
            '{"context": "a", "question": "b", "answers": [3]}',
            r"line 1, column 'answers' holds 3 and not text",
        ),
        (
            "train.jsonl",
            '{"context": "a", "question": " ", "answers": "c"}',
            r"line 1 holds an empty question",
        ),
        ("train.jsonl", "{", r"line 1 is not JSON"),
        ("train.json", "{", r"train\.json is not JSON"),
        ("train.json", "[]", r"is not as SQuAD's files are: it has no list 'data'"),
        ("train.json", '{"data": [{}]}', r"data 1 is not as SQuAD's files.*'paragraphs'"),
        ("train.json", '{"data": [3]}', r"data 1 is not a JSON object"),
        (
            "train.json",
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"answers": []}]}]}]}',
            r"data 1, paragraphs 1, qas 1 has no column 'question'",
        ),
        ("train.txt", "1 A.\n2 Q?\tx\t1\n", r"line 2: all questions are about one document"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name, content, said, root, workspace):
    (root / name).write_text(content)
    with pytest.raises(DataFormatError, match=said) as caught:
        prepared(workspace)
    assert "\n" not in str(caught.value)
    assert re.search(re.escape(str(root)), str(caught.value))


def test_long_rows_are_left_out_of_training_and_counted(root, workspace):
    write_babi(root, "train")
    write_babi(root, "val")
    data = prepared(workspace, max_length=11)
    assert data.facts("train") == {"left_out_too_long": 1}
    assert (len(data.sizes("train")), len(data.sizes("val"))) == (2, 3)
