"""N:M sparsity: the largest are kept, places and values take what they should."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import layout
from tests.checks import check_leaf

F = jc.formats
W = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)


def pruned(w, n, m):
    padded = np.pad(w, ((0, 0), (0, -w.shape[1] % m))).reshape(w.shape[0], -1, m)
    order = np.argsort(-np.abs(padded), -1, kind="stable")
    mask = np.zeros(padded.shape, bool)
    np.put_along_axis(mask, order[..., :n], True, -1)
    return (padded * mask).reshape(w.shape[0], -1)[:, : w.shape[1]]


@pytest.mark.parametrize(
    "n,m,size,bits", [(2, 4, 64, 17), (1, 4, 64, 8.5), (3, 7, 63, None), (4, 8, 60, None)]
)
def test_keeps_the_largest_in_their_places(n, m, size, bits):
    w = W[:, :size]
    leaf = F.sparse_nm(jnp.asarray(w), n, m, values="float32")
    expected = pruned(w, n, m)
    np.testing.assert_array_equal(check_leaf(leaf), expected)
    placed = leaf.placed(layout((size, 2, 3), (0,)))
    np.testing.assert_array_equal(check_leaf(placed), expected.T.reshape(size, 2, 3))
    if bits:
        assert jc.tree.bits_per_weight(leaf) == bits
    again = F.sparse_nm(leaf.dense(), n, m, values="float32")
    np.testing.assert_array_equal(again.dense(), expected)


def test_kept_values_are_quantised():
    leaf = F.sparse_nm(jnp.asarray(W), 2, 4, values=F.INT4_G32)
    assert jc.tree.bits_per_weight(leaf) == 2 + 1 + 16 / 64  # half of 4, 2 of 2 bits for 4, scales
    dense = check_leaf(leaf)
    assert ((dense != 0) <= (pruned(W, 2, 4) != 0)).all()
    assert np.linalg.norm(dense - pruned(W, 2, 4)) < 0.15 * np.linalg.norm(W)
    assert leaf.describe() == "2:4 int4 g32"


def test_numbers_that_make_no_pattern_are_named():
    with pytest.raises(UnsupportedInput, match="n=5, m=4"):
        F.sparse_nm(jnp.asarray(W), 5, 4)
