"""Parallel text: every shape of file gives the same rows, and bad ones one clear line."""

import gzip
import json
import logging
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from datamodules import _cache
from datamodules._base import Feed, Workspace
from datamodules._errors import DataError, DataFormatError, DataPathError
from datamodules._vocab import EOS
from datamodules.parallel_text import ParallelText

PAIRS = [
    ("Ein Hund läuft .", "A dog runs ."),
    (" zwei  Hunde ", "two  dogs"),
    ("Das\u2028ist, „ein“ Satz", 'a\u0085 "sentence", it is'),
    ("e\u0301 \ufeff☃", "é"),
]


def write_lines(folder, split, pairs, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    for side, suffix in enumerate(("de", "en")):
        content = "".join(pair[side] + end for pair in pairs)
        (folder / f"{split}.{suffix}").write_bytes(content.encode())


def write_lines_gz(folder, split, pairs):
    write_lines(folder, split, pairs)
    for suffix in ("de", "en"):
        path = folder / f"{split}.{suffix}"
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def write_tsv(folder, split, pairs):
    rows = [("id", "en", "de"), *((str(i), en, de) for i, (de, en) in enumerate(pairs))]
    text = "\r\n".join("\t".join(row) for row in rows)
    (folder / f"{split}.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())


def write_csv(folder, split, pairs):
    rows = [
        "en,de",
        *(",".join(f'"{x.replace(chr(34), chr(34) * 2)}"' for x in (en, de)) for de, en in pairs),
    ]
    (folder / f"{split}.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))


def write_jsonl(folder, split, pairs):
    rows = [json.dumps({"de": de, "en": en}) for de, en in pairs]
    (folder / f"{split}.jsonl").write_text("\n".join(rows))


def write_parquet(folder, split, pairs):
    table = pa.table({"de": [de for de, _ in pairs], "en": [en for _, en in pairs]})
    parquet.write_table(table, folder / f"{split}.parquet")


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """What was synced, in order; a real sync takes longer than all else that these tests do."""
    names = []
    monkeypatch.setattr(_cache, "_sync", lambda path: names.append(path.name))
    return names


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "roots" / "set"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def workspace(tmp_path):
    return Workspace(roots=(tmp_path / "roots",), cache=tmp_path / "cache")


def prepared(workspace, **params):
    data = ParallelText(**{"root": "set", "source": "de", "target": "en", **params})
    data.feed = Feed(batch_tokens=100, seed=0)
    data.prepare(workspace)
    return data


def rows(data, split):
    sources = list(data.sources(split))
    return list(zip(sources, [text for (text,) in data.references(split)], strict=True))


@pytest.mark.parametrize(
    "write", [write_lines, write_lines_gz, write_tsv, write_csv, write_jsonl, write_parquet]
)
def test_every_shape_of_file_gives_the_text_as_it_is(write, root, workspace):
    for split in ("train", "val", "test"):
        write(root, split, PAIRS)
    data = prepared(workspace)
    for split in ("train", "val", "test"):
        assert rows(data, split) == PAIRS
        batch = data.collate(split, [2, 0])
        assert [data.detokenise(ids.tolist()) for ids in batch.targets] == [
            PAIRS[2][1],
            PAIRS[0][1],
        ]


def test_carriage_returns_belong_to_the_line_end(root, workspace):
    write_lines(root, "train", PAIRS, end="\r\n")
    write_lines(root, "val", PAIRS)
    data = prepared(workspace)
    assert rows(data, "train") == rows(data, "val") == PAIRS


@pytest.mark.parametrize("tokens", ["subwords", "words", "characters"])
@pytest.mark.parametrize("shared", [True, False])
def test_all_ways_to_cut_text_into_symbols(tokens, shared, root, workspace):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    data = prepared(workspace, tokens=tokens, shared_vocabulary=shared)
    dims = data.dims
    assert dims["shared_vocabulary"] is shared
    assert (data.vocabularies.source is data.vocabularies.target) is shared
    assert data.collate("val", [0]).targets.max() < dims["target_vocabulary_size"]
    assert data.source_symbols("Ein")[-1] == "</s>"
    assert len(data.source_symbols("Ein")) == int(data.encode(["Ein"]).lengths)


def test_the_vocabulary_comes_from_training_alone(root, workspace):
    write_lines(root, "train", [("aa", "bb")])
    write_lines(root, "val", [("cc", "dd")])
    data = prepared(workspace, tokens="characters")
    assert data.dims["source_vocabulary_size"] == 6
    assert data.source_symbols("ac") == ["a", "<unk>", "</s>"]


def test_lower_case_holds_for_text_scores_and_predictions(root, workspace):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    plain, lower = prepared(workspace), prepared(workspace, lowercase=True)
    assert rows(lower, "val") == [(de.lower(), en.lower()) for de, en in PAIRS]
    assert (plain.scoring.lowercase, lower.scoring.lowercase) == (False, True)
    assert lower.encode(["EIN"]).inputs.tolist() == lower.encode(["ein"]).inputs.tolist()


def test_empty_and_long_pairs_leave_training_and_are_counted(root, workspace, caplog):
    pairs = [*PAIRS, ("", "x"), ("x", "  "), ("x" * 40, "y")]
    write_lines(root, "train", pairs)
    write_lines(root, "val", pairs)
    data = prepared(workspace, tokens="characters", max_length=39)
    assert rows(data, "train") == PAIRS
    assert rows(data, "val") == pairs
    assert data.left_out == {"empty": 2, "too_long": 1}
    assert "left out" in caplog.text
    empty = data.collate("val", [4])
    assert (empty.inputs.tolist(), empty.lengths.tolist()) == ([[EOS]], [1])


def test_a_missing_test_split_is_an_error_only_where_it_is_used(root, workspace):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    data = prepared(workspace, test="later")
    with pytest.raises(DataPathError, match=r"no split 'later': looked for later\.de and"):
        data.test_dataloader()


def test_a_loaded_vocabulary_stands_and_needs_no_training_files(root, workspace, tmp_path):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    state = prepared(workspace, lowercase=True).state_dict()
    write_lines(tmp_path / "roots" / "other", "test", [("neue Wörter", "NEW words")])
    data = ParallelText(root="other", source="de", target="en")
    data.load_state_dict(state)
    data.prepare(workspace)
    assert data.state_dict() == state
    assert rows(data, "test") == [("neue wörter", "new words")]
    assert data.scoring.lowercase
    with pytest.raises(DataPathError, match="no split 'train'"):
        data.sizes("train")


def test_a_vocabulary_loaded_late_encodes_the_data_again(root, workspace):
    write_lines(root, "train", [("ab", "ab")])
    write_lines(root, "val", [("ab", "ab")])
    first = prepared(workspace, tokens="characters")
    write_lines(root, "train", [("0ab", "ab")])
    second = prepared(workspace, tokens="characters")
    assert second.collate("val", [0]).inputs.tolist() != first.collate("val", [0]).inputs.tolist()
    second.load_state_dict(first.state_dict())
    assert second.collate("val", [0]).inputs.tolist() == first.collate("val", [0]).inputs.tolist()


# --- several references, long sources


def write_lists(folder, split, pairs):
    lines = [json.dumps({"de": source, "en": target}) for source, target in pairs]
    (folder / f"{split}.jsonl").write_text("\n".join(lines))


LISTS = [
    (["Ein Satz .", "Noch einer ."], ["one", "ONE more"]),
    ("nur einer", "just one"),
    ([], ["nothing"]),
    ("ein Satz .", ["", "empty first"]),
]


def test_a_list_of_sentences_is_one_source_and_a_list_of_targets_references(root, workspace):
    for split in ("train", "val"):
        write_lists(root, split, LISTS)
    data = prepared(workspace, lowercase=True)
    assert list(data.sources("val")) == ["ein satz . noch einer .", "nur einer", "", "ein satz ."]
    references = [["one", "one more"], ["just one"], ["nothing"], ["", "empty first"]]
    assert data.references("val") == references
    targets = data.collate("val", range(4)).targets
    assert [data.detokenise(ids.tolist()) for ids in targets] == [each[0] for each in references]
    assert data.references("train") == references[:2]
    assert data.left_out == {"empty": 2, "too_long": 0}


def test_parquet_holds_lists_too(root, workspace):
    table = pa.table({"de": [["a", "b"]], "en": [["c", "d"]]})
    for split in ("train", "val"):
        parquet.write_table(table, root / f"{split}.parquet")
    data = prepared(workspace)
    assert (list(data.sources("val")), data.references("val")) == (["a b"], [["c", "d"]])


def test_training_can_be_given_a_row_for_each_reference(root, workspace):
    for split in ("train", "val"):
        write_lists(root, split, LISTS)
    data = prepared(workspace, learn="each")
    sources = [" ".join(LISTS[0][0])] * 2
    assert list(data.sources("train")) == [*sources, "nur einer", "ein Satz ."]
    assert data.references("train") == [["one"], ["ONE more"], ["just one"], ["empty first"]]
    assert len(data.references("val")) == len(LISTS)
    assert data.left_out == {"empty": 2, "too_long": 0}


def test_rows_of_one_source_can_be_references_of_one_row(root, workspace):
    pairs = [("read", "R IY D"), ("lead", "L EH D"), ("READ", "R EH D"), ("read", "R IY D")]
    for split in ("train", "val"):
        write_lines(root, split, pairs)
    params = {"lowercase": True, "same_source": "references", "metrics": ["wer"]}
    data = prepared(workspace, **params)
    assert list(data.sources("val")) == ["read", "lead"]
    assert data.references("val") == [["r iy d", "r eh d"], ["l eh d"]]
    assert len(data.sizes("train")) == 2
    assert len(prepared(workspace, **params, learn="each").sizes("train")) == 3
    assert len(prepared(workspace, lowercase=True).sizes("train")) == 4


def test_long_sources_are_cut_and_kept(root, workspace):
    for split in ("train", "val"):
        write_lines(root, split, [("a b c d", "x"), ("a b", "y y y y")])
    data = prepared(workspace, tokens="words", max_source_length=2, max_length=3)
    assert data.sizes("val").tolist() == [[3, 2], [3, 5]]
    assert data.left_out == {"empty": 0, "too_long": 1}
    assert list(data.sources("val")) == ["a b c d", "a b"]
    assert data.encode(["a b c d"]).inputs.tolist() == data.encode(["a b"]).inputs.tolist()


def test_the_scores_are_chosen_and_the_first_chooses_the_models(root, workspace):
    def made(*metrics):
        return ParallelText(root="set", source="de", target="en", metrics=list(metrics))

    plain = ParallelText(root="set", source="de", target="en")
    assert (plain.scoring.metrics, plain.monitor) == (("bleu", "chrf"), ("val/bleu", "max"))
    assert made("rouge", "bleu").scoring.metrics == ("rouge", "bleu")
    assert made("rouge", "bleu").monitor == ("val/rouge1", "max")
    assert made("wer").monitor == ("val/wer", "min")
    assert made().monitor == ("val/loss", "min")


# --- the cache


def count_builds(monkeypatch):
    builds = []
    encoded = ParallelText._encoded
    monkeypatch.setattr(
        ParallelText, "_encoded", lambda *given: builds.append(1) or encoded(*given)
    )
    return builds


def test_prepared_data_is_kept_by_content_and_settings(root, workspace, monkeypatch):
    builds = count_builds(monkeypatch)
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    first = prepared(workspace)
    again = prepared(workspace)
    assert len(builds) == 1
    assert again.state_dict() == first.state_dict()
    assert (
        again.collate("train", [1, 0]).inputs.tolist()
        == first.collate("train", [1, 0]).inputs.tolist()
    )
    prepared(workspace, lowercase=True)
    assert len(builds) == 2
    write_lines(root, "val", PAIRS[:-1])
    assert len(rows(prepared(workspace), "val")) == len(PAIRS) - 1
    assert len(builds) == 3


def test_a_model_comes_back_to_the_data_it_learned_from_without_encoding_it_again(
    root, workspace, monkeypatch
):
    builds = count_builds(monkeypatch)
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    first = prepared(workspace)
    again = ParallelText(root="set", source="de", target="en")
    again.load_state_dict(first.state_dict())
    again.prepare(workspace)
    assert len(builds) == 1
    assert rows(again, "train") == rows(first, "train")
    assert again.state_dict() == first.state_dict()
    write_lines(root, "train", [*PAIRS, ("neu", "new")])
    other = prepared(workspace)
    assert other.state_dict() != first.state_dict()
    again.prepare(workspace)  # with its own vocabulary, not the one this data teaches now
    assert len(builds) == 3
    assert again.state_dict() == first.state_dict()


@pytest.mark.parametrize("name", ["manifest.json", "facts.json", "train.source.values.npy"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damaged_prepared_data_is_made_anew(name, damage, root, workspace, monkeypatch, caplog):
    builds = count_builds(monkeypatch)
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    prepared(workspace)
    (file,) = workspace.cache.glob(f"text/*/{name}")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    for _ in range(2):
        assert rows(prepared(workspace), "train") == PAIRS
    assert len(builds) == 2
    assert "made anew" in caplog.text
    assert len(list(workspace.cache.glob("text/*"))) == 1
    assert not list(workspace.cache.glob("text/.*"))


def test_an_entry_is_on_disk_before_it_has_its_name(tmp_path, synced, monkeypatch):
    renamed = []
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda path, to: renamed.append([*synced, path.name]) or rename(path, to)
    )
    entry = _cache.Prepared({"ids": np.arange(3)}, {"left_out": 0})
    assert _cache.cached(tmp_path, "key", lambda: entry).arrays["ids"].tolist() == [0, 1, 2]
    ((facts, ids, manifest, folder, renamed_folder),) = renamed
    assert (facts, ids, manifest) == ("facts.json", "ids.npy", "manifest.json")
    assert folder == renamed_folder
    assert synced[-1] == tmp_path.name


def test_whoever_comes_second_uses_what_the_first_one_wrote(tmp_path):
    def build():
        _cache.cached(tmp_path, "key", lambda: _cache.Prepared({}, {"by": "the first"}))
        return _cache.Prepared({}, {"by": "the second"})

    assert _cache.cached(tmp_path, "key", build).facts == {"by": "the first"}
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path, caplog):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    (tmp_path / "file").write_text("")
    workspace = Workspace(roots=(tmp_path / "roots",), cache=tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        assert rows(prepared(workspace), "train") == PAIRS
    assert "cannot be kept" in caplog.text


# --- bad input: one clear line, and nothing half done


def refusal(workspace, **params):
    with pytest.raises(DataError) as caught:
        prepared(workspace, **params)
    (line,) = str(caught.value).splitlines()
    assert not workspace.cache.exists()
    return line


_CUT_OFF = gzip.compress(b"a\n" * 99, mtime=0)[:-9]  # of no time: processes must agree on names
BAD_FILES = [
    ("train.de", b"", "train.de is empty"),
    ("train.de", b"a\n\xff\xfe b\n", "train.de, line 2 is not valid UTF-8"),
    ("train.en", b"a\nb\n\nc\0\n", "train.en, line 4 holds a NUL byte"),
    ("train.en", b"a\n", "train.de has 4 lines but"),
    ("train.de.gz", b"\x1f\x8b\x08 no", "train.de.gz is not a whole gzip file"),
    ("train.de.gz", _CUT_OFF, "train.de.gz is not a whole gzip file"),
    ("train.tsv", b"", "train.tsv is empty"),
    ("train.tsv", b"de\ten\n", "train.tsv holds no rows"),
    (
        "train.tsv",
        b"de\tenn\na\tb\n",
        "train.tsv, line 2 has no column 'en' (it has: de, enn); did you mean 'enn'?",
    ),
    ("train.tsv", b"de\ten\tde\na\tb\tc\n", "line 1 names the column 'de' twice: rename one"),
    ("train.tsv", b"de\ten\na\tb\na\n", "train.tsv, line 3 has 1 cells where the header has 2"),
    ("train.csv", b'de,en\n"a"b,c\n', "train.csv, line 2: "),
    ("train.csv", b'de,en\n"a', "train.csv, line 2: "),
    ("train.csv", b"de,en\na,b\n\nc,d", "train.csv, line 3 has 0 cells where the header has 2"),
    ("train.jsonl", b'{"de": "a", "en": "b"}\n{', "train.jsonl, line 2 is not JSON"),
    ("train.jsonl", b"[" * 100_000, "train.jsonl, line 1 is not JSON"),
    ("train.jsonl", b"[1]", "train.jsonl, line 1 is not a JSON object"),
    ("train.jsonl", b'{"de": "a"}', "train.jsonl, line 1 has no column 'en'"),
    ("train.jsonl", b'{"de": "a", "en": 3}', "line 1, column 'en' holds 3 and not text"),
    ("train.jsonl", b'{"de": "a", "en": []}', "line 1, column 'en' holds a list without any text"),
    ("train.jsonl", b'{"de": ["a", 3], "en": "b"}', "line 1, column 'de' holds 3 and not text"),
    ("train.jsonl", b'{"de": "a", "en": null}', "line 1, column 'en' holds null and not text"),
    ("train.jsonl", b'{"de": "\\u0000", "en": "b"}', "line 1, column 'de' holds a NUL character"),
    ("train.jsonl", b'{"de": "\\ud800", "en": "b"}', "column 'de' holds text that is not Unicode"),
    ("train.parquet", b"PAR1", "train.parquet is not a Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "line"), BAD_FILES)
def test_what_is_wrong_with_a_file_is_said_with_its_place(name, content, line, root, workspace):
    write_lines(root, "val", PAIRS)
    if name.startswith(("train.de", "train.en")):
        write_lines(root, "train", PAIRS)
    (root / "train.de").unlink(missing_ok=True) if name == "train.de.gz" else None
    (root / name).write_bytes(content)
    assert line in refusal(workspace)


def test_values_of_a_table_that_are_no_text_are_refused(root, workspace):
    write_lines(root, "val", PAIRS)
    parquet.write_table(pa.table({"de": ["a", None], "en": ["b", "c"]}), root / "train.parquet")
    assert "train.parquet, row 2, column 'de' holds null and not text" in refusal(workspace)


def test_a_missing_file_is_named_with_what_is_there(root, workspace):
    write_lines(root, "train", PAIRS)
    write_lines(root, "val", PAIRS)
    line = refusal(workspace, target="ne")
    assert "looked for train.de and train.ne, or one of train.tsv, train.csv" in line
    assert "of the two only train.de is there" in line
    assert "the folder holds: train.de, train.en" in line
    assert "no split 'vall'" in refusal(workspace, val="vall")


def test_training_pairs_that_are_all_left_out_are_an_error(root, workspace):
    write_lines(root, "train", [("", ""), ("a", "")])
    write_lines(root, "val", PAIRS)
    assert "leave no pair to train on (left out: 2 empty, 0 too long)" in refusal(workspace)


# --- where data may be read from


def test_the_first_root_that_has_the_folder_is_read(root, tmp_path):
    for place in ("first", "second"):
        for split in ("train", "val"):
            write_lines(tmp_path / place / "set", split, [(place, place)])
    roots = (tmp_path / "none", tmp_path / "second", tmp_path / "first")
    workspace = Workspace(roots=roots, cache=tmp_path / "cache")
    assert rows(prepared(workspace), "train") == [("second", "second")]
    absolute = prepared(workspace, root=str(tmp_path / "first" / "set"))
    assert rows(absolute, "train") == [("first", "first")]
    assert "(looked for: " in refusal(Workspace(roots, tmp_path / "other"), root="nowhere")


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "file link", "split", "test"])
def test_what_lies_outside_the_roots_is_refused_with_the_line_that_would_allow_it(
    way, root, workspace, tmp_path
):
    outside = tmp_path / "out side"
    for split in ("train", "val"):
        write_lines(outside, split, PAIRS)
    write_lines(root, "val", PAIRS)
    params = {}
    if way == "absolute":
        params["root"] = str(outside)
    elif way == "dots":
        params["root"] = "set/../../out side"
    elif way == "split":
        params["train"] = "../../out side/train"
    elif way == "link":
        (root.parent / "link").symlink_to(outside)
        params["root"] = "link"
    elif way == "test":
        write_lines(root, "train", PAIRS)
        params["test"] = "../../out side/val"
    else:
        (root / "train.de").symlink_to(outside / "train.de")
        (root / "train.en").symlink_to(outside / "train.en")
    line = refusal(workspace, **params)
    assert "lies outside the allowed data roots" in line
    (allowing,) = re.findall(r"UNROLL_DATA_ROOTS='(.*)'$", line)
    roots = tuple(map(Path, allowing.split(":")))
    assert roots == (*workspace.roots, outside)
    allowed = prepared(Workspace(roots, tmp_path / "cache"), **params)
    assert rows(allowed, "train") == PAIRS


@pytest.mark.parametrize("name", ["nul\0", "x" * 5000, "loop"])
def test_a_path_that_cannot_be_is_refused(name, root, workspace):
    (root.parent / "loop").symlink_to(root.parent / "loop")
    refusal(workspace, root=name)


def test_without_roots_nothing_is_read(tmp_path):
    workspace = Workspace(roots=(), cache=tmp_path / "cache")
    assert "no data root is allowed" in refusal(workspace)
    assert "UNROLL_DATA_ROOTS=" in refusal(workspace, root=str(tmp_path))


def test_errors_are_of_the_kinds_the_runner_knows():
    assert issubclass(DataFormatError, DataError)
    assert str(DataError("a\nb")) == "a\\nb"
