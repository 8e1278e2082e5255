"""Whether what a model is evaluated on is there and can be: looked at before hours are spent."""

from typing import Any, Final

from datamodules._base import DataModule
from datamodules._errors import DataError
from jobs.errors import SpecError
from jobs.schedules import set_of
from jobs.slicing import is_row_slice, row_slice
from jobs.spec import Component, TrainSpec
from lightning_modules._base import Topology
from lightning_modules._text import writes_text
from worker.runner.build import build_data
from worker.runner.catalog import Found
from worker.runner.evaluated import row_properties
from worker.runner.ranks import first_rank_first
from worker.runner.task import Task

#: Symbols of a line that text is written from, the end symbol counted. An output grows with its
#: input, and each of its steps looks at all of that: without a bound, a file without line ends
#: keeps a worker for hours.
LONGEST: Final = 10_000


def require_sets(task: Task, spec: TrainSpec, kind: Found[DataModule], data: DataModule) -> None:
    """Look at the sets of `spec.evaluated_on`, the first of which is the test set.

    `data` is prepared. Raise DataError or SpecError for the first that is missing or empty.
    """
    for place, each in enumerate(spec.evaluated_on):
        test = spec.evaluated_on[0]
        if is_row_slice(each):
            row_slice(each).of(row_properties(data, test, len(data.sizes(test))))
            continue
        what = f"the slice {each}" if place else f"the test set {each}"
        split, otherwise = set_of(each, test)
        try:
            require_rows(_prepared(task, spec, kind, data, otherwise) if otherwise else data, split)
        except DataError as error:
            raise type(error)(f"{what} cannot be evaluated: {error}") from error
        except SpecError as error:
            raise SpecError(f"{what} cannot be evaluated: {error}") from None


def require_rows(data: DataModule, split: str) -> None:
    """Raise DataError where a split has no row."""
    if not len(data.sizes(split)):
        raise DataError(f"the split {split!r} holds no row")


def refuse_endless(model: Topology, data: DataModule, split: str) -> None:
    """Raise DataError for the first row that is too long to write text from or to score it by."""
    if not writes_text(model):
        return
    too_long = data.sizes(split).max(axis=1) > LONGEST
    if too_long.any():
        raise DataError(
            f"{data.place(split, int(too_long.argmax()))} has more than {LONGEST:,} symbols: a text"
            " so long cannot be scored; shorten it, or leave it out"
        )


def _prepared(
    task: Task,
    spec: TrainSpec,
    kind: Found[DataModule],
    data: DataModule,
    otherwise: dict[str, Any],
) -> DataModule:
    """Return the data with other parameters, with the vocabularies as its evaluation will have."""
    found = build_data(kind, Component(spec.data.name, {**spec.data.params, **otherwise}))
    found.feed = data.feed
    found.load_state_dict(data.state_dict())
    with first_rank_first():
        found.prepare(task.workspace)
    return found
