"""What can go wrong with data. The runner maps these to the reasons a job can end.

DataError
├── DataPathError      a path that does not exist, or lies outside the allowed roots
│   └── DataMissingError   a split of which there is no file
└── DataFormatError    a file that can be read but does not hold what was promised
"""


class DataError(Exception):
    """Say in one line what is wrong with the data, with the file, the row and the mend."""

    def __init__(self, line: str) -> None:
        # A file's name or content, quoted in the line, may itself hold a line end.
        super().__init__("\\n".join(line.splitlines()))


class DataPathError(DataError):
    """A path that does not exist, or that lies outside the allowed data roots."""


class DataMissingError(DataPathError):
    """A split of which there is no file; for one that is not used, that is no matter."""


class DataFormatError(DataError):
    """A file whose content is not what its kind of data promises."""
