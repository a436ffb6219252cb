"""Flags come back, in few bytes where they come in runs; nothing else is accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcomp.base import CorruptStream
from jaxcomp.codecs.latent_flags import RUN_BITS, pack_flags, unpack_flags, worth_naming


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


def test_what_costs_less_than_its_name_is_not_named():
    active = np.array([True, False, False, True, False, True, False])
    bits = np.array([90, RUN_BITS / 3, RUN_BITS / 3, 90, RUN_BITS + 1, 90, RUN_BITS - 1])
    named = worth_naming(active, bits)
    np.testing.assert_array_equal(named, [True, True, True, True, False, True, True])
    np.testing.assert_array_equal(worth_naming(active, 9 * bits), active)
