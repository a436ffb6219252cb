"""What training leaves goes through arrays and back; the certain row costs nothing."""

import jax
import numpy as np
import pytest

from jaxcomp import coding
from jaxcomp.codecs.latent_frozen import CERTAIN, from_arrays, to_arrays
from tests.codecs import designs


@pytest.fixture(scope="module")
def frozen():
    return designs.frozen(designs.MEAN_SCALE)


def test_arrays_hold_all_of_it(frozen):
    back = from_arrays(to_arrays(frozen))
    leaves, again = jax.tree.leaves(frozen), jax.tree.leaves(back)
    assert jax.tree.structure(frozen) == jax.tree.structure(back)
    for a, b in zip(leaves, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_is_coded_in_the_certain_row(frozen):
    symbols = np.zeros(1000, np.int32)
    for tables in (frozen.wide, frozen.narrow):
        index = np.full(1000, CERTAIN, np.int32)
        nothing = coding.encode(tables, symbols[:0], index[:0], lanes=16)
        certain = coding.encode(tables, symbols, index, lanes=16, in_parts=True)
        assert coding.to_bytes(certain) == coding.to_bytes(nothing)
        np.testing.assert_array_equal(coding.decode(tables, certain, index), symbols)


def test_what_decodes_is_integer(frozen):
    parts = frozen.prior_integers, frozen.synthesis_integers, frozen.inverse_gains, frozen.wide
    for leaf in jax.tree.leaves(parts):
        assert np.issubdtype(np.asarray(leaf).dtype, np.integer)
