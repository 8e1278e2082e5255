"""What real models said to a real test set, as numbers: `bleu_rows.npy` beside this file.

Two models of one recipe that differ in their seeds (German to English, Multi30k, 2016 test set),
and the first one's lines given to the wrong sentences, as a model would that was trained on
shuffled labels. A row holds what sacrebleu counts of a sentence; no text is among it.

Shapes: 1,000 rows of 10 numbers.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_modules._row_scores import RowScores

FILE: Final = Path(__file__).with_name("bleu_rows.npy")
Rng = np.random.Generator


class Outputs:
    """Make models that differ by chance alone, or by as much as is said."""

    def __init__(self, rows: NDArray[np.int64] | None = None) -> None:
        """Take all sentences, or those of these numbers."""
        said = np.load(FILE).astype(np.float64)
        said = said if rows is None else said[:, rows]
        self._seeds, self._shuffled = said[:2], said[2]
        single = [RowScores("bleu", each).each() for each in self._seeds]
        self._best = np.argmax(single, axis=0)
        self._rows = np.arange(len(self))

    def __len__(self) -> int:
        return self._seeds.shape[1]

    def pair(self, rng: Rng) -> tuple[RowScores, RowScores]:
        """Return two models without a true difference: by chance each sentence is said by one as
        the first seed said it, and by the other as the second did.
        """
        chosen = rng.integers(2, size=len(self))
        return self._model(chosen), self._model(1 - chosen)

    def better(self, rng: Rng, share: float) -> RowScores:
        """Return a model that says this share of the sentences as the better of the two seeds."""
        knows = rng.random(len(self)) < share
        return self._model(np.where(knows, self._best, rng.integers(2, size=len(self))))

    def worse(self, rng: Rng, good: RowScores, bleu: float) -> RowScores:
        """Return a model of that many points of BLEU less: some sentences are said wrong."""
        order, wanted = rng.permutation(len(self)), good.score() - bleu
        low, high = 0, len(self)
        while high - low > 1:
            middle = (low + high) // 2
            is_enough = self._spoilt(good, order[:middle]).score() <= wanted
            low, high = (low, middle) if is_enough else (middle, high)
        return self._spoilt(good, order[:high])

    def shuffled(self) -> RowScores:
        """Return a model that was trained on shuffled labels."""
        return RowScores("bleu", self._shuffled)

    def on_another_set(self, rng: Rng) -> "Outputs":
        """Return what is said to another test set of the kind: sentences drawn from this one."""
        return Outputs(rng.integers(len(self), size=len(self)))

    def _model(self, chosen: NDArray[np.int64]) -> RowScores:
        return RowScores("bleu", self._seeds[chosen, self._rows])

    def _spoilt(self, good: RowScores, wrong: NDArray[np.int64]) -> RowScores:
        values = good.values.copy()
        values[wrong] = self._shuffled[wrong]
        return RowScores("bleu", values)
