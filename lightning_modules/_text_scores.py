"""The families of scores of written text, each as its reference implementation counts.

Text is given as lines. Where a row has several references and a family has no rule of its own for
them, the best one counts. Error rates split words at blanks, so that a line of symbols with blanks
between them (phonemes, tags) has the error rate of its symbols.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Final, Literal

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from torch import Tensor
from torchmetrics.functional.text import char_error_rate, squad, word_error_rate
from torchmetrics.functional.text.rouge import rouge_score

from datamodules._base import TextFamily, TextScoring
from lightning_modules._row_scores import RowScores, ratio

_ROUGE: Final = ("rouge1", "rouge2", "rougeL")

#: The references of every row, at least one each.
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """What one family has to say of a corpus."""

    metrics: Mapping[str, float]
    #: What each row adds to them; of rows alone they can be computed again.
    rows: Mapping[str, RowScores]
    #: How each was computed: scores with different signatures are not of one kind.
    signatures: Mapping[str, str]


def _of_rows(rows: Mapping[str, RowScores], signature: str) -> Scores:
    return Scores(
        {name: each.score() for name, each in rows.items()}, rows, dict.fromkeys(rows, signature)
    )


def _streams(references: References) -> list[tuple[str, ...]]:
    """Return the references as sacrebleu wants them: first those that come first; none is None."""
    return list(zip_longest(*references))


def _bleu(hypotheses: Sequence[str], references: References, scoring: TextScoring) -> Scores:
    # `force` only silences the advice about text that looks tokenised.
    bleu = BLEU(tokenize=scoring.tokenize, lowercase=scoring.lowercase, force=True)
    return _by_sacrebleu("bleu", bleu, hypotheses, references)


def _chrf(hypotheses: Sequence[str], references: References, scoring: TextScoring) -> Scores:
    return _by_sacrebleu("chrf", CHRF(lowercase=scoring.lowercase), hypotheses, references)


def _ter(hypotheses: Sequence[str], references: References, _scoring: TextScoring) -> Scores:
    # Case is ignored in any case: tercom's default and sacrebleu's.
    return _by_sacrebleu("ter", TER(), hypotheses, references)


def _by_sacrebleu(
    kind: Literal["bleu", "chrf", "ter"],
    metric: BLEU | CHRF | TER,
    hypotheses: Sequence[str],
    references: References,
) -> Scores:
    extract = metric._extract_corpus_statistics  # noqa: SLF001 - as sacrebleu.significance does
    rows = RowScores(kind, np.array(extract(hypotheses, _streams(references)), np.float64))
    return Scores({kind: rows.score()}, {kind: rows}, {kind: str(metric.get_signature())})


def _rouge(hypotheses: Sequence[str], references: References, _scoring: TextScoring) -> Scores:
    """Score by F1 without stemming; of several references by the one of the best ROUGE-1.

    So does SciTLDR's script (Cachola et al. 2020). The words are runs of a to z and 0 to 9, case
    ignored, as in the rouge-score package: other scripts have none.
    """
    best = [
        max((_rouge_of(hypothesis, reference) for reference in choices), key=lambda f1: f1[0])
        for hypothesis, choices in zip(hypotheses, references, strict=True)
    ]
    columns = zip(_ROUGE, zip(*best, strict=True), strict=True)
    return _of_rows({name: ratio(column, 1) for name, column in columns}, "case:lc|stem:no")


def _rouge_of(hypothesis: str, reference: str) -> tuple[float, ...]:
    found = rouge_score(hypothesis, reference, rouge_keys=_ROUGE)
    return tuple(float(found[f"{name}_fmeasure"]) for name in _ROUGE)


def _error_rate(
    name: str,
    rate: Callable[[list[str], list[str]], Tensor],
    cut: Callable[[str], Sequence[str]],
    hypotheses: Sequence[str],
    references: References,
    scoring: TextScoring,
) -> Scores:
    """Add up the edits of all rows and divide by the length of all references.

    Of several references that of the lowest rate counts, of equal ones the first.
    """
    same = str.lower if scoring.lowercase else str
    best = [
        min((_edits(rate, cut, same(hypothesis), same(each)) for each in choices), key=_rate_of)
        for hypothesis, choices in zip(hypotheses, references, strict=True)
    ]
    rows = {name: ratio(*zip(*best, strict=True))}
    return _of_rows(rows, f"case:{'lc' if scoring.lowercase else 'mixed'}")


def _edits(
    rate: Callable[[list[str], list[str]], Tensor],
    cut: Callable[[str], Sequence[str]],
    hypothesis: str,
    reference: str,
) -> tuple[int, int]:
    """Return the edits of a row and the length of its reference."""
    length = len(cut(reference))
    if not length:
        return len(cut(hypothesis)), 0
    return round(float(rate([hypothesis], [reference])) * length), length


def _rate_of(counts: tuple[int, int]) -> float:
    edits, length = counts
    return edits / length if length else float(edits > 0)


def _answer(hypotheses: Sequence[str], references: References, _scoring: TextScoring) -> Scores:
    """Score as SQuAD does (Rajpurkar et al. 2016, 2018): without case, punctuation and articles."""
    each = [_answer_of(*pair) for pair in zip(hypotheses, references, strict=True)]
    f1, exact = zip(*each, strict=True)
    return _of_rows({"answer_f1": ratio(f1, 1), "answer_exact": ratio(exact, 1)}, "squad")


def _answer_of(hypothesis: str, choices: Sequence[str]) -> tuple[float, float]:
    found = squad(
        {"prediction_text": hypothesis, "id": ""},
        {"answers": {"text": list(choices), "answer_start": []}, "id": ""},
    )
    return float(found["f1"]) / 100, float(found["exact_match"]) / 100


#: How each family is computed; at least one row.
FAMILIES: Final[Mapping[TextFamily, Callable[[Sequence[str], References, TextScoring], Scores]]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "ter": _ter,
    "rouge": _rouge,
    "wer": partial(_error_rate, "wer", word_error_rate, str.split),
    "cer": partial(_error_rate, "cer", char_error_rate, list),
    "answer": _answer,
}
