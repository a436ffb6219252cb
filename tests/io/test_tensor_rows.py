"""Arrays are cut into whole rows, and nothing is allocated above the caller's limit."""

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.io.tensor_rows import check_room, cut, make_row


def test_arrays_are_cut_into_whole_rows_where_one_fits():
    f32 = np.dtype(np.float32)
    assert cut((10, 3), f32, 64) == 15  # five rows
    assert cut((2, 5, 7), f32, 64) == 14  # 35 values do not fit: rows of 7
    assert cut((2, 100), f32, 64) == 16 and cut((), f32, 64) == 16  # anywhere
    assert cut((0, 3), f32, 64) == 15
    row = make_row("w", f32, (10, 3), 4, 64)
    assert (row.chunks, row.nbytes, row.block) == (2, 120, (-1, 3))
    assert make_row("w", f32, (2, 5, 7), 0, 64).block == (-1, 7)
    assert make_row("w", f32, (2, 100), 0, 64).block == (-1,)
    with pytest.raises(jc.UnsupportedInput, match="w: expected a dtype among"):
        make_row("w", np.dtype("U3"), (2,), 0, 64)


def test_limits_are_named():
    check_room(5, 5)
    with pytest.raises(
        jc.UnsupportedInput, match=r"at most 5 bytes of arrays, got 6; .*max_nbytes"
    ):
        check_room(6, 5)
