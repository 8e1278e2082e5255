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
Rows = NDArray[np.float64]


class Outputs:
    """Make models that differ by chance alone, or by as much as is said."""

    def __init__(self) -> None:
        first, second, shuffled = np.load(FILE).astype(np.float64)
        self._seeds = np.stack([first, second])
        self._shuffled = shuffled
        single = np.array(
            [[RowScores("bleu", row[None]).each()[0] for row in each] for each in self._seeds]
        )
        self._best = single.argmax(axis=0)

    def __len__(self) -> int:
        return self._seeds.shape[1]

    def seed(self, rng: np.random.Generator) -> RowScores:
        """Return another seed of the recipe: each sentence is said as one of the two said it."""
        return self.better(rng, 0.0)

    def better(self, rng: np.random.Generator, share: float) -> RowScores:
        """Return a model that says this share of the sentences as the better of the two."""
        rows = np.arange(len(self))
        chosen = rng.integers(2, size=len(self))
        knows = rng.random(len(self)) < share
        return RowScores("bleu", self._seeds[np.where(knows, self._best, chosen), rows])

    def worse(self, rng: np.random.Generator, bleu: float) -> RowScores:
        """Return a model of that many points of BLEU less: some sentences are said wrong."""
        good = self.seed(rng)
        order, wanted = rng.permutation(len(self)), good.score() - bleu
        low, high = 0, len(self)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high)
                if self._spoilt(good, order[:middle]).score() > wanted
                else (low, middle)
            )
        return self._spoilt(good, order[:high])

    def shuffled(self) -> RowScores:
        """Return a model that was trained on shuffled labels."""
        return RowScores("bleu", self._shuffled)

    def _spoilt(self, good: RowScores, wrong: NDArray[np.int64]) -> RowScores:
        values = good.values.copy()
        values[wrong] = self._shuffled[wrong]
        return RowScores("bleu", values)
