"""Tables of k-means: every different vector is found, and values count by their weights."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.formats.k_means import in_chunks, k_means, nearest

means = jax.jit(k_means, static_argnames="levels")
rng = np.random.default_rng(0)


def error(x, weights, table):
    off = x[:, None] - np.asarray(table)
    return float((weights[:, None] * off**2).sum(-1).min(1).sum())


def test_different_vectors_are_all_found():
    table = rng.normal(size=(16, 3)).astype(np.float32)
    x = table[rng.permutation(np.r_[:16, [3] * 200])]  # 15 of them once
    found = means(jnp.asarray(x), jnp.ones(x.shape), 16)
    np.testing.assert_allclose(np.sort(found, 0), np.sort(table, 0), rtol=1e-5)
    codes = jax.jit(nearest)(x, jnp.ones(x.shape), found)
    np.testing.assert_allclose(np.asarray(found)[codes], x, rtol=1e-5)


def test_values_that_weigh_more_are_nearer():
    x = rng.normal(size=(400, 4)).astype(np.float32)
    weights = (10.0 ** rng.integers(-2, 2, (400, 4))).astype(np.float32)
    plain, weighted = means(x, jnp.ones(x.shape), 16), means(x, weights, 16)
    assert error(x, weights, weighted) < 0.7 * error(x, weights, plain)
    off = x[:, None] - np.asarray(weighted)
    expected = (weights[:, None] * off**2).sum(-1).argmin(1)
    np.testing.assert_array_equal(jax.jit(nearest)(x, weights, weighted), expected)
    # A value without weight, as of what only fills up, is as good as absent.
    silent = weights.copy()
    silent[:, 3] = 0
    other = np.where(silent == 0, 99, x)
    np.testing.assert_allclose(means(other, silent, 16)[:, :3], means(x, silent, 16)[:, :3])


def test_chunks_are_the_whole():
    x = jnp.arange(14.0).reshape(7, 2)
    found = jax.jit(lambda x: in_chunks(lambda each: each[0].sum(1), (x,), 3))(x)
    np.testing.assert_array_equal(found, x.sum(1))
