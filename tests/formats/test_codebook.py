"""Codebooks: shared, per output and per segment; what they stand for and what they cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import layout
from tests.checks import check_leaf, check_lift

F = jc.formats
rng = np.random.default_rng(0)
OUT, SIZE = 6, 32


def case(levels, vector, shared, segments, groups=0):
    """(leaf, the matrix by NumPy) of random codes and tables that bfloat16 holds."""
    codes = rng.integers(0, levels, (OUT, SIZE // vector))
    table = rng.integers(-99, 99, (shared, segments, levels, vector)).astype(np.float32)
    scales = 2.0 ** rng.integers(-3, 3, (OUT, groups)) if groups else None
    tables = np.broadcast_to(table, (OUT, *table.shape[1:]))
    w = np.zeros((OUT, SIZE), np.float32)
    for o in range(OUT):
        for v in range(SIZE // vector):
            segment = v // (SIZE // vector // segments)
            w[o, v * vector : (v + 1) * vector] = tables[o, segment, codes[o, v]]
    if groups:
        w *= np.repeat(scales, SIZE // groups, 1)
        scales = jnp.asarray(scales, jnp.float32)
    return F.codebook(jnp.asarray(codes), jnp.asarray(table), scales, size=SIZE), w


@pytest.mark.parametrize(
    "levels,vector,shared,segments,groups",
    [(16, 4, 1, 1, 0), (13, 1, OUT, 1, 0), (256, 2, 1, 4, 2), (8, 2, OUT, 2, 1), (300, 4, 1, 1, 4)],
)
def test_vectors_are_looked_up(levels, vector, shared, segments, groups):
    leaf, w = case(levels, vector, shared, segments, groups)
    np.testing.assert_array_equal(check_leaf(leaf), w)
    place = layout((4, 8, OUT), (0, 1))
    placed = leaf.placed(place)
    np.testing.assert_array_equal(check_leaf(placed), w.T.reshape(4, 8, OUT))
    bits = {16: 4, 13: 4, 256: 8, 8: 3, 300: 16}[levels]
    row = SIZE // vector * bits / 8
    expected = OUT * (row + 2 * groups) + 2 * shared * segments * levels * vector
    assert leaf.nbytes == placed.nbytes == expected


@pytest.mark.parametrize("levels,vector,segments,groups", [(8, 1, 1, 1), (13, 2, 4, 2)])
def test_outputs_choose_among_tables(levels, vector, segments, groups):
    codes = rng.integers(0, levels, (OUT, SIZE // vector))
    table = rng.integers(-99, 99, (3, segments, levels, vector)).astype(np.float32)
    choices = np.array([2, 0, 1, 1, 0, 2])
    scales = 2.0 ** rng.integers(-3, 3, (OUT, groups)).astype(np.float32)
    one_each = F.codebook(*map(jnp.asarray, (codes, table[choices], scales)), size=SIZE)
    leaf = F.codebook(*map(jnp.asarray, (codes, table, scales, choices)), size=SIZE)
    np.testing.assert_array_equal(check_leaf(leaf), one_each.dense())
    # The tables have room for all codes; each output has a byte more.
    room = 1 << (levels - 1).bit_length()
    expected = one_each.nbytes - one_each.table.nbytes + OUT + 2 * 3 * segments * room * vector
    assert leaf.nbytes == expected and leaf.describe().endswith("of 3 tables")
    placed = leaf.placed(layout((4, 8, OUT), (0, 1)))
    np.testing.assert_array_equal(check_leaf(placed), one_each.dense().T.reshape(4, 8, OUT))
    np.testing.assert_array_equal(
        F.take(leaf, jnp.array([4, 0])), one_each.dense()[jnp.array([4, 0])]
    )
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), leaf, leaf)
    np.testing.assert_array_equal(check_leaf(stack), np.stack([leaf.dense()] * 2))

    def loss(table):
        return jnp.sum(dataclasses.replace(leaf, table=table).matmul(jnp.ones((1, SIZE))))

    assert (np.asarray(jax.grad(loss)(leaf.table), np.float32) != 0).any()


def test_stacked_matrices_keep_their_tables():
    pairs = [case(16, 4, 1, 1, 1) for _ in range(3)]
    leaf = jax.tree.map(lambda *parts: jnp.stack(parts), *(leaf for leaf, _ in pairs))
    np.testing.assert_array_equal(check_leaf(leaf), np.stack([w for _, w in pairs]))


def test_rows_are_taken():
    leaf, w = case(16, 4, 1, 1, 1)
    np.testing.assert_array_equal(F.take(leaf, jnp.array([4, 0])), w[[4, 0]])


def test_what_does_not_fit_is_named():
    with pytest.raises(UnsupportedInput, match="expected 8 vectors of 4"):
        F.codebook(jnp.zeros((3, 7), jnp.int32), jnp.zeros((16, 4)), size=32)
    with pytest.raises(UnsupportedInput, match="up to 256 to choose from, got 8 and 257"):
        tables, choices = jnp.zeros((257, 1, 4, 4)), jnp.zeros(3, jnp.int32)
        F.codebook(jnp.zeros((3, 8), jnp.int32), tables, choices=choices, size=32)
    with pytest.raises(UnsupportedInput, match="at most 65536 levels"):
        F.codebook(jnp.zeros((3, 8), jnp.int32), jnp.zeros((65537, 4)), size=32)


def test_lifted_functions_scan_look_up_and_multiply_codebooks():
    params = {"table": case(16, 4, 1, 1, 1)[0]}
    stack = [case(16, 2, 1, 1, 0)[0] for _ in range(3)]
    stack = [leaf.placed(layout((SIZE, OUT), (-2,))) for leaf in stack]
    params["layers"] = jax.tree.map(lambda *p: jnp.stack(p), *stack)

    def fn(params, tokens):
        x = params["table"][tokens] / 100

        def layer(x, w):
            y = jnp.tanh(x @ w / 100)
            return y @ params["table"] / 100, y

        return jax.lax.scan(layer, x, params["layers"])

    report = check_lift(fn, params, jnp.array([[0, 5, 2]]))
    assert not report.materialised and len(report.rows) == 3
