"""Two thin factors stand for their product, in every layout, sliced, stacked and rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.layout import layout, to_matrix
from jaxcomp.formats.leaf import repacked
from jaxcomp.formats.low_rank import low_rank

RANK = 3
LAYOUTS = {
    "kernel": ((12, 10), (-2,)),
    "rows": ((10, 12), (-1,)),
    "heads": ((3, 4, 10), (-3, -2)),
    "middle": ((5, 12, 2), (-2,)),
}


def factors(shape, axes, seed=0):
    place = layout(shape, axes)
    rng = np.random.default_rng(seed)
    outer = rng.normal(size=(place.size_out, RANK)).astype(np.float32)
    inner = rng.normal(size=(RANK, place.size_in)).astype(np.float32)
    return jnp.asarray(outer), jnp.asarray(inner), place


@jax.jit
def rounded(outer, inner):
    return low_rank(outer, inner, factors=jc.formats.INT8)


@pytest.mark.parametrize("name", LAYOUTS)
def test_is_the_product_of_its_factors(name):
    outer, inner, place = factors(*LAYOUTS[name])
    leaf = low_rank(outer, inner, factors=jnp.float32).placed(place)
    assert leaf.shape == place.shape and leaf.rank == RANK
    assert leaf.nbytes == 4 * RANK * (place.size_in + place.size_out)
    dense = jax.jit(lambda w: w.dense())(leaf)
    np.testing.assert_allclose(to_matrix(dense, place.axes)[0], outer @ inner, atol=1e-5)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, place.size_in)), jnp.float32)
    free = tuple(place.shape[a] for a in place.free)
    expected = (x @ (outer @ inner).T).reshape(4, *free)
    np.testing.assert_allclose(jax.jit(lambda w: w.matmul(x))(leaf), expected, atol=1e-4)


def test_stacked_matrices_are_sliced_and_multiplied_one_by_one():
    stack = [low_rank(*factors((12, 10), (-2,), seed)[:2]) for seed in (0, 1)]
    stack = [leaf.placed(layout((12, 10), (-2,))) for leaf in stack]
    both = jax.tree.map(lambda *parts: jnp.stack(parts), *stack)
    assert both.shape == (2, 12, 10)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12)), jnp.float32)

    @jax.jit
    def run(both):
        scanned = jax.lax.scan(lambda _, w: (None, w.matmul(x)), None, both)[1]
        return both.dense(), scanned, both.matmul(x)

    dense, scanned, whole = run(both)
    np.testing.assert_array_equal(dense, jnp.stack([leaf.dense() for leaf in stack]))
    np.testing.assert_allclose(scanned, x @ dense, atol=1e-4)
    np.testing.assert_allclose(whole.swapaxes(0, 1), scanned, atol=1e-5)


def test_rounded_factors_are_smaller_and_near():
    outer, inner, place = factors((12, 10), (-2,))
    leaf = rounded(outer, inner).placed(place)
    assert leaf.nbytes == RANK * (10 + 12) + 2 * (10 + RANK)  # codes, bfloat16 scales
    dense = leaf.dense().T
    assert 0 < jnp.abs(dense - outer @ inner).max() < 0.02 * jnp.abs(outer @ inner).max()
    assert leaf.describe() == "rank 3 int8"


def test_factors_that_are_leaves_follow_a_move_of_axes():
    outer, inner, place = factors((5, 12, 2), (-2,))
    leaf = rounded(outer, inner).placed(place)
    parts = jax.tree.map(lambda part: jnp.moveaxis(part, -1, 0), leaf)  # as batching over -1 does
    moved = repacked(parts, lambda axis: axis + 1)
    np.testing.assert_array_equal(moved.dense(), jnp.moveaxis(leaf.dense(), -1, 0))
