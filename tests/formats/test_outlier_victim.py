"""Pairs of codes say what they should, and each pair is coded in the best of all ways."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT4
from jaxcomp.formats.layout import layout
from jaxcomp.formats.outlier_victim import OUTLIERS, OutlierVictim, decode, encode, outlier_victim
from tests.checks import check_leaf

rng = np.random.default_rng(0)
encoded, decoded = jax.jit(encode), jax.jit(decode)
GRID = np.array(
    [pair for pair in itertools.product(range(-7, 8), repeat=2)]
    + [pair for far in OUTLIERS for x in (far, -far) for pair in ((x, 0), (0, x))],
    np.float32,
)


def test_every_pair_is_coded_and_read_back():
    codes, values = encoded(GRID)
    np.testing.assert_array_equal(values, GRID)
    np.testing.assert_array_equal(decoded(codes), GRID)
    assert len({tuple(pair) for pair in np.asarray(codes).tolist()}) == len(GRID) == 253
    assert not (np.asarray(codes) == 0).all(1).any()


def test_pairs_are_coded_as_the_nearest_of_all():
    u = (rng.standard_t(2, (253, 2)) * 6).astype(np.float32)
    u[0] = 40.0
    codes, values = encoded(u)
    least = ((u[:, None] - GRID) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(((values - u) ** 2).sum(1), least, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(decoded(codes), values)
    assert values[0, 0] > 0 == codes[0, 1]  # in a tie the even one wins


def test_leaves_of_any_layout_pack_exactly():
    w = jnp.asarray(rng.standard_t(3, (6, 21)), jnp.float32)  # odd: the last pair is short
    made = outlier_victim(w, INT4)
    low, high = np.asarray(made.codes) & 15, np.asarray(made.codes) >> 4  # half a tile apart
    codes = np.concatenate([low, high], 1)
    expected = np.asarray(decoded(codes)) * np.asarray(made.scales, np.float32)
    assert made.nbytes == 6 * (11 + 2) and made.shape == (6, 21)
    dense = check_leaf(made)
    assert made.format.tile == 22
    np.testing.assert_array_equal(dense, expected[:, :21])
    assert np.abs(dense - w)[:, -1].max() < 0.5 * np.abs(w).max()
    leaf = made.placed(layout((2, 21, 3), (-2,)))
    np.testing.assert_array_equal(leaf.dense(), dense.reshape(2, 3, 21).swapaxes(1, 2))
    assert isinstance(leaf, OutlierVictim) and leaf.kernel("cpu") == ("blocked lax", "")


def test_what_has_no_pairs_is_refused():
    with pytest.raises(UnsupportedInput, match="4 bits"):
        outlier_victim(jnp.ones((2, 4)), jc.formats.INT3)
    with pytest.raises(UnsupportedInput, match="scale per output"):
        outlier_victim(jnp.ones((2, 4)), INT4._replace(group=None))
