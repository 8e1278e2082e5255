"""Every family of scores of text counts as its definition does, one plain loop each."""

import math
import re
import string
from collections import Counter
from types import SimpleNamespace

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules._base import TextScoring, Workspace
from datamodules._vocab import EOS
from datamodules.dates import Dates
from lightning_modules._decoding import Search
from lightning_modules._scoring import score_text
from lightning_modules._text import TextTopology
from lightning_modules._text_scores import FAMILIES

WORDS = ["the", "a", "cat", "Cat", "sat,", "on", "mat.", "AN", "42", "é", "--"]
texts = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
rows = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=5)
quick = settings(max_examples=60, deadline=None)


def scores(corpus, *families, lowercase=False):
    hypotheses, references = zip(*corpus, strict=True)
    return score_text(hypotheses, references, TextScoring("13a", lowercase, families))


def edits(one, other):
    """Return the Levenshtein distance of two sequences, by a whole table."""
    table = {(0, j): j for j in range(len(other) + 1)} | {(i, 0): i for i in range(len(one) + 1)}
    for i, left in enumerate(one, 1):
        for j, right in enumerate(other, 1):
            change = table[i - 1, j - 1] + (left != right)
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(one), len(other)]


def rate_of(wrong, length):
    return wrong / length if length else float(wrong > 0)


def error_rate(corpus, cut):
    wrong = length = 0
    for hypothesis, choices in corpus:
        counts = [(edits(cut(hypothesis), cut(each)), len(cut(each))) for each in choices]
        best = min(counts, key=lambda count: rate_of(*count))
        wrong, length = wrong + best[0], length + best[1]
    return rate_of(wrong, length)


def f1(shared, found, true):
    return 2 * shared / (found + true) if shared else 0.0


def rouge(hypothesis, reference):
    one, other = (re.findall("[a-z0-9]+", text.lower()) for text in (hypothesis, reference))
    found = []
    for n in (1, 2):
        counts = [
            Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
            for words in (one, other)
        ]
        shared = sum((counts[0] & counts[1]).values())
        found.append(f1(shared, *(sum(each.values()) for each in counts)))
    common = max(
        (len(each) for each in subsequences(one) if is_subsequence(each, other)), default=0
    )
    return (*found, f1(common, len(one), len(other)))


def subsequences(words):
    return [
        [word for place, word in enumerate(words) if chosen >> place & 1]
        for chosen in range(2 ** len(words))
    ]


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


def plain_answer(text):
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in kept.split() if word not in {"a", "an", "the"}]


def answer_f1(hypothesis, reference):
    one, other = plain_answer(hypothesis), plain_answer(reference)
    if not one or not other:
        return float(one == other)
    return f1(sum((Counter(one) & Counter(other)).values()), len(one), len(other))


# --- against plain loops


@given(rows)
@quick
def test_the_word_and_character_error_rates_are_edits_over_the_best_references(corpus):
    found = scores(corpus, "wer", "cer").metrics
    assert found["wer"] == pytest.approx(error_rate(corpus, str.split), abs=1e-6)
    assert found["cer"] == pytest.approx(error_rate(corpus, list), abs=1e-6)


@given(rows)
@quick
def test_rouge_is_that_of_the_reference_of_the_best_rouge_1(corpus):
    best = [
        max((rouge(hypothesis, each) for each in choices), key=lambda found: found[0])
        for hypothesis, choices in corpus
    ]
    found = scores(corpus, "rouge").metrics
    for name, column in zip(("rouge1", "rouge2", "rougeL"), zip(*best, strict=True), strict=True):
        assert found[name] == pytest.approx(sum(column) / len(column), abs=1e-6)


@given(rows)
@quick
def test_answers_are_scored_by_the_best_of_their_references(corpus):
    found = scores(corpus, "answer").metrics
    each_f1 = [max(answer_f1(text, each) for each in choices) for text, choices in corpus]
    exact = [
        max(plain_answer(text) == plain_answer(each) for each in choices)
        for text, choices in corpus
    ]
    assert found["answer_f1"] == pytest.approx(sum(each_f1) / len(corpus), abs=1e-6)
    assert found["answer_exact"] == pytest.approx(sum(exact) / len(corpus), abs=1e-6)


@given(rows)
@quick
def test_ter_is_sacrebleus(corpus):
    found = scores(corpus, "ter")
    most = max(len(choices) for _, choices in corpus)
    streams = [
        [choices[n] if n < len(choices) else None for _, choices in corpus] for n in range(most)
    ]
    true = sacrebleu.corpus_ter([text for text, _ in corpus], streams)
    assert found.metrics["ter"] == pytest.approx(true.score)
    assert "case:lc" in found.facts["ter_signature"]


# --- what holds whatever the text


@given(rows)
@quick
def test_a_reference_itself_is_perfect_in_every_family(corpus):
    found = scores([(choices[-1], choices) for _, choices in corpus], *FAMILIES).metrics
    nothing = {"ter", "wer", "cer"}
    assert {name: found[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert (found["exact_match"], found["answer_f1"], found["answer_exact"]) == (1, 1, 1)


@given(rows)
@quick
def test_rates_stay_in_their_range(corpus):
    found = scores(corpus, *FAMILIES).metrics
    for name in ("rouge1", "rouge2", "rougeL", "answer_f1", "answer_exact", "exact_match"):
        assert 0 <= found[name] <= 1
    assert 0 <= found["bleu"] <= 100.0001
    assert 0 <= found["chrf"] <= 100.0001
    assert all(found[name] >= 0 for name in ("wer", "cer", "ter"))


@given(texts, st.lists(texts, min_size=1, max_size=3), texts)
@quick
def test_another_reference_never_makes_a_row_worse(hypothesis, choices, another):
    families = ("rouge", "wer", "cer", "answer")
    few = scores([(hypothesis, choices)], *families).metrics
    more = scores([(hypothesis, [*choices, another])], *families).metrics
    for name in ("rouge1", "answer_f1", "answer_exact", "exact_match"):
        assert more[name] >= few[name]
    for name in ("wer", "cer"):
        assert more[name] <= few[name]


# --- single cases


@pytest.mark.parametrize(
    ("hypothesis", "reference", "rate"), [("", "", 0), ("x", "", 1), ("", "x y", 1)]
)
def test_nothing_written_and_nothing_to_write_have_a_score(hypothesis, reference, rate):
    found = scores([(hypothesis, [reference])], *FAMILIES).metrics
    assert (found["wer"], found["cer"], found["ter"]) == (rate, rate, 100 * rate)
    assert found["rouge1"] == found["rouge2"] == found["rougeL"] == 0
    assert found["answer_f1"] == found["answer_exact"] == found["exact_match"] == 1 - rate


def test_case_counts_where_it_is_not_ignored():
    corpus = [("The Cat", ["the cat", "A CAT"])]
    assert scores(corpus, "wer").metrics == {"wer": 1, "exact_match": 0}
    assert scores(corpus, "wer", lowercase=True).metrics == {"wer": 0, "exact_match": 1}


def test_only_what_was_asked_for_is_computed():
    assert set(scores([("a", ["b"])]).metrics) == {"exact_match"}
    assert set(scores([("a", ["b"])], "cer").metrics) == {"cer", "exact_match"}
    assert scores([("a", ["b"])], "cer").facts == {}
    assert TextScoring().metrics == ("bleu", "chrf")


def test_a_line_feed_in_a_cell_is_a_blank():
    assert scores([("a b", ["a\nb"])], "cer", "ter").metrics["cer"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_chosen_by_a_metric_of_the_first_family(family):
    name, mode = TextScoring(metrics=(family, "bleu")).monitor
    wrong, right = (
        scores([(text, ["y z y z y"])], family).metrics[name.removeprefix("val/")]
        for text in ("x", "y z y z y")
    )
    assert right != wrong
    assert (right > wrong) == (mode == "max")


def test_without_scores_models_are_chosen_by_the_loss():
    assert TextScoring(metrics=()).monitor == ("val/loss", "min")


# --- what a topology does with it


class Writer(TextTopology):
    """A topology that finds every symbol equally good, writes nothing, and counts its searches."""

    def __init__(self, data):
        super().__init__()
        self.read, self.searched, self.search = data, 0, Search()

    @property
    def data(self):
        return self.read

    def forward(self, batch, previous=None):
        return torch.zeros(int(batch.target_lengths.sum()), 99)

    def decoder(self, batch):
        raise NotImplementedError

    def generate(self, batch, how=None):
        self.searched += 1
        return [[SimpleNamespace(ids=[EOS], score=0.0)] for _ in range(len(batch))]


@pytest.mark.parametrize(("metrics", "searches"), [((), 0), (("cer",), 1)])
def test_where_no_score_is_asked_for_nothing_is_searched(metrics, searches, tmp_path):
    data = Dates(examples=3, held_out=2, locales=["de"])
    data.prepare(Workspace((), tmp_path))
    data.scoring = TextScoring(metrics=metrics)
    model = Writer(data)
    gathered = model.nothing_yet()
    model.gather(gathered, data.collate("val", [0, 1]))
    found = model.scores(gathered, "val")
    assert model.searched == searches
    assert found["loss"] == pytest.approx(math.log(99))
    assert (
        ("cer" in found) == ("exact_match" in found) == ("val" in model.outputs) == bool(searches)
    )
