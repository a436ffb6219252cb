"""Codes go to the nearest, in every format, layout and stack; with a share, the furthest off do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import format as grids
from jaxcomp.formats.layout import layout
from jaxcomp.weights.recode import recoded

F = jc.formats
rng = np.random.default_rng(0)
run = jax.jit(recoded, static_argnums=2)
UINT3 = F.UINT3_G32._replace(group=16, pad=True, zero="bfloat16")


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("format", [F.INT8, UINT3, F.TERNARY, F.NF4._replace(group=8)], ids=str)
def test_weights_go_to_the_nearest_level_of_their_grid(format):
    leaf = F.quantize(normal(2, 40, 6), format, axes=-2)  # a stack of kernels
    target = leaf.dense() + 0.5 * normal(2, 40, 6)
    found = run(leaf, target, 1.0)
    again = run(found, target, 1.0)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert found.codes.dtype == leaf.codes.dtype and found.codes.shape == leaf.codes.shape
    for part, old in ((found.scales, leaf.scales), (found.zeros, leaf.zeros)):
        jax.tree.map(np.testing.assert_array_equal, part, old)
    # No level of any weight's grid is nearer: all of them, by a leaf that has each as its code.
    grid = grids.levels(format)
    grid = grid[np.isfinite(grid)]
    scales, zeros = F.qtensor.read(leaf.scales, leaf.zeros, format)
    group = 40 if format.group == -1 else format.group
    wide = [
        np.repeat(x, group, 1)[:, :40] for x in (scales, 0 * scales if zeros is None else zeros)
    ]
    every = (grid[:, None, None, None] - wide[1]) * wide[0]
    np.testing.assert_allclose(
        np.abs(found.dense() - target), np.abs(every - target).min(0), atol=1e-5
    )


def test_the_share_that_is_furthest_off_changes():
    leaf = F.quantize(normal(40, 20), F.INT3, axes=-2)
    target = leaf.dense() + 0.5 * normal(40, 20)
    some, every = run(leaf, target, 0.05), run(leaf, target, 1.0)
    old, now, end = (np.asarray(x.dense()) for x in (leaf, some, every))
    changed = now != old
    assert changed.sum() == 40 and (now[changed] == end[changed]).all()
    off = np.abs(target - old)
    assert off[changed].min() >= off[(end != old) & ~changed].max()
    jax.tree.map(np.testing.assert_array_equal, run(leaf, leaf.dense(), 1.0), leaf)


@pytest.mark.parametrize(
    "levels,vector,shared,segments,groups",
    [(16, 4, True, 1, 1), (13, 3, True, 1, 0), (8, 2, False, 2, 4), (300, 4, True, 2, 0)],
)
def test_runs_go_to_the_nearest_vector_of_their_table(levels, vector, shared, segments, groups):
    out, size = 6, 32
    runs = -(-size // vector)
    codes = rng.integers(0, levels, (out, runs))
    table = normal(1 if shared else out, segments, levels, vector)
    scales = jnp.exp2(jnp.asarray(rng.integers(-3, 3, (out, groups)), jnp.float32))
    leaf = F.codebook(
        jnp.asarray(codes), table, scales if groups else None, size=size, kept="float32"
    )
    leaf = leaf.placed(layout((4, 8, out), (0, 1)))
    target = leaf.dense() + 0.5 * normal(4, 8, out)
    found = run(leaf, target, 1.0)
    np.testing.assert_array_equal(found.table, leaf.table)
    wide = np.repeat(scales, size // groups, 1) if groups else np.ones((out, size))
    pad = runs * vector - size
    wide, rows = (
        np.pad(np.asarray(x), ((0, 0), (0, pad))).reshape(out, runs, 1, vector)
        for x in (wide, target.reshape(size, out).T)
    )
    each = np.broadcast_to(table, (out, *table.shape[1:])).repeat(runs // segments, 1)
    least = ((wide * each - rows) ** 2).sum(-1).min(-1).sum()
    assert ((found.dense() - target) ** 2).sum() == pytest.approx(least, rel=1e-4)
    few = run(leaf, target, 0.1).dense() != leaf.dense()
    assert 0 < few.sum() <= round(0.1 * out * runs) * vector


def test_sums_of_stacked_books_come_nearer():
    def one():
        codes = rng.integers(0, 8, (24, 4, 2))
        leaf = F.additive(jnp.asarray(codes), normal(2, 8, 4), jnp.ones(24), size=16)
        return leaf.placed(layout((16, 24), (-2,)))

    leaf = jax.tree.map(lambda *parts: jnp.stack(parts), *(one() for _ in range(3)))
    target = normal(3, 16, 24)
    found = run(leaf, target, 1.0)
    assert found.codes.shape == leaf.codes.shape and found.codes.dtype == leaf.codes.dtype
    off = [float(((x - target) ** 2).sum()) for x in (found.dense(), leaf.dense())]
    assert off[0] < 0.6 * off[1]
    for i in range(3):  # each matrix by its own books
        one = run(jax.tree.map(lambda part, i=i: part[i], leaf), target[i], 1.0)
        np.testing.assert_array_equal(one.dense(), found.dense()[i])
