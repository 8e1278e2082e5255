"""The marker for constructor parameters whose value comes from the data."""

from typing import Annotated, Final, TypeVar

T = TypeVar("T")


class FromDataMarker:
    """Mark a parameter that users never give: the data module's `dims` holds its value."""


FROM_DATA: Final = FromDataMarker()

#: `vocabulary_size: FromData[int]` is filled from `DataModule.dims`, hidden from users, and refused
#: when a spec gives it. With a default it need not be in `dims`: 0 means that the data has none.
FromData = Annotated[T, FROM_DATA]
