"""The families of scores of written text, each as its reference implementation counts.

Text is given as lines. Where a row has several references and a family has no rule of its own for
them, the best one counts. Error rates split words at blanks, so that a line of symbols with blanks
between them (phonemes, tags) has the error rate of its symbols.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Final

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from torch import Tensor
from torchmetrics.functional.text import char_error_rate, squad, word_error_rate
from torchmetrics.functional.text.rouge import rouge_score

from datamodules._base import TextFamily, TextScoring

_ROUGE: Final = ("rouge1", "rouge2", "rougeL")

#: The references of every row, at least one each.
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """What one family has to say of a corpus."""

    metrics: Mapping[str, float]
    #: How they were computed, by a name that can stand in a result.
    facts: Mapping[str, str] = field(default_factory=dict)


def _streams(references: References) -> list[tuple[str, ...]]:
    """Return the references as sacrebleu wants them: first those that come first; none is None."""
    return list(zip_longest(*references))


def _bleu(hypotheses: Sequence[str], references: References, scoring: TextScoring) -> Scores:
    # `force` only silences the advice about text that looks tokenised.
    bleu = BLEU(tokenize=scoring.tokenize, lowercase=scoring.lowercase, force=True)
    score = bleu.corpus_score(hypotheses, _streams(references)).score
    return Scores({"bleu": score}, {"bleu_signature": str(bleu.get_signature())})


def _chrf(hypotheses: Sequence[str], references: References, scoring: TextScoring) -> Scores:
    chrf = CHRF(lowercase=scoring.lowercase)
    return Scores({"chrf": chrf.corpus_score(hypotheses, _streams(references)).score})


def _ter(hypotheses: Sequence[str], references: References, _scoring: TextScoring) -> Scores:
    # Case is ignored in any case: tercom's default and sacrebleu's.
    ter = TER()
    score = ter.corpus_score(hypotheses, _streams(references)).score
    return Scores({"ter": score}, {"ter_signature": str(ter.get_signature())})


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
    return Scores({name: math.fsum(column) / len(column) for name, column in columns})


def _rouge_of(hypothesis: str, reference: str) -> tuple[float, ...]:
    found = rouge_score(hypothesis, reference, rouge_keys=_ROUGE)
    return tuple(float(found[f"{name}_fmeasure"]) for name in _ROUGE)


def _error_rate(
    name: str,
    rate: Callable[[list[str], list[str]], Tensor],
    hypotheses: Sequence[str],
    references: References,
    scoring: TextScoring,
) -> Scores:
    """Add up the edits of all rows and divide by the length of all references.

    Of several references that of the lowest rate counts, of equal ones the first.
    """
    same = str.lower if scoring.lowercase else str
    hypotheses = list(map(same, hypotheses))
    best = [
        _nearest(rate, hypothesis, list(map(same, choices)))
        for hypothesis, choices in zip(hypotheses, references, strict=True)
    ]
    return Scores({name: _defined(rate(hypotheses, best))})


def _nearest(
    rate: Callable[[list[str], list[str]], Tensor], hypothesis: str, choices: list[str]
) -> str:
    if len(choices) == 1:
        return choices[0]
    return min(choices, key=lambda reference: _defined(rate([hypothesis], [reference])))


def _defined(rate: Tensor) -> float:
    """Return a rate also where the references are empty: 0 if that was right, and else 1."""
    value = float(rate)
    return value if math.isfinite(value) else float(math.isinf(value))


def _answer(hypotheses: Sequence[str], references: References, _scoring: TextScoring) -> Scores:
    """Score as SQuAD does (Rajpurkar et al. 2016, 2018): without case, punctuation and articles."""
    found = squad(
        [
            {"prediction_text": hypothesis, "id": str(row)}
            for row, hypothesis in enumerate(hypotheses)
        ],
        [
            {"answers": {"text": list(choices), "answer_start": []}, "id": str(row)}
            for row, choices in enumerate(references)
        ],
    )
    percent = {"answer_f1": found["f1"], "answer_exact": found["exact_match"]}
    return Scores({name: float(value) / 100 for name, value in percent.items()})


#: How each family is computed; at least one row.
FAMILIES: Final[Mapping[TextFamily, Callable[[Sequence[str], References, TextScoring], Scores]]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "ter": _ter,
    "rouge": _rouge,
    "wer": partial(_error_rate, "wer", word_error_rate),
    "cer": partial(_error_rate, "cer", char_error_rate),
    "answer": _answer,
}
