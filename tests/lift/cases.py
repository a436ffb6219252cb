"""A small compressed leaf that compiles at once, and the law of lift on one function."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.formats.layout import layout, merged_axis, unmerge
from jaxcomp.formats.leaf import Leaf, is_leaf, leaf_class, map_leading, static

QUICK = {"xla_backend_optimization_level": 0}  # each program runs once


@leaf_class
class Scaled(Leaf):
    """int8 codes times a scale per output: what QTensor does, in one product."""

    codes: Any
    scales: Any
    dtype: Any = static()
    packed: Any = static()

    def dense(self):
        return unmerge(self.codes * self.scales, self.packed).astype(self.dtype)

    def matmul(self, x):
        axis = self.codes.ndim + merged_axis(self.packed)
        if 0 < axis < self.codes.ndim - 1:
            return map_leading(lambda w: w.matmul(x), self, out_axis=1)
        scales = jnp.squeeze(self.scales, axis)
        out = jnp.tensordot(x.astype(jnp.float32), self.codes.astype(jnp.float32), ((1,), (axis,)))
        return (out * scales).astype(x.dtype)

    def describe(self):
        return "scaled"

    def kernel(self, platform, dtype=None):
        return f"scaled on {platform}", ""


def scaled(*shape, axes=(-2,), dtype=jnp.float32, seed=0, shared=False):
    """A Scaled of random integers; with `shared`, one scale for all."""
    rng = np.random.default_rng([seed, *shape])
    place = layout(shape, axes)
    matrix = rng.integers(-8, 8, (place.size_out, place.size_in)).astype(np.int8)
    scales = rng.uniform(0.5, 2, (1 if shared else len(matrix), 1)) / math.sqrt(place.size_in) / 4

    def placed(part):  # as layout.from_matrix, without a program for each shape
        free = [place.shape[a] if len(part) > 1 else 1 for a in place.free]
        part = part.reshape(*free, part.shape[1])
        return jnp.asarray(np.moveaxis(part, -1, merged_axis(place.packed)))

    return Scaled(placed(matrix), placed(scales.astype(np.float32)), dtype, place.packed)


def normal(*shape, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), dtype)


def dense(tree):
    """The tree with dense arrays in place of compressed leaves."""
    return jax.tree.map(lambda x: x.dense() if is_leaf(x) else x, tree, is_leaf=is_leaf)


def rows(fn, *args, **kwargs):
    """{(path, operation): what ran} of a report."""
    found = jc.lift(fn).report(*args, **kwargs).rows
    return {(row.path, row.operation): row.ran for row in found}


def check_law(fn, *args, materialised=(), tolerance=1e-5):
    """lift(fn) on compressed leaves is fn on their dense arrays, to rounding, in every dtype.

    materialised: the paths of leaves that are made dense; by default none.
    """
    found = jc.lift(fn).report(*args)
    assert {row.path for row in found.materialised} == set(materialised), f"\n{found}"

    def both(args):
        return jc.lift(fn)(*args), fn(*dense(args))

    got, expected = jax.jit(both, compiler_options=QUICK)(args)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-30, np.nanmax(np.abs(b))))
    return found
