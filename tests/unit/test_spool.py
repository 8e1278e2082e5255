"""Numbers that grow beyond memory: the same whether they stayed in it or went to a file."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import _encoded, _spool
from datamodules._encoded import read_lines
from datamodules._rows import Rows, Texts
from datamodules._spool import Spool
from datamodules._vocab import EOS

#: Bytes held in memory: none, a few, all.
HELD = st.sampled_from([0, 9, 1 << 20])


@given(parts=st.lists(st.lists(st.integers(-9, 9), max_size=5)), held=HELD)
def test_what_was_added_comes_out_in_its_order(parts, held):
    with patch.object(_spool, "_HELD", held):
        spool = Spool("i")
        for number, part in enumerate(parts):
            spool.extend(part)
            spool.append(number)
            spool.extend_bytes(np.array(part, dtype=np.int32).tobytes())
            assert len(spool) == sum(2 * len(each) + 1 for each in parts[: number + 1])
        found = spool.array()
    assert found.dtype == np.int32
    expected = [value for number, part in enumerate(parts) for value in (*part, number, *part)]
    assert found.tolist() == expected


def test_many_numbers_lie_in_a_file_and_few_do_not():
    few, many = Spool("q"), Spool("q")
    few.extend(range(10))
    many.extend(range(_spool._HELD))
    assert (few._file, many._file is None) == (None, False)
    assert len(many._held) == 0
    mapped = many.array()
    mapped[0] = 7  # like any other array
    assert mapped[-1] == _spool._HELD - 1


@given(texts=st.lists(st.text(max_size=4)), held=HELD, data=st.data())
def test_texts_are_read_back_one_by_one_in_part_and_all(texts, held, data):
    with patch.object(_spool, "_HELD", held):
        found = Texts(Rows.of_texts(texts))
    assert list(found) == texts
    cut = data.draw(st.slices(len(texts)))
    assert found[cut] == texts[cut]
    assert [found[row] for row in range(-len(texts), len(texts))] == texts * 2
    with pytest.raises(IndexError):
        found[len(texts)]


@given(rows=st.lists(st.tuples(st.text(max_size=4), st.booleans())), held=HELD)
def test_rows_are_kept_whatever_part_of_them_is_looked_at_at_once(rows, held):
    with patch.object(_spool, "_HELD", held), patch("datamodules._rows._PART", 3):
        whole = Rows.of_texts(text for text, _ in rows)
        kept = whole.where(np.array([keep for _, keep in rows], dtype=np.bool_))
        assert list(Texts(kept)) == [text for text, keep in rows if keep]


@given(
    rows=st.lists(st.lists(st.integers(3, 9), max_size=5)),
    ended=st.booleans(),
    held=st.integers(0, 9),
)
def test_ids_are_joined_however_many_are_spooled_at_once(rows, ended, held):
    with patch("datamodules._rows._HELD", held):
        joined = Rows.of_ids(iter(rows), ended=ended)
    bounds = pairwise(joined.offsets.tolist())
    assert joined.offsets.dtype == np.int64
    assert [joined.values[a:b].tolist() for a, b in bounds] == [r + [EOS] * ended for r in rows]


def test_few_lines_are_encoded_at_once_where_they_are_long():
    lines = ["a" * 60] * 5 + ["b" * 500] * 5
    seen = []

    def read(part):
        seen.append(len(part))
        return [[len(line)] for line in part]

    with patch.multiple(_encoded, _PART=4, _CHARACTERS=1000):
        rows = read_lines(read, iter(lines))
    assert seen == [4, 3, 2, 1]
    assert rows.values[::2].tolist() == [60] * 5 + [500] * 5
