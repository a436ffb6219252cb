"""Unstructured sparsity: every entry comes back, at the cheapest gaps, within its capacity."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CapacityError
from jaxcomp.formats.layout import layout
from tests.checks import check_leaf

F = jc.formats
rng = np.random.default_rng(0)


def sparse(out, size, density):
    w = rng.normal(size=(out, size)).astype(np.float32)
    return np.where(rng.random(w.shape) < density, w, 0).astype(np.float32)


@pytest.mark.parametrize("density,bits", [(0.5, 2), (0.1, 5), (0.002, 8)])
def test_entries_come_back_at_the_cheapest_gaps(density, bits):
    w = sparse(8, 600, density)
    leaf = F.sparse_rows(jnp.asarray(w), values="float32")
    np.testing.assert_array_equal(check_leaf(leaf), w)
    assert abs(leaf.bits - bits) <= 1
    others = [F.sparse_rows(jnp.asarray(w), values="float32", gap_bits=b) for b in (1, 4, 8)]
    for other in others:
        np.testing.assert_array_equal(other.dense(), w)
    assert leaf.nbytes <= min(other.nbytes for other in others) * 1.02  # of bytes filled up
    assert density == 0.5 or leaf.nbytes < w.nbytes / 4


def test_empty_rows_other_layouts_and_quantised_values():
    w = sparse(6, 48, 0.2)
    w[1], w[4, :3] = 0, (1, 0, 0)
    leaf = F.sparse_rows(jnp.asarray(w), values=F.INT8)
    dense = check_leaf(leaf)
    assert (dense[1] == 0).all() and np.abs(dense - w).max() < 0.02
    placed = leaf.placed(layout((4, 12, 6), (0, 1)))
    np.testing.assert_array_equal(check_leaf(placed), dense.T.reshape(4, 12, 6))
    empty = F.sparse_rows(jnp.zeros((3, 40)))
    assert (np.asarray(empty.dense()) == 0).all() and empty.nbytes < 3 * 40


def test_capacity_is_fixed_for_stacks():
    w = sparse(4, 64, 0.2)
    options = {"gap_bits": 3, "capacity": 40}
    pair = [F.sparse_rows(jnp.asarray(each), **options) for each in (w, w[::-1])]
    assert pair[0].values.shape == (4, 40) and pair[0].nbytes == pair[1].nbytes
    with pytest.raises(CapacityError, match="capacity of at least"):
        F.sparse_rows(jnp.asarray(w), gap_bits=3, capacity=5)
