"""What all kinds of data share whose target is a number and not a symbol: its unit, its answers.

Shapes: T steps, V columns.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from datamodules._base import Answer, DataModule

#: Rows that are looked at at once.
_PART: Final = 1 << 14

#: Name of the extra that holds the newest value of each target column before the first target,
#: float32 (B, V): what a decoder that reads its own output reads first.
BEFORE = "before"


@dataclass(frozen=True)
class Scaling:
    """Map values to mean 0 and standard deviation 1 of training, column by column, and back."""

    mean: tuple[float, ...]
    #: Never 0: a column that does not change in training has 1.
    scale: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Scaling":
        """Return the scaling of what training has, (N, V); accumulated in float64.

        The values need not fit into memory.
        """
        parts = [values[begin : begin + _PART] for begin in range(0, len(values), _PART)]
        # Counted from the first row: the mean of a column that does not change is just its value.
        first = values[0].astype(np.float64)
        mean = first + sum((part - first).sum(axis=0) for part in parts) / len(values)
        squares = sum(((part - mean) ** 2).sum(axis=0) for part in parts)
        deviation = np.sqrt(squares / len(values))
        scale = np.where(deviation > 0, deviation, 1.0)
        return cls(tuple(mean.tolist()), tuple(scale.tolist()))

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return scaled values (..., V)."""
        scaled: NDArray[np.float64] = (values - np.array(self.mean)) / np.array(self.scale)
        return scaled.astype(np.float32)

    def undo(self, scaled: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what scaled values (..., V) were."""
        values: NDArray[np.float64] = scaled * np.array(self.scale) + np.array(self.mean)
        return values

    def state(self) -> dict[str, list[float]]:
        """Return plain values."""
        return {"mean": list(self.mean), "scale": list(self.scale)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Scaling":
        """Undo `state`."""
        return cls(tuple(state["mean"]), tuple(state["scale"]))


class ValueData(DataModule):
    """A kind of data whose targets are values; models see and are scored on scaled ones.

    Beside `mse` and `mae` of scaled values, scores have `mse_original` and `mae_original`.
    """

    @property
    @abstractmethod
    def value_scale(self) -> Sequence[float]:
        """Return what one scaled unit of each column is in the unit of the file, (V,)."""


def value_answer(values: NDArray[np.floating], columns: Sequence[str]) -> Answer:
    """Return an answer of values (T, V) in the unit of the file: a list by the name of its column.

    What is printed are the steps, blanks between them and `;` between columns. A value has no
    probability, so the score is 0.
    """
    lists = {name: values[:, place].tolist() for place, name in enumerate(columns)}
    text = "; ".join(" ".join(f"{value:.6g}" for value in each) for each in lists.values())
    return Answer(text, 0.0, lists)
