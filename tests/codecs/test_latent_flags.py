"""Flags come back, in few bytes where they come in runs; nothing else is accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcomp.base import CorruptStream
from jaxcomp.codecs.latent_flags import pack_flags, unpack_flags


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_flags_come_back(flags):
    flags = np.array(flags)
    data = pack_flags(flags)
    np.testing.assert_array_equal(unpack_flags(data, len(flags)), flags)
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(CorruptStream, match="expected"):
            unpack_flags(bad, len(flags))


def test_a_run_is_short():
    assert len(pack_flags(np.arange(640) < 300)) <= 8
