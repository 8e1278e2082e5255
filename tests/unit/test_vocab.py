"""Vocabularies: what goes in comes out, whatever it is; and they are plain values."""

import hashlib
import json
import re
import subprocess
import sys
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import _vocab
from datamodules._errors import DataFormatError
from datamodules._vocab import (
    BOS,
    EOS,
    KINDS,
    PAD,
    SPECIALS,
    UNK,
    UNKNOWN_TEXT,
    Characters,
    Subwords,
    TextForm,
    Words,
    from_state,
    printable,
)

TEXT = ["ein mann  geht .", " zwei Männer gehen . ", "", "<pad> </s>", "e\u0301 é \u202f\t☃ 🏳️‍🌈"]
SUBWORDS = Subwords.train(TEXT, 300)

lines = st.text(st.characters(codec="utf-8"), max_size=30)


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def vocabulary(request):
    return request.param.train(TEXT, 300)


def test_training_text_comes_back(vocabulary):
    for line, ids in zip(TEXT, vocabulary.encode(TEXT), strict=True):
        assert vocabulary.decode([BOS, *ids, EOS, PAD, ids[0] if ids else UNK]) == line
        assert all(SPECIALS <= symbol < len(vocabulary) for symbol in ids)


@given(line=st.text(st.sampled_from(sorted(set("".join(TEXT)))), max_size=30))
def test_characters_that_were_seen_come_back_in_any_order(line):
    vocabulary = Characters.train(TEXT, 0)
    (ids,) = vocabulary.encode([line])
    assert vocabulary.decode(ids) == line
    assert len(ids) == len(line)


@settings(max_examples=50)
@given(line=lines)
def test_subwords_bring_back_any_text_at_all(line):
    (ids,) = SUBWORDS.encode([line])
    assert SUBWORDS.decode(ids) == line
    assert min(ids, default=SPECIALS) >= SPECIALS


SIGNS = st.sampled_from(list("ab'st7.,!é\u0301ß漢😀 \t\n\x1c\x85\xa0\u2003\u2028\u200b"))
WORDS = st.sampled_from(["der", "Hund's", "don't", "7,5", "'tis", "re-re", "x" * 40, "漢字", ""])


@given(
    lines=st.lists(st.one_of(st.text(SIGNS), st.lists(WORDS).map(" ".join), st.text()), max_size=5),
    most=st.sampled_from([0, 1 << 16]),
)
def test_subwords_of_words_that_were_met_are_those_of_the_whole_line(lines, most):
    with patch.object(_vocab, "_MET", most):
        for _ in range(2):
            whole = [next(SUBWORDS._ids([line])) for line in lines]
            assert SUBWORDS.encode(lines) == whole


@given(parts=st.lists(st.tuples(st.sampled_from("ab \t"), st.integers(1, 3 * _vocab._PIECE))))
def test_subwords_are_learned_from_whole_text_cut_only_within_what_is_endless(parts):
    text = "".join(sign * count for sign, count in parts)
    pieces = list(_vocab._pieces(text))
    assert "".join(pieces) == text
    words = re.findall(r"\S+|\s+", text)
    runs = [run for piece in pieces for run in re.findall(r"\S+|\s+", piece)]
    assert max(map(len, runs), default=0) <= _vocab._PIECE
    assert len(runs) == sum(1 + (len(run) - 1) // _vocab._PIECE for run in words)


def test_a_word_without_an_end_is_learned_from_in_pieces():
    learned = Subwords.train(["ab" * 20_000], 300)
    assert max(map(len, learned.symbols(range(len(learned))))) <= _vocab._PIECE


@given(words=st.lists(lines.map(lambda text: text.replace(" ", "_")), max_size=8))
def test_words_that_were_seen_come_back_with_all_blanks(words):
    line = " ".join(words)
    vocabulary = Words.train([line], 100)
    (ids,) = vocabulary.encode([line])
    assert vocabulary.decode(ids) == line


def test_what_was_not_seen_is_unknown():
    assert Characters.train(["ab"], 0).encode(["axb"]) == [[SPECIALS, UNK, SPECIALS + 1]]
    words = Words.train(["b b a c"], SPECIALS + 3)
    assert words.encode(["a b c"]) == [[SPECIALS + 2, SPECIALS + 1, UNK]]
    assert words.decode([UNK, SPECIALS + 1]) == f"{UNKNOWN_TEXT} b"


def test_the_state_is_plain_json_and_gives_the_vocabulary_back(vocabulary):
    again = from_state(json.loads(json.dumps(vocabulary.state())))
    assert again.encode(TEXT) == vocabulary.encode(TEXT)
    assert (len(again), again.state()) == (len(vocabulary), vocabulary.state())


@pytest.mark.parametrize(
    "state",
    [{}, {"tokens": "runes"}, {"tokens": "subwords", "tokenizer": "{"}, {"tokens": "words"}],
)
def test_no_state_of_a_vocabulary_is_refused(state):
    with pytest.raises(DataFormatError, match="not the state of a vocabulary"):
        from_state(state)


def test_every_id_has_a_printable_symbol(vocabulary):
    symbols = vocabulary.symbols(range(len(vocabulary)))
    assert symbols[:SPECIALS] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert all(symbol.isprintable() for symbol in symbols)


def test_invisible_characters_are_shown():
    assert printable("a b\u202f\n\u200f") == "a␣bU+202FU+000AU+200F"


def test_another_process_learns_the_same_subwords():
    program = (
        "import hashlib; from datamodules._vocab import Subwords;"
        f"state = Subwords.train({TEXT * 3!r}, 280).state()['tokenizer'];"
        "print(hashlib.sha256(state.encode()).hexdigest())"
    )
    there = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
        ).stdout.strip()
        for seed in "12"
    ]
    here = Subwords.train(TEXT * 3, 280).state()["tokenizer"]
    assert there == [hashlib.sha256(here.encode()).hexdigest()] * 2


def test_subwords_learn_the_pairs_that_are_frequent():
    learned = Subwords.train(["der hund"] * 5 + ["der mann"] * 5, 300)
    assert learned.symbols(learned.encode(["der hund"])[0]) == ["␣der", "␣hund"]
    assert len(Subwords.train(TEXT * 2, 270)) == 270


def test_the_unknown_symbol_of_subwords_is_no_text():
    (ids,) = SUBWORDS.encode(["mann"])
    assert SUBWORDS.decode([*ids, UNK]) == "mann" + UNKNOWN_TEXT


def test_text_is_changed_only_when_asked():
    odd = "ﬁ É e\u0301 ² Straße"
    assert TextForm()(odd) == odd
    assert TextForm(normalise="nfc")(odd) == "ﬁ É é ² Straße"
    assert TextForm(normalise="nfkc")(odd) == "fi É é 2 Straße"
    assert TextForm(lowercase=True)(odd) == "ﬁ é e\u0301 ² straße"
