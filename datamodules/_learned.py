"""What kinds of data share that learn from training: what a checkpoint keeps of them."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

from datamodules._base import DataModule, Workspace
from datamodules._errors import DataError, DataFormatError

_log = logging.getLogger(__name__)

#: Of `state_dict`: to be raised when a kind of data keeps things otherwise.
_STATE_FORMAT: Final = 1

#: What is learned: vocabularies, names of labels, scaling.
L = TypeVar("L")
#: What is kept of a split.
S = TypeVar("S")


class LearnedData(DataModule, Generic[L, S]):
    """A kind of data that learns something once and keeps it with the model.

    `prepare` of a subclass fills the attributes below. With a `_learned` that a checkpoint brought
    it learns nothing, and any split may be missing until it is used.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self) -> None:
        super().__init__()
        #: What was learned by `prepare`, or loaded from a checkpoint.
        self._learned: L | None = None
        self._splits: dict[str, S] = {}
        #: Why there is no such split, for who uses it nevertheless.
        self._absent: dict[str, DataError] = {}
        #: What each split was made of, as `origin` has it; `prepare` fills it.
        self._origins: dict[str, Any] = {}
        #: Where `prepare` ran.
        self._workspace: Workspace | None = None

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return what was learned, and how data is read, as plain values."""

    @abstractmethod
    def _take_over(self, state: dict[str, Any]) -> None:
        """Undo `_state`: how data is read belongs to the model."""

    def _reading(self) -> dict[str, Any]:
        """Return how data is read, by the parameter that says so: what `_take_over` may change."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, and how data is read, as plain values."""
        return {"format": _STATE_FORMAT, **self._state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a model's data had learned.

        `prepare` then learns none of its own. Where it ran before with others, it runs again. Warn
        of parameters that the model's data had otherwise.
        """
        if state_dict.get("format") != _STATE_FORMAT:
            raise DataError(
                "this checkpoint holds what its data learned in a form this version cannot read"
            )
        if self._learned is not None and self.state_dict() == state_dict:
            return
        asked = self._reading()
        self._take_over(state_dict)
        self._tell_overruled(asked)
        self._ahead = None  # of rows that are no more
        if self._workspace is not None:
            self.prepare(self._workspace)

    def _tell_overruled(self, asked: Mapping[str, Any]) -> None:
        learned = self._reading()
        other = [
            f"{name} = {learned[name]!r}, not {value!r}"
            for name, value in asked.items()
            if learned[name] != value
        ]
        if other:
            _log.warning("the data is read as the model learned it: %s", "; ".join(other))

    def origin(self, split: str) -> Any:
        """Return plain JSON that is another once what a split was made of is, or None."""
        return self._origins.get(split)

    def _give_up_empty(self, files: Mapping[str, object]) -> None:
        """Give up each split of which no row is left: who uses it nevertheless is told why.

        `files` says what each was read from.
        """
        for split in [each for each in self._splits if not len(self.sizes(each))]:
            del self._splits[split]
            self._absent[split] = DataFormatError(
                f"nothing is left of {split} ({files[split]}): all its rows are too long or have"
                " labels that the model does not know; add others, or train a new model on it"
            )

    @property
    def _known(self) -> L:
        if self._learned is None:
            raise DataError("this data has learned nothing yet: prepare it or load a checkpoint")
        return self._learned

    def _split(self, split: str) -> S:
        if split in self._splits:
            return self._splits[split]
        if split in self._absent:
            raise self._absent[split]
        known = ", ".join(self._splits) or "none; it was not prepared"
        raise DataError(f"this data has no split {split!r} (it has: {known})")
