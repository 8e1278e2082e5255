"""Tables read a part at a time: the same rows wherever a part ends, and little held at once."""

import csv
import gzip
import io
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from datamodules import _files
from datamodules._errors import DataFormatError
from datamodules._files import table_rows

CELL = st.text(alphabet='ab, "\r\nüß€😀', max_size=5)


@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    chunk=st.integers(1, 9),
)
def test_a_csv_is_the_same_wherever_its_parts_end(tmp_path_factory, rows, end, chunk):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    written = io.StringIO()
    writer = csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("one", "other"), *rows])
    path.write_bytes(written.getvalue().encode())
    with patch.object(_files, "_CHUNK", chunk):
        found = list(table_rows(path))
    assert [tuple(row.values()) for _, row in found] == rows
    lines = csv.reader(io.StringIO(written.getvalue(), newline=""))
    places = [f"{path}, line {lines.line_num}" for _ in lines]
    assert [where for where, _ in found] == places[1:]


@pytest.mark.parametrize("suffix", [".parquet", ".parquet.gz"])
def test_the_rows_of_a_parquet_file_are_numbered_through(suffix, tmp_path):
    plain, path = tmp_path / "plain", tmp_path / f"x{suffix}"
    parquet.write_table(pa.table({"n": range(10), "t": [["ä"] * n for n in range(10)]}), plain)
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    with patch.object(_files, "_ROWS", 3):
        found = list(table_rows(path))
    assert found == [(f"{path}, row {n + 1}", {"n": n, "t": ["ä"] * n}) for n in range(10)]


def test_a_parquet_file_that_is_damaged_in_its_middle_is_told(tmp_path):
    path = tmp_path / "x.parquet"
    texts = [f"{number:0100}" for number in range(10_000)]
    parquet.write_table(pa.table({"t": texts}), path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=r"x\.parquet is not a Parquet file: "):
        list(table_rows(path))
