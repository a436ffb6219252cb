"""Layouts: any axes of any shape become a matrix [out, in], and packed arrays come back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import (
    from_matrix,
    layout,
    logical_shape,
    merged_axis,
    to_matrix,
    unmerge,
)

CASES = [
    ((6, 4), (-2,)),
    ((4, 6), (-1,)),
    ((2, 3, 5), (0, 1)),
    ((2, 3, 5), (-2,)),
    ((2, 2, 3, 5), (0, 1, 2)),
    ((3, 4, 5, 2), (0, 2)),
]


@pytest.mark.parametrize("shape,axes", CASES)
def test_matrices_come_back(shape, axes):
    w = np.arange(np.prod(shape)).reshape(shape)
    matrix, place = to_matrix(jnp.asarray(w), axes)
    assert matrix.shape == (place.size_out, place.size_in)
    packed = from_matrix(matrix, place)
    assert packed.shape[merged_axis(place.packed)] == place.size_in
    assert logical_shape(packed.shape, place.packed) == shape
    np.testing.assert_array_equal(unmerge(packed, place.packed), w)
    # A row of the matrix is what a product sums over.
    first = np.moveaxis(w, axes, range(-len(axes), 0)).reshape(-1, place.size_in)[0]
    np.testing.assert_array_equal(matrix[0], first)


def test_what_outputs_share_keeps_size_one():
    place = layout((2, 3, 5), (0, 1))
    assert from_matrix(jnp.zeros((1, 7)), place).shape == (7, 1)
    assert from_matrix(jnp.zeros((5, 7)), place).shape == (7, 5)


def test_leading_axes_come_and_go():
    place = layout((7, 2, 3, 5), (1, 2))
    assert place.packed == ((-3, 2), (-2, 3)) == layout((2, 3, 5), (0, 1)).packed
    packed = jnp.zeros((7, 6, 5))
    assert logical_shape(packed.shape, place.packed) == (7, 2, 3, 5)
    assert logical_shape(packed[0].shape, place.packed) == (2, 3, 5)


@pytest.mark.parametrize("axes", [(), (2,), (-3,), (0, -2)])
def test_wrong_axes_are_named(axes):
    with pytest.raises(UnsupportedInput, match="name"):
        layout((3, 4), axes)


@pytest.mark.parametrize("shape", [(64, 0), (0, 32)])
def test_weights_without_values_are_named(shape):
    with pytest.raises(UnsupportedInput, match="expected a weight with values"):
        layout(shape, -2)
