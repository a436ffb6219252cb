"""Some inputs of a weight, the others zero: in every layout, stacked, and by its bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.layout import layout, to_matrix
from jaxcomp.formats.selected import selected
from tests.checks import check_leaf

KEPT = jnp.asarray([1, 2, 5, 11])


def a_leaf(shape, axes, seed=0):
    place = layout(shape, axes)
    values = jnp.asarray(np.random.default_rng(seed).normal(size=(10, 4)), jnp.float32)
    inner = jc.formats.quantize(values, jc.formats.INT8, -1)
    return selected(inner, (KEPT + seed) % 12, 12).placed(place), inner.dense()


@pytest.mark.parametrize(
    ("shape", "axes"), [((12, 10), (-2,)), ((3, 4, 10), (-3, -2)), ((5, 12, 2), (-2,))]
)
def test_other_inputs_are_zero(shape, axes):
    leaf, values = a_leaf(shape, axes)
    expected = jnp.zeros((10, 12)).at[:, KEPT].set(values)
    np.testing.assert_array_equal(to_matrix(jnp.asarray(check_leaf(leaf)), axes)[0], expected)
    assert leaf.nbytes == 10 * 4 + 10 * 2 + 4 * 2
    assert leaf.describe() == "int8 per channel of 4/12 inputs"


def test_stacked_matrices_keep_inputs_of_their_own():
    stack = [a_leaf((12, 10), (-2,), seed)[0] for seed in (0, 1)]
    both = jax.tree.map(lambda *parts: jnp.stack(parts), *stack)
    dense = check_leaf(both)
    np.testing.assert_array_equal(dense, [leaf.dense() for leaf in stack])
