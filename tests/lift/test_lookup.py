"""Rows of packed tables, by every form of indexing, and a matrix for each group of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from tests.lift.cases import check_law, dense, normal, rows, scaled

TOKENS = np.array([[0, 4, 2], [1, 1, 3]])
LOOKUPS = {
    "rows": ((5, 8), lambda w, t: w[t]),
    "take": ((5, 8), lambda w, t: jnp.take(w, t, 0)),
    "take columns": ((8, 5), lambda w, t: jnp.take(w, t, 1)),
    "columns of the transposed": ((5, 8), lambda w, t: w.T[:, t]),
    "one row": ((5, 8), lambda w, t: w[t[0, 0]] + w[3]),
    "half floats": ((5, 8), lambda w, t: w.astype(jnp.bfloat16)[t]),
    "one of a stack": ((2, 5, 8), lambda w, t: w[1][t]),
    "along two axes": ((2, 5, 8), lambda w, t: w[t % 2, t]),
    "two axes apart": ((2, 8, 5), lambda w, t: w[t % 2, :, t]),
    "a table each": ((2, 5, 8), lambda w, t: jax.vmap(lambda w, t: w[t])(w, t)),
    "the same for each": ((5, 8), lambda w, t: jax.vmap(lambda t: w[t])(t)),
    "tables in the middle": ((5, 2, 8), lambda w, t: jax.vmap(lambda w, t: w[t], (1, 0))(w, t)),
    "heads": ((5, 8), lambda w, t: w.reshape(5, 2, 4)[t]),
    "slices": ((5, 8), lambda w, t: jax.vmap(lambda i: lax.dynamic_slice(w, (i, 3), (1, 8)))(t[0])),
    "a part of an axis": ((15, 8), lambda w, t: w.reshape(3, 5, 8)[:, t]),
    "one entry": ((1, 8), lambda w, t: w[t * 0]),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", LOOKUPS)
def test_rows_are_taken_from_a_packed_table(name, shared):
    shape, fn = LOOKUPS[name]
    axis = shape.index(8) - len(shape)
    table = scaled(*shape, axes=(axis,), shared=shared)
    made = [""] if name == "one row" else []  # a single row is a view, which an addition needs
    check_law(fn, table, TOKENS, materialised=made)


@pytest.mark.parametrize("mode", ["fill", "clip", "wrap"])
def test_rows_outside_are_what_the_mode_says(mode):
    def fn(w, t):
        return jnp.take(w, t, 0, mode=mode), jnp.take(w, t, 0, mode=mode, fill_value=7)

    table, outside = scaled(5, 8, axes=(-1,)), np.array([[-6, -5, -1], [0, 5, 99]])
    got, expected = jax.jit(lambda w, t: (jc.lift(fn)(w, t), fn(dense(w), t)))(table, outside)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.isnan(got[0]).any() == (mode == "fill")


NO_LOOKUPS = {
    "along the packed axis": lambda w, t: w[:, t],
    "along both": lambda w, t: w[t, t],
    "of windows": lambda w, t: jax.vmap(lambda i: lax.dynamic_slice(w, (i, 0), (1, 4)))(t[0]),
    "an index itself": lambda w, t: t.reshape(-1)[w[0].astype(int)],
}


@pytest.mark.parametrize("name", NO_LOOKUPS)
def test_what_is_no_lookup_of_rows_is_made_dense(name):
    table = scaled(5, 8, axes=(-1,))
    check_law(NO_LOOKUPS[name], table, jnp.asarray(TOKENS), materialised=[""])
    assert rows(lambda w, t: w[t], table, TOKENS) == {("", "gather"): "take"}


def test_a_tied_table_is_looked_up_and_multiplied_by():
    def fn(w, t):
        return jnp.einsum("btd,vd->btv", jnp.tanh(w[t]), w)

    found = check_law(fn, scaled(5, 8, axes=(-1,)), TOKENS)
    assert [row.ran for row in found.rows] == ["take", "scaled on cpu"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ragged_products_take_one_packed_matrix_at_a_time(dtype):
    def fn(w, x, sizes):
        return lax.ragged_dot(x, w.astype(x.dtype), sizes)

    x, sizes = normal(7, 8, dtype=dtype), jnp.array([2, 0, 4])  # a row is left over
    found = check_law(
        fn, scaled(3, 8, 6), x, sizes, tolerance=1e-5 if dtype == jnp.float32 else 2**-7
    )
    assert [row.ran for row in found.rows] == ["one matrix at a time"]
    check_law(fn, scaled(3, 8, 6, axes=(-1,)), x, sizes, materialised=[""], tolerance=2**-7)


def test_ragged_products_ask_for_wider_results_and_share_scales():
    def fn(w, x, sizes):
        return lax.ragged_dot(x, w.astype(x.dtype), sizes, preferred_element_type=jnp.float32)

    check_law(fn, scaled(3, 8, 6, shared=True), normal(7, 8), jnp.array([2, 1, 4]))
