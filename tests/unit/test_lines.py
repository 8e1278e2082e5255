"""Lines of a file, read in parts: the same wherever a part ends, bad ones named by their line."""

import gzip
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules import _files
from datamodules._errors import DataFormatError, DataPathError
from datamodules._files import lines_of, text_of

#: What can be mistaken for a line end, and what has several bytes.
TEXTS = st.text(st.sampled_from("a\r\n\u2028\ufeff\N{SNOWMAN}\U0001f600"))


def plain_lines(text):
    """Split a whole text."""
    lines = text.removeprefix("\ufeff").removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
@given(text=TEXTS, chunk=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_a_part_ends_makes_no_difference(tmp_path, encoding, name, text, chunk):
    content = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with patch.object(_files, "_CHUNK", chunk):
        assert text_of(path, encoding) == text.removeprefix("\ufeff")
        if text.removeprefix("\ufeff"):
            assert list(lines_of(path, encoding)) == plain_lines(text)
        else:
            with pytest.raises(DataFormatError, match="is empty"):
                list(lines_of(path, encoding))


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\xe2\x98\x83\nb\xff\nc", "line 3 is not valid UTF-8"),
        (b"a\n\n\xe2\x98", "line 3 is not valid UTF-8"),
        (b"a\nb\0\nc", "line 2 holds a NUL byte"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, content, message, chunk):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with (
        patch.object(_files, "_CHUNK", chunk),
        pytest.raises(DataFormatError, match=f"text.txt, {message}"),
    ):
        list(lines_of(path))


def test_half_a_gzip_file_and_none_at_all_are_told(tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(bytes(range(1, 100)) * 9)[:-9])
    with pytest.raises(DataFormatError, match="is not a whole gzip file"):
        text_of(path, "latin-1")
    path.write_bytes(b"plain")
    with pytest.raises(DataFormatError, match="is not a whole gzip file"):
        text_of(path)
    with pytest.raises(DataPathError, match=r"cannot read .*: No such file"):
        list(lines_of(tmp_path / "gone.txt"))
