"""Tagged text: what is read of which files, what is refused, and what a line becomes."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules._base import Feed, Workspace
from datamodules._classes import UNKNOWN_CLASS
from datamodules._errors import DataError, DataFormatError, DataMissingError, DataPathError
from datamodules._tags import Tagging, likeliest
from datamodules._vocab import SPECIALS, UNK
from datamodules.tagged_text import TaggedText

#: Tokens, tags and label of each row.
ROWS = {
    "train": [("Play Abba", "O B-a", "Music"), ("play the  song", "O O B-s", "Music")],
    "val": [("play it", "O O", "Music")],
    "test": [("Sing the song", "O O B-t", "Sing"), ("play", "O", "Music")],
}


def write_parallel(folder: Path, rows: dict[str, list[tuple[str, ...]]] = ROWS) -> None:
    for split, triples in rows.items():
        (folder / split).mkdir()
        sides = zip(*triples, strict=True)
        for name, lines in zip(("seq.in", "seq.out", "label"), sides, strict=True):
            (folder / split / name).write_text("".join(f"{line} \n" for line in lines))


def write_columns(folder: Path, content: str, suffix: str = ".conll") -> None:
    for split in ("train", "val", "test"):
        (folder / f"{split}{suffix}").write_text(content)


def prepared(folder: Path, **arguments: Any) -> TaggedText:
    data = TaggedText(root=".", **arguments)
    data.feed = Feed(batch_tokens=100, seed=1)
    data.prepare(Workspace((folder,), folder / "cache"))
    return data


def refused(folder: Path, **arguments: Any) -> str:
    with pytest.raises(DataFormatError) as caught:
        prepared(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def read(data: TaggedText, split: str = "train") -> list[tuple[list[str], list[str]]]:
    """Return the words (those that training has) and the tags of every row."""
    batch = data.collate(split, range(len(data.sizes(split))))
    words = [
        ["?" if i == UNK else data.indexes.words.names[i - SPECIALS] for i in row[:length]]
        for row, length in zip(batch.inputs.tolist(), batch.lengths.tolist(), strict=True)
    ]
    return list(zip(words, map(list, data.true_tags(split)), strict=True))


# --- parallel files


def test_parallel_files_line_by_line_and_blank_by_blank(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path, label="label")
    assert read(data) == [
        (["play", "abba"], ["O", "B-a"]),
        (["play", "the", "song"], ["O", "O", "B-s"]),
    ]
    assert data.tag_names == ["B-a", "B-s", "O"]
    assert data.label_names == ["Music"]
    assert data.dims["vocabulary_size"] == SPECIALS + 4


def test_what_only_the_test_split_has_is_unknown_and_counted(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path, label="label")
    batch = data.collate("test", [0, 1])
    assert batch.targets is not None
    assert batch.targets.tolist() == [[2, 2, UNKNOWN_CLASS], [2, 0, 0]]
    assert batch.extras["label"].tolist() == [UNKNOWN_CLASS, 0]
    assert batch.inputs[0, 0] == UNK
    assert data.true_tags("test")[0] == ["O", "O", "B-t"]
    assert data.facts("test") == {"unknown_tags": 1, "unknown_labels": 1}
    assert data.facts("train") == {"unknown_tags": 0, "unknown_labels": 0}


def test_characters_keep_their_case_and_are_padded_behind(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path)
    letters = data.indexes.characters.names
    batch = data.collate("train", [1, 0])
    spelled = [
        ["".join(letters[i - SPECIALS] for i in word if i) for word in row]
        for row in batch.extras["characters"].tolist()
    ]
    assert spelled == [["play", "the", "song"], ["Play", "Abba", ""]]
    assert "label" not in batch.extras
    unseen = data.collate("test", [0]).extras["characters"]
    assert unseen[0, 0, 0] == UNK  # S of Sing


def test_without_characters_there_are_none(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path, characters=False)
    assert data.dims["character_vocabulary_size"] == 0
    assert "characters" not in data.collate("train", [0]).extras


def test_rare_words_are_unknown_and_case_is_a_choice(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    assert read(prepared(tmp_path, min_count=2))[0][0] == ["play", "?"]
    assert read(prepared(tmp_path, lowercase=False))[0][0] == ["Play", "Abba"]


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    for split in ("train", "val"):
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(content)


LISTS = {"tokens": "words", "tags": "ner", "characters": False}


def test_a_table_may_hold_lists_of_tokens_and_tags(tmp_path: Path) -> None:
    rows = [
        {"words": ["New York", "is", "big"], "ner": ["B-x", "O", "O"], "kind": "a"},
        {"words": ["no"], "ner": ["O"], "kind": "b"},
    ]
    write_table(tmp_path, rows)
    data = prepared(tmp_path, **LISTS, label="kind")
    assert read(data) == [(["new york", "is", "big"], ["B-x", "O", "O"]), (["no"], ["O"])]
    assert data.label_names == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"words": ["a"], "tags": ["O"]}, "line 1 has no column 'ner' (it has: words, tags)"),
        ({"words": "a b", "ner": ["O"]}, "line 1, column 'words' holds \"a b\" and not a list"),
        ({"words": ["a"], "ner": [3]}, "line 1, column 'ner' holds 3 and not text"),
        ({"words": ["a", "b"], "ner": ["O"]}, "line 1 has 1 tag for 2 tokens"),
        ({"words": [], "ner": []}, "line 1, column 'words' holds an empty list"),
        ({"words": ["a", ""], "ner": ["O", "O"]}, "line 1, column 'words' holds an empty text"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(row: dict[str, Any], line: str, tmp_path: Path) -> None:
    write_table(tmp_path, [row])
    assert refused(tmp_path, **LISTS).startswith(f"train.jsonl, {line}")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("seq.out", "O B-a\nO O\n", "train/seq.out, line 2 has 2 tags for the 3 tokens of that"),
        ("seq.out", "O B-a\n", "train/seq.out has 1 lines but "),
        ("seq.in", "Play Abba\n \n", "train/seq.in, line 2 is empty"),
        ("seq.in", "", "train/seq.in is empty"),
        ("label", "Music\n\n", "train/label, line 2 is empty"),
        ("label", "Music\nMusic\nMusic\n", "train/label has 3 lines but "),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    tmp_path: Path, name: str, content: str, line: str
) -> None:
    write_parallel(tmp_path)
    (tmp_path / "train" / name).write_text(content)
    assert refused(tmp_path, label="label").startswith(line)


def test_what_is_not_utf8_is_said_with_its_line(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    (tmp_path / "val" / "seq.in").write_bytes(b"play caf\xe9\n")
    assert refused(tmp_path) == "val/seq.in, line 1 is not valid UTF-8"


def test_missing_files_are_named_and_the_test_split_may_wait(tmp_path: Path) -> None:
    write_parallel(tmp_path, {split: ROWS[split] for split in ("train", "val")})
    data = prepared(tmp_path)
    with pytest.raises(DataMissingError, match=r"no split 'test': looked for seq.in and seq.out"):
        data.sizes("test")
    (tmp_path / "val" / "seq.out").unlink()
    with pytest.raises(DataMissingError, match=r"val holds seq.in but not seq.out"):
        prepared(tmp_path)
    with pytest.raises(DataPathError, match="no folder 'nowhere'"):
        TaggedText(root="nowhere").prepare(Workspace((tmp_path,), tmp_path))


# --- columns

CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\ncall NN O\n"
UNIVERSAL = (
    "# sent_id = 1\n# intent = go\n1-2\tvámonos\t_\t_\n1\tvamos\t_\tVERB\n2\tnos\t_\tPRON\n"
    "2.1\t_\t_\tNOUN\n3\t10 000\t_\tNUM\n\n# intent = stay\n1\t#\t_\tSYM\n"
)


def test_columns_are_the_first_and_the_last_unless_said(tmp_path: Path) -> None:
    write_columns(tmp_path, CONLL)
    assert read(prepared(tmp_path)) == [
        (["eu", "rejects"], ["B-ORG", "O"]),
        (["call"], ["O"]),
    ]
    assert prepared(tmp_path, tag_column=2).tag_names == ["NN", "NNP", "VBZ"]
    turned = prepared(tmp_path, token_column=3, tag_column=1)
    assert read(turned)[0] == (["b-org", "o"], ["EU", "rejects"])


def test_universal_columns_with_comments_ranges_and_empty_nodes(tmp_path: Path) -> None:
    write_columns(tmp_path, UNIVERSAL, ".conllu")
    data = prepared(tmp_path, label="intent")
    assert read(data) == [
        (["vamos", "nos", "10 000"], ["VERB", "PRON", "NUM"]),
        (["#"], ["SYM"]),
    ]
    assert data.label_names == ["go", "stay"]
    assert data.collate("train", [0, 1]).extras["label"].tolist() == [0, 1]


def test_what_a_key_is_given_is_a_comment_and_a_token_may_be_its_sign(tmp_path: Path) -> None:
    content = "# sent_id = 1\n# text =\n# SYM - B\na NN - O\n\n#a=b NN - O\n# = - B\n"
    write_columns(tmp_path, content)
    assert read(prepared(tmp_path)) == [
        (["#", "a"], ["B", "O"]),
        (["#a=b", "#"], ["O", "B"]),
    ]


def test_a_gzip_file_reads_as_its_content(tmp_path: Path) -> None:
    write_columns(tmp_path, CONLL)
    (tmp_path / "test.conll").unlink()
    (tmp_path / "test.conll.gz").write_bytes(gzip.compress(CONLL.encode()))
    assert read(prepared(tmp_path), "test")[1] == (["call"], ["O"])


@pytest.mark.parametrize(
    ("content", "arguments", "line"),
    [
        ("a X\nb\n", {}, "train.conll, line 2 has 1 column where the first row has 2"),
        ("a\n", {}, "train.conll, line 1 has 1 column, and at least 2 are needed"),
        ("a X\n", {"tag_column": 3}, "train.conll, line 1 has 2 columns, and at least 3"),
        ("a\tX\n\tY\n", {}, "train.conll, line 2 has an empty token"),
        ("a\tX\nb\t\n", {}, "train.conll, line 2 has an empty tag"),
        ("\n\n", {}, "train.conll holds no sequence"),
        ("# k = z\na X\n\nb Y\n", {"label": "k"}, "train.conll, line 4 begins a sequence without"),
    ],
)
def test_bad_columns_are_one_line(
    tmp_path: Path, content: str, arguments: dict[str, Any], line: str
) -> None:
    write_columns(tmp_path, content)
    assert refused(tmp_path, **arguments).startswith(line)


# --- the checkpoint, lines and answers


def test_one_tag_for_all_words_is_nothing_to_learn(tmp_path: Path) -> None:
    write_columns(tmp_path, "a O\nb O\n\nc O\n")
    told = refused(tmp_path)
    assert told == "all words of 'train' in . have the tag 'O': there is nothing to tell apart"


def test_a_checkpoint_alone_reads_lines_as_training_did(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path, label="label")
    alone = TaggedText(root="gone", lowercase=False, characters=False)
    alone.load_state_dict(data.state_dict())
    batch = alone.encode(["Play Abba", "", "the \t song"])
    rows = data.collate("train", [0])
    assert batch.lengths.tolist() == [2, 1, 2]
    assert torch.equal(batch.inputs[0], rows.inputs[0])
    assert torch.equal(batch.extras["characters"][0], rows.extras["characters"][0])
    assert batch.inputs[1, 0] == UNK


def test_a_model_of_labels_asks_where_they_are(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = TaggedText(root=".")
    data.load_state_dict(prepared(tmp_path, label="label").state_dict())
    with pytest.raises(DataError, match="say by 'label' where"):
        data.prepare(Workspace((tmp_path,), tmp_path / "cache"))
    with pytest.raises(DataError, match="form this version cannot read"):
        data.load_state_dict({"format": 0})


@pytest.mark.parametrize("label", ["label", None])
@pytest.mark.parametrize("characters", [True, False])
def test_training_goes_on_without_tags_and_labels_that_a_loaded_model_does_not_have(
    label: str | None, characters: bool, tmp_path: Path
) -> None:
    first, grown = tmp_path / "first", tmp_path / "grown"
    known = ROWS["train"]
    new = [("Sing the song", "O O B-t", "Music"), ("Sing it", "O O", "Sing")]
    for folder, train in ((first, known), (grown, [new[0], known[0], new[1], known[1]])):
        folder.mkdir()
        write_parallel(folder, {**ROWS, "train": train})
    before = prepared(first, label=label, characters=characters)
    data = TaggedText(root=".", label=label, characters=characters)
    data.load_state_dict(before.state_dict())
    data.prepare(Workspace((grown,), grown / "cache"))
    kept = [0, 1] if label else [0, 2]  # where labels are not read, the second new row has none
    assert len(data.sizes("train")) == (2 if label else 3)
    batch, expected = data.collate("train", kept), before.collate("train", [0, 1])
    assert batch.targets is not None
    assert expected.targets is not None
    assert torch.equal(batch.inputs, expected.inputs)
    assert torch.equal(batch.targets, expected.targets)
    for name in {*expected.extras} - {"index"}:
        assert torch.equal(batch.extras[name], expected.extras[name])
    assert [data.true_tags("train")[row] for row in kept] == before.true_tags("train")
    unknown = {"unknown_tags": 0} | ({"unknown_labels": 0} if label else {})
    assert data.facts("train") == {**unknown, "left_out_unknown_label": 2 if label else 1}


def test_where_a_model_knows_no_tag_nothing_is_left_to_train_on(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    for folder, train in ((first, ROWS["train"]), (other, [("it", "NEW", "Music")])):
        folder.mkdir()
        write_parallel(folder, {**ROWS, "train": train})
    data = TaggedText(root=".")
    data.load_state_dict(prepared(first).state_dict())
    data.prepare(Workspace((other,), other / "cache"))
    assert len(data.sizes("val")) == 1
    with pytest.raises(DataFormatError, match=r"nothing is left of train \(./train\)"):
        data.sizes("train")


def test_an_answer_is_a_tag_for_each_word_and_the_label(tmp_path: Path) -> None:
    write_parallel(tmp_path)
    data = prepared(tmp_path, label="label")
    tags = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]).log()
    first, second = data.answers(Tagging(tags, torch.zeros(1)), "play abba", 2)
    assert first.text == "O B-a"
    assert first.values == {"tags": ["O", "B-a"], "label": "Music"}
    assert first.score == pytest.approx(0.42)
    assert (second.text, second.score) == ("O B-s", pytest.approx(0.21))
    (empty,) = data.answers(Tagging(tags[:1]), "", 3)
    assert (empty.text, empty.values, empty.score) == ("", {"tags": []}, 1.0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_the_likeliest_rows_are_those_of_all(seed: int, steps: int, tags: int, count: int) -> None:
    scores = torch.randn(steps, tags, generator=torch.Generator().manual_seed(seed))
    scores = scores.double().log_softmax(dim=-1)
    every = torch.cartesian_prod(*[torch.arange(tags)] * steps).view(-1, steps)
    sums = sorted(scores.gather(1, row[:, None]).sum().exp().item() for row in every)
    found = likeliest(scores, count)
    assert [each for _, each in found] == pytest.approx(sums[::-1][:count])
    for ids, score in found:
        at = torch.tensor(ids)[:, None]
        assert scores.gather(1, at).sum().exp().item() == pytest.approx(score)
