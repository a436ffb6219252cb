"""A weight in another basis stands for itself, in every layout; activations round as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.layout import layout, to_matrix
from jaxcomp.formats.low_rank import low_rank
from jaxcomp.formats.sum import Sum
from jaxcomp.formats.transformed import Transformed, rounded, transform, with_activation

rng = np.random.default_rng(0)
LAYOUTS = {
    "kernel": ((24, 10), (-2,)),
    "rows": ((10, 24), (-1,)),
    "heads": ((4, 6, 10), (-3, -2)),
    "middle": ((5, 24, 2), (-2,)),
}
SCALE = jnp.asarray(rng.uniform(0.5, 2, (1, 24)), jnp.bfloat16)
SIGNS = jnp.packbits(jnp.asarray(rng.integers(0, 2, (1, 24)), bool), axis=-1)
X = jnp.asarray(rng.normal(size=(5, 24)), jnp.float32)
INT8 = jc.formats.INT8._replace(scale="float32")


def weight(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@jax.jit
def _moved(matrix):
    return transform(matrix / SCALE.astype(jnp.float32), None, SIGNS[0], rotate=True)


def a_leaf(shape, axes, seed=1, format=INT8):
    matrix, place = to_matrix(weight(shape, seed), axes)
    inner = jc.formats.quantize(_moved(matrix), format, -1)
    return Transformed(inner, SCALE, SIGNS, rotate=True).placed(place)


@pytest.mark.parametrize("name", LAYOUTS)
def test_stands_for_the_weight_in_every_layout(name):
    shape, axes = LAYOUTS[name]
    w, leaf = weight(shape), a_leaf(*LAYOUTS[name])
    place = layout(shape, axes)
    assert leaf.shape == shape and leaf.layout == place
    assert leaf.nbytes == w.size + 4 * place.size_out + 2 * 24 + 3
    dense, product = jax.jit(lambda w: (w.dense(), w.matmul(X)))(leaf)
    np.testing.assert_allclose(dense, w, atol=0.04)  # eight bits
    matrix = to_matrix(dense, axes)[0]
    np.testing.assert_allclose(product.reshape(5, -1), X @ matrix.T, atol=1e-4)
    assert leaf.describe().endswith("/ scaled / rotated")


def test_stacked_matrices_are_scanned_and_looked_up():
    stack = [a_leaf((24, 10), (-2,), seed) for seed in (1, 2)]
    both = jax.tree.map(lambda *parts: jnp.stack(parts), *stack)

    @jax.jit
    def run(both):
        scanned = jax.lax.scan(lambda _, w: (None, w.matmul(X)), None, both)[1]
        return both.dense(), scanned, both.matmul(X)

    dense, scanned, whole = run(both)
    np.testing.assert_allclose(scanned, X @ dense, atol=1e-4)
    np.testing.assert_allclose(whole.swapaxes(0, 1), scanned, atol=1e-5)
    table = a_leaf((10, 24), (-1,))
    lookup = jc.lift(lambda w, i: w[i], strict=True)
    found = lookup(table, jnp.asarray([3, 1]))
    np.testing.assert_allclose(found, table.dense()[jnp.asarray([3, 1])], atol=1e-6)


INTEGERS = (INT8, jc.formats.UINT8, jc.formats.INT4._replace(group=8), jc.formats.TERNARY)


@pytest.mark.parametrize("format", INTEGERS, ids=str)
def test_integers_on_both_sides_multiply_as_integers(format):
    w = weight((24, 10))
    leaf = with_activation(jc.formats.quantize(w, format), "int8")
    got = jax.jit(lambda w, x: w.matmul(x))(leaf, X)
    np.testing.assert_allclose(got, rounded(X, "int8") @ leaf.dense(), atol=1e-4)
    assert jnp.abs(got - X @ leaf.dense()).max() > 1e-3  # x was rounded
    assert leaf.kernel("cpu")[0].endswith(" of integers")
    assert leaf.describe() == f"{format} / x int8"
    text = jax.jit(lambda w, x: w.matmul(x)).lower(leaf, X).as_text()
    assert "i8>" in text and "xi32>" in text


@pytest.mark.parametrize("activation", ["int8", "int4", jc.formats.INT4._replace(group=8)])
def test_rows_are_rounded_to_the_grid_that_spans_them(activation):
    values = jax.jit(lambda x: rounded(x, activation))(X)
    group = 24 if isinstance(activation, str) else 8
    parts, near = X.reshape(5, -1, group), values.reshape(5, -1, group)
    top = 127 if activation == "int8" else 7
    step = jnp.abs(parts).max(-1, keepdims=True) / top
    assert (jnp.abs(parts - near) <= 0.505 * step).all()  # half a step, and a scale in bfloat16
    np.testing.assert_allclose(near / step, jnp.round(near / step), atol=0.05)
    ones = jax.grad(lambda x: rounded(x, activation).sum())(X)
    np.testing.assert_array_equal(ones, jnp.ones_like(X))


def test_each_term_rounds_what_it_multiplies_and_thin_factors_do_not():
    low = low_rank(weight((10, 2)), weight((2, 24)), factors=jnp.float32)
    leaf = Sum((a_leaf((10, 24), (-1,)), low))
    rounding = with_activation(leaf, "int4")
    assert rounding.describe().endswith("/ scaled / rotated / x int4 + rank 2 float32")
    first = leaf.terms[0]
    basis = transform(X, SCALE[0], SIGNS[0], rotate=True)
    expected = first.inner.matmul(rounded(basis, "int4")) + low.matmul(X)
    np.testing.assert_allclose(rounding.matmul(X), expected, atol=1e-4)
    assert with_activation(leaf, None) is leaf


def test_a_format_without_a_scale_per_row_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="scale per row"):
        with_activation(a_leaf((24, 10), (-2,)), "int5")
